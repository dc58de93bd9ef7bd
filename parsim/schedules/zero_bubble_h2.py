"""ZB-H2: ZB-H1 with twice the warm-up, which leaves no bubble where all phases take as long, for twice the activations.

2 p - 1 micro_batches are in flight on every rank.  Source: Qi et al. 2023 (arXiv:2401.10241), section 2.2, table 2.
"""

from __future__ import annotations

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.schedules import SCHEDULES, Schedule, in_turn
from parsim.schedules.phase import SPLIT


class ZeroBubbleH2(Schedule):
    """One chunk a rank; the paper's B is I here."""

    source = "Qi et al. 2023 (arXiv:2401.10241), section 2.2"
    steady_rounds = 3
    phases = SPLIT

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """Backward of inputs m follows forward m + 2 (p - 1 - rank), and comes before the backward of weights m - 2 rank."""
        phase, m = in_turn(num_micro_batches, (2 * (rank + 1 - num_ranks), 0, 2 * rank))
        return np.stack([np.full_like(m, rank), phase, m])


SCHEDULES.register("zero_bubble_h2", ZeroBubbleH2())
