"""GPipe: all forwards, then all backwards.  Every micro_batch is in flight at the turn; the bubble is that of 1F1B, (p - 1) / m."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parsim.schedules import SCHEDULES, Action, Ints, Phase, Schedule, one_chunk


class GPipe(Schedule):
    """One chunk a rank; the last micro_batch goes backward first, as in the paper's figure 2."""

    source = "Huang et al. 2019 (GPipe, arXiv:1811.06965), section 2.3"

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """Any number of micro_batches, one chunk."""
        return one_chunk(chunks)

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        """Forward in order, backward in the opposite order."""
        yield from (Action(rank, Phase.F, m) for m in range(num_micro_batches))
        yield from (Action(rank, Phase.B, m) for m in reversed(range(num_micro_batches)))

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """The same as numbers."""
        phase, m = np.divmod(np.arange(2 * num_micro_batches), num_micro_batches)
        return np.stack([np.full_like(m, rank), phase, np.where(phase == 0, m, num_micro_batches - 1 - m)])


SCHEDULES.register("gpipe", GPipe())
