"""Ring: reduce_scatter, all_gather, and all_reduce as the one after the other.  Bandwidth-optimal, 2 (n - 1) steps.

Source: Patarasuk and Yuan 2009, JPDC 69(2).
"""

from collections.abc import Iterator
from itertools import product

from parsim.collectives import COLLECTIVES, ChunkTable, Count, by_phase, chunk_elements, largest_chunk, num_phases
from parsim_kernels import Operator, Transfer


class Ring:
    """A ring in which rank r sends to r + 1, and chunk r ends on rank r."""

    operations: tuple[str, ...] = ("all_gather", "all_reduce", "reduce_scatter")

    def transfers(self, operation: str, num_ranks: int, operator: Operator) -> Iterator[Transfer]:
        """n (n - 1) messages for each of the two phases."""
        n, first = num_ranks, 0
        if operation != "all_gather":
            for step, rank in product(range(n - 1), range(n)):
                yield Transfer(step, rank, (rank + 1) % n, (rank - step - 1) % n, operator)
            first = n - 1
        if operation != "reduce_scatter":
            for step, rank in product(range(n - 1), range(n)):
                yield Transfer(first + step, rank, (rank + 1) % n, (rank - step) % n, "copy")

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """All but the own chunk in the reducing phase, all but the next rank's in the gathering one."""
        reducing = elements - chunk_elements(rank, num_ranks, elements, chunks)
        gathering = elements - chunk_elements(rank + 1, num_ranks, elements, chunks)
        return by_phase(operation, reducing, gathering)

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """(n - 1) chunks a phase, of the largest size."""
        return self.num_steps(operation, num_ranks) * largest_chunk(num_ranks, elements, chunks)

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """n - 1 a phase."""
        return (num_ranks - 1) * num_phases(operation)


COLLECTIVES.register("ring", Ring())
