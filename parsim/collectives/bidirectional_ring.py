"""Ring in both directions: a chunk travels half the ring each way, so a phase takes ceil((n - 1) / 2) steps for the same bytes.

Source: Chan et al. 2007, Concurrency and Computation 19(13), for rings; that both directions carry half each is derived here.
"""

from collections.abc import Iterator
from itertools import product

from parsim.collectives import COLLECTIVES, ChunkTable, Count, by_phase, chunk_elements, largest_chunk, num_phases
from parsim_kernels import Operator, Transfer


class BidirectionalRing:
    """`up` = ceil((n - 1) / 2) hops to higher ranks and `down` = floor((n - 1) / 2) to lower ones; chunk r ends on rank r."""

    operations: tuple[str, ...] = ("all_gather", "all_reduce", "reduce_scatter")

    def transfers(self, operation: str, num_ranks: int, operator: Operator) -> Iterator[Transfer]:
        """n (n - 1) messages a phase; both partial sums of a chunk arrive in the phase's last step."""
        n, first = num_ranks, 0
        up, down = n // 2, (n - 1) // 2
        if operation != "all_gather":
            for step, rank in product(range(up), range(n)):
                yield Transfer(step, rank, (rank + 1) % n, (rank + up - step) % n, operator)
                if step >= up - down:
                    yield Transfer(step, rank, (rank - 1) % n, (rank - up + step) % n, operator)
            first = up
        if operation != "reduce_scatter":
            for step, rank in product(range(up), range(n)):
                yield Transfer(first + step, rank, (rank + 1) % n, (rank - step) % n, "copy")
                if step < down:
                    yield Transfer(first + step, rank, (rank - 1) % n, (rank + step) % n, "copy")

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """All but the own chunk in the reducing phase; in the gathering one the own goes both ways, and the two farthest no farther."""
        n, down = num_ranks, (num_ranks - 1) // 2
        own = chunk_elements(rank, n, elements, chunks)
        reducing = elements - own
        gathering = elements + own - chunk_elements(rank + down, n, elements, chunks) - chunk_elements(rank + down + 1, n, elements, chunks)
        return by_phase(operation, reducing, gathering)

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """Through a rank's port, both directions together: n - 1 chunks a phase, of the largest size."""
        return num_phases(operation) * (num_ranks - 1) * largest_chunk(num_ranks, elements, chunks)

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """floor(n / 2) a phase."""
        return num_ranks // 2 * num_phases(operation)


COLLECTIVES.register("bidirectional_ring", BidirectionalRing())
