"""ZB-V: a V of two chunks a rank without a bubble where forward and both halves of the backward take as long as one another.

A rank holds p micro_batches of a whole stage at most, as 1F1B does on rank 0.  Source: Qi et al. 2023 (arXiv:2401.10241), section 6;
the order is that of pytorch/pytorch, torch/distributed/pipelining/schedules.py, ScheduleZBVZeroBubble.
"""

from __future__ import annotations

from parsim.cluster.scalars import Ints
from parsim.schedules import SCHEDULES
from parsim.schedules.v_shaped import DF, DI, DW, UF, UI, UW, VShaped, in_order


class ZeroBubbleV(VShaped):
    """Two chunks a rank; the paper's B is I here."""

    source = "Qi et al. 2023 (arXiv:2401.10241), section 6"
    steady_rounds = 4

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """The same order for any number: what a full pipeline runs beyond the last micro_batch is left out."""
        turns = _turns(rank, num_ranks, max(2 * num_ranks - 1, num_micro_batches))
        return in_order(turns, (rank, 2 * num_ranks - 1 - rank), num_micro_batches)


def _turns(rank: int, p: int, count: int) -> list[int]:
    ahead = 2 * (p - rank) - 1
    warm_up = [DF] * ahead + [UF, DF] * rank + [UF, UI, UW] * (p - rank)
    steady = [DF, DI, DW, UF, UI, UW] * (count - ahead - rank) + [DI, DW, UF, UI, UW] * (p - rank - 1)
    return warm_up + steady + [DI, UI] * rank + [DI, DW] * (p - rank) + [UW] * rank + [DW] * rank


SCHEDULES.register("zero_bubble_v", ZeroBubbleV())
