"""Exchanges with experts by nodes, as a stack says: which items go where, a value a plan.  All readers of a Step ask here."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from parsim.cluster.network import placement
from parsim.cluster.scalars import distinct_rows
from parsim.collectives.by_node import ByNode, ports_of
from parsim.cost.cost_model import CostModel
from parsim.cost.sizes import Ints, Sizes
from parsim.model.dims import TOKEN_DIMS
from parsim.parallel.plan import ALL_TO_ALL, PER_NODE
from parsim.parallel.sharding import Sharding
from parsim.step.task import Collective, Operand, Task


class SlotExchanges(Struct, frozen=True):
    """Those of a task: the kinds that some plans have, which of them each has, and the elements of an item on a rank."""

    kinds: tuple[ByNode, ...]
    which: Ints
    elements: Ints

    def sent_elements(self, position: int | Ints) -> tuple[Ints, Ints]:
        """Elements that the rank at a position sends inside its node, and between nodes."""
        where = np.broadcast_to(position, self.which.shape)
        ports = [ports_of(each.exchange) for each in self.kinds]
        places = list(zip(self.which, where, strict=True))
        inside, between = ([getattr(ports[kind], side)[place] for kind, place in places] for side in ("sent", "sent_between"))
        return np.array(inside, dtype=np.int64) * self.elements, np.array(between, dtype=np.int64) * self.elements

    def busiest(self) -> tuple[Ints, Ints]:
        """Elements through the busiest port inside a node, and between nodes."""
        found = np.array([ports_of(each.exchange).busiest for each in self.kinds], dtype=np.int64)[self.which]
        return found[:, 0] * self.elements, found[:, 1] * self.elements


def exchanges_of(task: Task, sizes: Sizes, model: CostModel) -> SlotExchanges | None:
    """None of a task that is no such exchange."""
    if not isinstance(task, Collective) or task.operation != "all_to_all" or model.stack.dispatch == ALL_TO_ALL:
        return None
    source, target = task.source, task.target
    if not isinstance(source, Operand) or not isinstance(target, Operand) or source.dims[0] not in "OX":
        return None
    to_experts = task.split == 0
    chosen = (source if to_experts else target).sharding  # where all slots are together
    is_vector = bool(set(source.dims) - TOKEN_DIMS)
    slots = sizes.slots[chosen.loads]
    items = slots.tokens if model.stack.dispatch == PER_NODE and is_vector else tuple(range(len(slots.tokens)))
    ranks = sizes.num_ranks(task.group)
    inside, _ = placement(model.cluster.node.devices_per_node, ranks, sizes.stride(task.group), model.cluster.num_nodes)
    first, which = distinct_rows([ranks, inside.astype(np.int64)], sizes.num_plans)
    kinds = tuple(ByNode.of(slots.by_rank(items, int(ranks[plan])), int(inside[plan]), to_experts=to_experts) for plan in first)
    return SlotExchanges(kinds, which, sizes.elements(Sharding(chosen.dims[1:], chosen.axes[1:])))
