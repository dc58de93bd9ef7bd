"""Hierarchical all_reduce: reduce_scatter within groups of neighbours, all_reduce across the groups, all_gather within them.

The bytes of a ring in 2 (g - 1) + 2 (n / g - 1) steps, and only 1 / g of the tensor a rank crosses from group to group.
Source: Jia et al. 2018 (arXiv:1807.11205) for the idea; Mikami et al. 2018 (arXiv:1811.05233) for these three phases.
"""

from collections.abc import Iterator

import numpy as np
from msgspec import Struct

from parsim.collectives import COLLECTIVES, ChunkTable, Count, chunk_elements, largest_chunk, range_elements
from parsim_kernels import Operator, Transfer


class Hierarchical(Struct, frozen=True):
    """Rings of g neighbours inside k = n / g rings across.  Block j, chunks j k to j k + k - 1, is summed at place j of each group.

    g is gcd(n, group_size): all of a group that `group_size` does not divide cannot lie in equal groups of it.
    """

    group_size: int
    operations: tuple[str, ...] = ("all_reduce",)

    def transfers(self, operation: str, num_ranks: int, operator: Operator) -> Iterator[Transfer]:
        """Four rings, one after another."""
        g = int(np.gcd(num_ranks, self.group_size))
        k = num_ranks // g
        places = [(group, place) for group in range(k) for place in range(g)]
        for step in range(g - 1):
            for group, place in places:
                yield from _block(step, group, g, k, place, (place - step - 1) % g, operator)
        for step in range(2 * (k - 1)):
            reducing = step < k - 1
            for group, place in places:
                chunk = place * k + (group - step - 1 if reducing else group - (step - k + 1)) % k
                to = (group + 1) % k * g + place
                yield Transfer(g - 1 + step, group * g + place, to, chunk, operator if reducing else "copy")
        for step in range(g - 1):
            for group, place in places:
                yield from _block(g - 1 + 2 * (k - 1) + step, group, g, k, place, (place - step) % g, "copy")

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """Inside: all but one block a phase.  Across: the own block but for one chunk a phase."""
        n, g = num_ranks, np.gcd(num_ranks, self.group_size)
        k, group, place = n // g, rank // g, rank % g
        after = (place + 1) % g
        own = range_elements(place * k, place * k + k, n, elements, chunks)
        inside = 2 * elements - own - range_elements(after * k, after * k + k, n, elements, chunks)
        return inside + 2 * own - sum(chunk_elements(place * k + (group + i) % k, n, elements, chunks) for i in (0, 1))

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """2 (n - 1) chunks of the largest size."""
        return 2 * (num_ranks - 1) * largest_chunk(num_ranks, elements, chunks)

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """Those of the rings inside and across."""
        g = np.gcd(num_ranks, self.group_size)
        return np.asarray(2 * (g - 1) + 2 * (num_ranks // g - 1))


def _block(step: int, group: int, g: int, k: int, place: int, block: int, operator: Operator) -> Iterator[Transfer]:
    """One block of chunks to the next place of the group."""
    src, dst = group * g + place, group * g + (place + 1) % g
    return (Transfer(step, src, dst, chunk, operator) for chunk in range(block * k, block * k + k))


COLLECTIVES.register("hierarchical", Hierarchical(8))
