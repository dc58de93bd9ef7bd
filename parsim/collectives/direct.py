"""Direct: every rank sends each other rank its chunk at once.  One step a phase, where each pair has a link or a switch between.

Source: Rashidi et al. 2022 (Themis, arXiv:2110.04478), for fully connected networks.
"""

from collections.abc import Iterator

from parsim.collectives import COLLECTIVES, ChunkTable, Count, by_phase, chunk_elements, largest_chunk, num_phases
from parsim_kernels import Operator, Transfer


class Direct:
    """An exchange in which chunk r is summed on rank r, and goes from there to all."""

    operations: tuple[str, ...] = ("all_gather", "all_reduce", "reduce_scatter")

    def transfers(self, operation: str, num_ranks: int, operator: Operator) -> Iterator[Transfer]:
        """n (n - 1) messages in one step a phase; the k-th message of each rank goes to its k-th neighbour."""
        pairs = [(rank, (rank + hop) % num_ranks) for hop in range(1, num_ranks) for rank in range(num_ranks)]
        first = 0
        if operation != "all_gather":
            yield from (Transfer(0, src, dst, dst, operator) for src, dst in pairs)
            first = 1
        if operation != "reduce_scatter":
            yield from (Transfer(first, src, dst, src, "copy") for src, dst in pairs)

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """All but the own chunk in the reducing phase, the own n - 1 times in the gathering one."""
        own = chunk_elements(rank, num_ranks, elements, chunks)
        return by_phase(operation, elements - own, (num_ranks - 1) * own)

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """n - 1 chunks a phase, of the largest size."""
        return self.num_steps(operation, num_ranks) * (num_ranks - 1) * largest_chunk(num_ranks, elements, chunks)

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """One a phase."""
        return (num_ranks > 1) * num_phases(operation)


COLLECTIVES.register("direct", Direct())
