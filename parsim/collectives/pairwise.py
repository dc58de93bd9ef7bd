"""Pairwise exchange: all_to_all in n - 1 steps, in each of which every rank sends to one other and receives from one other.

Source: Thakur et al. 2005, IJHPCA 19(1), for long messages.
"""

from collections.abc import Iterator

import numpy as np

from parsim.collectives import COLLECTIVES, ChunkTable, Count, chunk_elements
from parsim_kernels import Operator, Transfer


class Pairwise:
    """An exchange in which rank r sends to r + 1 + k in step k."""

    operations: tuple[str, ...] = ("all_to_all",)

    def transfers(self, operation: str, num_ranks: int, operator: Operator) -> Iterator[Transfer]:
        """n (n - 1) messages; chunk s n + d is what rank s has for rank d."""
        for step in range(num_ranks - 1):
            for rank in range(num_ranks):
                to = (rank + 1 + step) % num_ranks
                yield Transfer(step, rank, to, rank * num_ranks + to, "copy")

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """All but what a rank has for itself; `elements` are those of one rank's tensor."""
        return elements - chunk_elements(rank, num_ranks, elements, None if chunks is None else np.diagonal(chunks, axis1=-2, axis2=-1))

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """n - 1 chunks of the largest size; of a table, all that the busiest rank sends to others, or receives from them."""
        if chunks is None:
            return (num_ranks - 1) * -(-elements // num_ranks)
        ports = np.maximum(chunks.sum(-1), chunks.sum(-2)) - np.diagonal(chunks, axis1=-2, axis2=-1)
        return np.asarray(ports.max(axis=-1))

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """n - 1, one for each other rank."""
        return num_ranks - 1


COLLECTIVES.register("pairwise", Pairwise())
