"""ZB-H1: 1F1B with the backward in two, where the weights' half waits until a rank has nothing better to do.

A rank's weight gradients lag `rank` micro_batches behind, so that p are in flight on every rank, as many as 1F1B holds on rank 0: p - rank
wait for their backward and `rank` for their weight gradients only.  The bubble is (p - 1) (T_F + T_I - T_W) for m >= p and 1F1B's is
(p - 1) (T_F + T_I + T_W): a third of it where all three take as long.  Source: Qi et al. 2023 (arXiv:2401.10241), section 2.3, table 2.
"""

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.schedules import SCHEDULES, Schedule, in_turn
from parsim.schedules.phase import SPLIT


class ZeroBubbleH1(Schedule):
    """One chunk a rank; the paper's B is I here."""

    source = "Qi et al. 2023 (arXiv:2401.10241), section 2.1"
    steady_rounds = 2
    phases = SPLIT

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """Backward of inputs m follows forward m + p - 1 - rank, and comes before the backward of weights m - rank."""
        phase, m = in_turn(num_micro_batches, (rank + 1 - num_ranks, 0, rank))
        return np.stack([np.full_like(m, rank), phase, m])


SCHEDULES.register("zero_bubble_h1", ZeroBubbleH1())
