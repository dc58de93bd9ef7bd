"""Pairwise exchange: all_to_all in n - 1 steps, in each of which every rank sends to one other and receives from one other.

Source: Thakur et al. 2005, IJHPCA 19(1), for long messages.
"""

from __future__ import annotations

from collections.abc import Iterator

from parsim.collectives import COLLECTIVES, Count, chunk_elements
from parsim_kernels import Transfer


class Pairwise:
    """In step k rank r sends to r + 1 + k."""

    operations: tuple[str, ...] = ("all_to_all",)

    def transfers(self, operation: str, num_ranks: int, operator: str) -> Iterator[Transfer]:
        """n (n - 1) messages; chunk s n + d is what rank s has for rank d."""
        for step in range(num_ranks - 1):
            for rank in range(num_ranks):
                to = (rank + 1 + step) % num_ranks
                yield Transfer(step, rank, to, rank * num_ranks + to, "copy")

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count) -> Count:
        """All but what a rank has for itself; `elements` are those of one rank's tensor."""
        return elements - chunk_elements(rank, num_ranks, elements)

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count) -> Count:
        """n - 1 chunks of the largest size."""
        return (num_ranks - 1) * -(-elements // num_ranks)

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """One for each other rank."""
        return num_ranks - 1


COLLECTIVES.register("pairwise", Pairwise())
