"""GPipe: all forwards, then all backwards.  Every micro_batch is in flight at the turn; the bubble is that of 1F1B, (p - 1) / m."""

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.schedules import SCHEDULES, Schedule


class GPipe(Schedule):
    """One chunk a rank; the last micro_batch goes backward first, as in the paper's figure 2."""

    source = "Huang et al. 2019 (GPipe, arXiv:1811.06965), section 2.3"
    falls = True

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """Forward in order, backward in the opposite order."""
        place = np.arange(2 * num_micro_batches)
        is_backward = place // num_micro_batches
        return np.stack([np.full_like(place, rank), is_backward, np.where(is_backward, place[::-1], place)])


SCHEDULES.register("gpipe", GPipe())
