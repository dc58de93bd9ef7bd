"""Double binary tree: two trees, each reduces and broadcasts half of the chunks; a rank inside one tree is a leaf of the other.

Steps grow with log2 n, and a rank sends at most twice the tensor.  Source: Sanders et al. 2009, Parallel Computing 35(12); the trees are
those of NCCL 2.4, src/graph/trees.cc.
"""

from collections.abc import Iterator

import numpy as np

from parsim.collectives import COLLECTIVES, ChunkTable, Count, range_elements
from parsim_kernels import Operator, Transfer


class DoubleTree:
    """Two trees with root place 0.  The first numbers its places as the ranks; the second mirrors them, or shifts them where n is odd."""

    operations: tuple[str, ...] = ("all_reduce",)

    def transfers(self, operation: str, num_ranks: int, operator: Operator) -> Iterator[Transfer]:
        """Up from the deepest places to the root, then down; a message for each chunk of the half."""
        n, height = num_ranks, (num_ranks - 1).bit_length()
        half = (n + 1) // 2
        second = [n - 1 - place if n % 2 == 0 else (place + 1) % n for place in range(n)]
        for ranks, chunks in ((list(range(n)), range(half)), (second, range(half, n))):
            for place in range(1, n):
                above, depth = _parent(place, n), _depth(place, n)
                for chunk in chunks:
                    yield Transfer(height - depth, ranks[place], ranks[above], chunk, operator)
                    yield Transfer(height + depth - 1, ranks[above], ranks[place], chunk, "copy")

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """In each tree its half once to the parent, and once to each child."""
        n, half = num_ranks, (num_ranks + 1) // 2
        first = range_elements(0, half, n, elements, chunks)
        second = np.where(n % 2 == 0, n - 1 - rank, (rank - 1) % n)
        return _messages(rank, n) * first + _messages(second, n) * (elements - first)

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """A parent and two children in one tree, a parent in the other: four halves; 2 ranks send two, 3 ranks three."""
        first = range_elements(0, (num_ranks + 1) // 2, num_ranks, elements, chunks)
        largest = np.maximum(first, elements - first)
        return np.where(num_ranks > 1, np.minimum(num_ranks, 4), 0) * largest

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """The height of a tree, ceil(log2 n), up and down."""
        return np.asarray(2 * np.frexp(num_ranks - 1)[1], dtype=np.int64)


def _parent(place: int, num_ranks: int) -> int:
    """The place above: the lowest set bit moves up by one, or vanishes where that leaves the group."""
    bit = place & -place
    above = (place ^ bit) | (bit << 1)
    return above if above < num_ranks else place ^ bit


def _depth(place: int, num_ranks: int) -> int:
    depth = 0
    while place:
        place, depth = _parent(place, num_ranks), depth + 1
    return depth


def _messages(place: Count, num_ranks: Count) -> Count:
    """Messages of a place: one up, but from the root; none down from odd places, else two, but one beside the edge and from the root."""
    children = np.where(place % 2 == 1, 0, 1 + (place + 1 < num_ranks))
    return np.where(np.equal(place, 0), np.where(num_ranks > 1, 1, 0), 1 + children)


COLLECTIVES.register("tree", DoubleTree())
