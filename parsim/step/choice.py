"""Which algorithm a collective over an axis runs by: the stack's, or by size and span.  All readers of a Step ask here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parsim.collectives import ClosedForms, Collective
from parsim.collectives.placed import choose_on
from parsim.step.sizes import Ints, Sizes

if TYPE_CHECKING:
    from parsim.step.timing import Market


def closed_forms(operation: str, axis: str, payload_bytes: Ints, sizes: Sizes, market: Market) -> ClosedForms:
    """The counts of a collective over `axis`, one value per plan; `payload_bytes` as in `choose`."""
    num_ranks, stride = sizes.group(axis)
    named = market.stack.collectives.get(operation)
    return choose_on(market.cluster, operation, num_ranks=num_ranks, stride=stride, payload_bytes=payload_bytes, algorithm=named)


def algorithm(operation: str, axis: str, payload_bytes: int, sizes: Sizes, market: Market, *, num_ranks: int | None = None) -> Collective:
    """The algorithm of the only plan; `num_ranks` where fewer than the whole group take part."""
    ranks, stride = (int(each[0]) for each in sizes.group(axis))
    named = market.stack.collectives.get(operation)
    return choose_on(market.cluster, operation, num_ranks=num_ranks or ranks, stride=stride, payload_bytes=payload_bytes, algorithm=named)
