"""Reduction inside a switch: each rank sends its tensor up once, and the switch sends the sum down.  Two steps, whatever the ranks.

The switch is position n, one past the last rank, and what it sends is no rank's.  Source: Graham et al. 2016, COM-HPC (SHARP), for the
aggregation; the NVIDIA H100 white paper (NVLink SHARP) for a node's switch.
"""

from collections.abc import Iterator

import numpy as np

from parsim.collectives import COLLECTIVES, ChunkTable, Count, chunk_elements
from parsim_kernels import Operator, Transfer


class InNetwork:
    """A switch that adds.  Up: all chunks, or the own one.  It adds them in the order of the ranks.  Down: all chunks, or the own one."""

    operations: tuple[str, ...] = ("all_gather", "all_reduce", "reduce_scatter")

    def transfers(self, operation: str, num_ranks: int, operator: Operator) -> Iterator[Transfer]:
        """One step up and one down."""
        n = num_ranks if num_ranks > 1 else 0
        for rank in range(n):
            for chunk in (rank,) if operation == "all_gather" else range(n):
                yield Transfer(0, rank, n, chunk, "copy" if operation == "all_gather" else operator)
        for rank in range(n):
            for chunk in (rank,) if operation == "reduce_scatter" else range(n):
                yield Transfer(1, n, rank, chunk, "copy")

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """The whole tensor once, or for all_gather the own chunk."""
        sent = chunk_elements(rank, num_ranks, elements, chunks) if operation == "all_gather" else elements
        return np.where(np.greater(num_ranks, 1), sent, 0)

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """The whole tensor: up, down, or both ways at once."""
        return np.where(np.greater(num_ranks, 1), elements, 0)

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """Up and down."""
        return np.where(np.greater(num_ranks, 1), 2, 0)


COLLECTIVES.register("in_network", InNetwork())
