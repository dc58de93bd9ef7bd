"""Breadth-first: all micro_batches through a chunk before the next chunk; backward through the chunks the other way.

The bubble is (p - 1) / (v m) for m >= p, as when interleaved; all micro_batches of all chunks are in flight at the turn, but each chunk's
weights are used in one go, which is what sharded weights want.
"""

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.schedules import SCHEDULES, Schedule


class BreadthFirst(Schedule):
    """Stages go round the ranks, as when interleaved."""

    source = "Lamy-Poirier 2023 (arXiv:2211.05953)"
    falls = True

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """Any number of chunks and micro_batches; with fewer than num_ranks of the latter a rank waits between its chunks."""
        return None

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """Chunk by chunk."""
        turn, m = np.divmod(np.arange(2 * chunks * num_micro_batches), num_micro_batches)
        chunk = np.minimum(turn, 2 * chunks - 1 - turn)
        return np.stack([rank + num_ranks * chunk, (turn >= chunks).astype(np.int64), m])


SCHEDULES.register("breadth_first", BreadthFirst())
