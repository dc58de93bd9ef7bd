"""Max-plus matrices over arrays of plans: how the ends of a rank's streams follow from their starts.

Layers that repeat on overlapping streams are one matrix, raised to the number of layers by squaring: 126 layers cost 7 products.
Source: Baccelli et al. 1992, Synchronization and Linearity, chapter 3.
"""

from __future__ import annotations

import numpy as np

from parsim.step.sizes import Ints

NEVER = np.int64(-(2**61))  # minus infinity: no path.  Two of them still fit int64


def matrix(rows: list[list[Ints | None]], num_plans: int) -> Ints:
    """A matrix [plans, streams, streams] from its entries; None: the one stream does not wait for the other."""
    entries = [[np.full(num_plans, NEVER) if e is None else e for e in row] for row in rows]
    return np.moveaxis(np.array(entries, dtype=np.int64), -1, 0)


def product(after: Ints, before: Ints) -> Ints:
    """`before`, then `after`: entry i, j is the longest path from start j over any k to end i."""
    return np.asarray(np.maximum(np.max(after[:, :, :, None] + before[:, None, :, :], axis=2), NEVER))


def power(base: Ints, exponents: Ints) -> Ints:
    """Each plan's matrix to its own power, by squaring; power 0 changes nothing.

    >>> ends = power(matrix([[np.array([3])]], 1), np.array([5]))
    >>> int(ends[0, 0, 0])
    15
    """
    num_streams = base.shape[1]
    result = np.full_like(base, NEVER)
    result[:, range(num_streams), range(num_streams)] = 0
    rest = exponents.copy()
    while rest.any():
        result = np.where((rest & 1).astype(bool)[:, None, None], product(base, result), result)
        base, rest = product(base, base), rest >> 1
    return result


def apply(ends: Ints, starts: Ints) -> Ints:
    """Stream ends [plans, streams] after starts [plans, streams]."""
    return np.asarray(np.max(ends + starts[:, None, :], axis=2))
