"""Least squares with coefficients that are not negative, on the relative error."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from parsim.cluster.scalars import Floats

_TOLERANCE: Final = 1e-10  # of the gradient, in columns of unit length


def relative_fit(features: Floats, seconds: Floats) -> Floats:
    """The coefficients x >= 0 that make features @ x nearest to seconds, each row's error taken relative to its seconds.

    >>> relative_fit(np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]), np.array([3.0, 5.0, 7.0])).round(6).tolist()
    [1.0, 2.0]
    """
    return nnls(features / seconds[:, np.newaxis], np.ones_like(seconds))


def nnls(a: Floats, b: Floats) -> Floats:
    """The x >= 0 that minimises |a x - b|.

    Source: Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23: the active set algorithm.

    >>> nnls(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([2.0, -1.0])).tolist()
    [2.0, 0.0]
    """
    lengths = np.sqrt(np.sum(a * a, axis=0))
    lengths[lengths == 0] = 1.0
    unit, least = a / lengths, _TOLERANCE * float(np.sqrt(np.sum(b * b)))
    x, free = np.zeros(a.shape[1]), np.zeros(a.shape[1], dtype=bool)
    for _ in range(3 * a.shape[1] + 3):  # chapter 23 proves that it ends; in practice after about as many rounds as there are columns
        gradient = np.where(free, -np.inf, unit.T @ (b - unit @ x))
        if free.all() or float(np.max(gradient)) <= least:
            break
        free[np.argmax(gradient)] = True
        x = _descend(unit, b, x, free)
    return np.asarray(x / lengths)


def _descend(a: Floats, b: Floats, x: Floats, free: NDArray[np.bool_]) -> Floats:
    """The least squares of the free columns; one that would turn negative stops at 0 and is free no more (changes `free`)."""
    while True:
        goal = np.zeros_like(x)
        goal[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
        falling = free & (goal <= 0)
        if not falling.any():
            return goal
        share = (x[falling] / np.maximum(x[falling] - goal[falling], 1e-300)).min()
        x = x + share * (goal - x)
        stopped = free & (x <= 1e-14 * max(x.max(), 1e-300))
        free[stopped if stopped.any() else falling] = False
        x[~free] = 0.0
