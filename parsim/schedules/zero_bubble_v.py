"""ZB-V: a V of two chunks a rank without a bubble where forward and both halves of the backward take as long as one another.

A rank holds p micro_batches of a whole stage at most, as 1F1B does on rank 0.  Source: Qi et al. 2023 (arXiv:2401.10241), section 6;
the order is that of pytorch/pytorch, torch/distributed/pipelining/schedules.py, ScheduleZBVZeroBubble.
"""

from __future__ import annotations

from collections.abc import Iterator

from parsim.schedules import SCHEDULES, Action
from parsim.schedules.phase import SPLIT
from parsim.schedules.v_shaped import Turn, VShaped, in_order

F, I, W = SPLIT  # noqa: E741


class ZeroBubbleV(VShaped):
    """Two chunks a rank; the paper's B is I here."""

    source = "Qi et al. 2023 (arXiv:2401.10241), section 6"
    steady_rounds = 4

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        """The same order for any number: what a full pipeline runs beyond the last micro_batch is left out."""
        return in_order(_turns(rank, num_ranks, max(2 * num_ranks - 1, num_micro_batches)), num_micro_batches)


def _turns(rank: int, p: int, count: int) -> Iterator[Turn]:
    down, up = rank, 2 * p - 1 - rank
    yield from ((down, F),) * (2 * (p - rank) - 1)
    yield from ((up, F), (down, F)) * rank
    yield from ((up, F), (up, I), (up, W)) * (p - rank)
    ahead = count - (2 * p - rank - 1)  # forwards down the V that are left
    for turn in range(count - p):
        yield from ((down, F),) if turn < ahead else ()
        yield from ((down, I), (down, W), (up, F), (up, I), (up, W))
    yield from ((down, I), (up, I)) * rank
    yield from ((down, I), (down, W)) * (p - rank)
    yield from ((up, W),) * rank
    yield from ((down, W),) * rank


SCHEDULES.register("zero_bubble_v", ZeroBubbleV())
