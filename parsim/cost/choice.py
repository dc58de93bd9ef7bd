"""Which algorithm a collective of a group runs by: the stack's, or by size and span.  All readers of a Step ask here."""

from __future__ import annotations

from parsim.collectives import ClosedForms, CollectiveAlgorithm
from parsim.collectives.placed import choose_on
from parsim.cost.cost_model import CostModel
from parsim.cost.sizes import Ints, Sizes
from parsim.parallel.group import Group


def closed_forms(operation: str, group: Group, payload_bytes: Ints, sizes: Sizes, model: CostModel) -> ClosedForms:
    """The counts of a collective of a group, one value per plan; `payload_bytes` as in `choose`."""
    ranks, stride = sizes.num_ranks(group), sizes.stride(group)
    named = model.stack.collectives.get(operation)
    return choose_on(model.cluster, operation, num_ranks=ranks, stride=stride, payload_bytes=payload_bytes, algorithm=named)


def algorithm(operation: str, group: Group, payload_bytes: int, sizes: Sizes, model: CostModel) -> CollectiveAlgorithm:
    """The algorithm of the only plan."""
    ranks, stride = int(sizes.num_ranks(group)[0]), int(sizes.stride(group)[0])
    named = model.stack.collectives.get(operation)
    return choose_on(model.cluster, operation, num_ranks=ranks, stride=stride, payload_bytes=payload_bytes, algorithm=named)
