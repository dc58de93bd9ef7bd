"""Recursive halving, then recursive doubling: all_reduce in 2 log2 n steps with the bytes of a ring.

Where n is no power of two, the n - p ranks beyond the largest one below, p, fold into a neighbour first and get the sum back at the end,
which costs them and their neighbours a whole tensor more.  Source: Thakur et al. 2005, IJHPCA 19(1) (Rabenseifner).
"""

from collections.abc import Iterator

import numpy as np

from parsim.collectives import COLLECTIVES, ChunkTable, Count, largest_chunk, range_elements
from parsim_kernels import Operator, Transfer


class HalvingDoubling:
    """p blocks of chunks; among the p ranks that are left, the one at place v adds up block v."""

    operations: tuple[str, ...] = ("all_reduce",)

    def transfers(self, operation: str, num_ranks: int, operator: Operator) -> Iterator[Transfer]:
        """Fold, halve from the farthest partner to the nearest, double back, unfold."""
        n, power = num_ranks, 1 << (num_ranks.bit_length() - 1)
        extra, step = n - power, 0
        distances = [1 << k for k in range(power.bit_length() - 1)]
        if extra:
            yield from (Transfer(0, 2 * i, 2 * i + 1, chunk, operator) for i in range(extra) for chunk in range(n))
            step = 1
        for distance in reversed(distances):
            yield from _exchange(step, n, power, distance, sends_partners=True, operator=operator)
            step += 1
        for distance in distances:
            yield from _exchange(step, n, power, distance, sends_partners=False, operator="copy")
            step += 1
        yield from (Transfer(step, 2 * i + 1, 2 * i, chunk, "copy") for i in range(extra) for chunk in range(n))

    def sent_elements(self, operation: str, rank: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """Halving: all but the own block.  Doubling: the own block, then the two, the four ... that it lies in.  A folded rank: all."""
        n, power = num_ranks, _power(num_ranks)
        extra = n - power
        place = np.where(rank < 2 * extra, rank // 2, rank - extra)
        sent = elements - _block_elements(place, 1, power, n, elements, chunks)
        for distance in _distances(power):
            block = _block_elements(place & -distance, distance, power, n, elements, chunks)
            sent = sent + np.where(distance < power, block, 0)
        folds = rank < 2 * extra
        return np.where(folds & (rank % 2 == 0), elements, sent + np.where(folds, elements, 0))

    def busiest_elements(self, operation: str, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
        """2 (n - 1) chunks for a power of two; else at most as many as the largest blocks hold, and the folded tensor."""
        power, chunk = _power(num_ranks), largest_chunk(num_ranks, elements, chunks)
        total = np.where(num_ranks > power, elements, 0)
        for distance in _distances(power):
            most = np.minimum(-(-distance * num_ranks // power) * chunk, elements + 0 * chunk)
            total = total + np.where(distance < power, 2 * np.where(num_ranks > power, most, distance * chunk), 0)
        return np.asarray(total)

    def num_steps(self, operation: str, num_ranks: Count) -> Count:
        """2 log2 p, and two for folding."""
        power = _power(num_ranks)
        steps = sum(np.where(distance < power, 2, 0) for distance in _distances(power))
        return np.asarray(steps + np.where(num_ranks > power, 2, 0))


def _exchange(step: int, num_ranks: int, power: int, distance: int, *, sends_partners: bool, operator: Operator) -> Iterator[Transfer]:
    """Every rank and its partner swap: each sends the `distance` blocks that end at the partner, or those that it has complete."""
    extra = num_ranks - power
    for place in range(power):
        partner = place ^ distance
        start = (partner if sends_partners else place) & -distance
        src, dst = (2 * v + 1 if v < extra else v + extra for v in (place, partner))
        for chunk in range(start * num_ranks // power, (start + distance) * num_ranks // power):
            yield Transfer(step, src, dst, chunk, operator)


def _block_elements(start: Count, length: int, power: Count, num_ranks: Count, elements: Count, chunks: ChunkTable = None) -> Count:
    """Elements of `length` blocks; block b holds the chunks from b n / p."""
    return range_elements(start * num_ranks // power, (start + length) * num_ranks // power, num_ranks, elements, chunks)


def _power(num_ranks: Count) -> Count:
    """The largest power of two not above n, exact for integers."""
    return np.asarray(np.left_shift(1, np.frexp(num_ranks)[1] - 1), dtype=np.int64)


def _distances(power: Count) -> list[int]:
    """1, 2, 4 ... below the largest of these powers."""
    return [1 << k for k in range(int(np.max(power)).bit_length() - 1)]


COLLECTIVES.register("halving_doubling", HalvingDoubling())
