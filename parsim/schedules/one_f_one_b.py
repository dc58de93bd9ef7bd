"""1F1B: after a warm-up of p - 1 - rank forwards, one forward and one backward in turn; at most p micro_batches are in flight."""

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.schedules import SCHEDULES, Schedule, in_turn


class OneFOneB(Schedule):
    """One chunk a rank."""

    source = "Narayanan et al. 2019 (PipeDream, SOSP) with the flush of Narayanan et al. 2021 (arXiv:2104.04473), section 2.2.1"
    falls = True
    steady_rounds = 2

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """Backward m follows forward m + p - 1 - rank: warm-up, steady state, cool-down."""
        phase, m = in_turn(num_micro_batches, (rank + 1 - num_ranks, 0))
        return np.stack([np.full_like(m, rank), phase, m])


SCHEDULES.register("1f1b", OneFOneB())
