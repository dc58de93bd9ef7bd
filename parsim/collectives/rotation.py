"""Rotation: each rank hands its tensor on to the next one, all at once, as ring attention does with keys and values.

Source: Liu et al. 2023 (arXiv:2310.01889), section 3.
"""

from collections.abc import Iterator

import numpy as np

from parsim.collectives import COLLECTIVES, ChunkTable, Count
from parsim_kernels import Operator, Transfer


class Rotation:
    """A ring in which rank r sends to r + 1 once; chunk r is what rank r has at first."""

    operations: tuple[str, ...] = ("shift",)

    def transfers(self, operation: str, num_ranks: int, operator: Operator) -> Iterator[Transfer]:
        """n messages; none where a rank would send to itself."""
        yield from (Transfer(0, rank, (rank + 1) % num_ranks, rank, "copy") for rank in range(num_ranks) if num_ranks > 1)

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """The whole tensor of a rank."""
        return np.asarray(elements * np.greater(num_ranks, 1))

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """The same on all ranks."""
        return self.sent_elements(operation, 0, num_ranks, elements)

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """One."""
        return np.asarray(np.greater(num_ranks, 1) * 1)


COLLECTIVES.register("rotation", Rotation())
