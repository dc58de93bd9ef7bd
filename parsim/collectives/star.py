"""Star: every rank sends to rank 0 (reduce), or rank 0 to every rank (broadcast): the update through a master rank.

Its port carries n - 1 whole tensors, which is why all-reduce replaced it: Sergeev and Del Balso 2018 (arXiv:1802.05799).
"""

from collections.abc import Iterator

import numpy as np

from parsim.collectives import COLLECTIVES, ChunkTable, Count
from parsim_kernels import Operator, Transfer


class Star:
    """A master whose port passes one whole tensor a message, one after another."""

    operations: tuple[str, ...] = ("broadcast", "reduce")

    def transfers(self, operation: str, num_ranks: int, operator: Operator) -> Iterator[Transfer]:
        """n - 1 messages."""
        for step in range(num_ranks - 1):
            if operation == "reduce":
                yield Transfer(step, step + 1, 0, 0, operator)
            else:
                yield Transfer(step, 0, step + 1, 0, "copy")

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """A worker sends its tensor once; the master sends it to each of the others."""
        messages = np.where(np.equal(rank, 0), 0, 1) if operation == "reduce" else np.where(np.equal(rank, 0), num_ranks - 1, 0)
        return elements * messages

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """What passes the master's port."""
        return (num_ranks - 1) * elements

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """One message after another."""
        return num_ranks - 1


COLLECTIVES.register("star", Star())
