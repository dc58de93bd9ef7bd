"""Max-plus matrices over arrays of plans: how the ends of a rank's streams follow from their starts.

Layers that repeat on overlapping streams are one matrix, raised to the number of layers by squaring: 126 layers cost 7 products.
Source: Baccelli et al. 1992, Synchronization and Linearity, chapter 3.
"""

from __future__ import annotations

import numpy as np

from parsim.cost.sizes import Ints

NEVER = np.int64(-(2**61))  # minus infinity: no path.  Two of them still fit int64


def identity(num_streams: int, num_plans: int) -> Ints:
    """The map that changes nothing, [plans, streams, streams]."""
    return np.where(np.eye(num_streams, dtype=bool), 0, np.full((num_plans, 1, 1), NEVER))


def product(after: Ints, before: Ints) -> Ints:
    """`before`, then `after`: entry i, j is the longest path from start j over any k to end i."""
    return np.asarray(np.maximum(np.max(after[:, :, :, None] + before[:, None, :, :], axis=2), NEVER))


def power(base: Ints, exponents: Ints) -> Ints:
    """Each plan's matrix to its own power, by squaring; power 0 changes nothing.

    >>> ends = power(np.array([[[3]]]), np.array([5]))
    >>> int(ends[0, 0, 0])
    15
    """
    result = identity(base.shape[1], len(base))
    rest = exponents.copy()
    while rest.any():
        result = np.where((rest & 1).astype(bool)[:, None, None], product(base, result), result)
        base, rest = product(base, base), rest >> 1
    return result
