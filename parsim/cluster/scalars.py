"""What a cost function takes and gives: one value, or an array with one value per plan, on a single path of arithmetic.

Python's `**` and numpy's differ in the last bit; here both go through the same contiguous float64 arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Scalar = int | float | NDArray[Any]
Floats = NDArray[np.float64]


def floats(*values: Scalar) -> tuple[tuple[int, ...], list[Floats]]:
    """The values' common shape, and each as a flat contiguous float64 array of that many elements.

    >>> shape, (a, b) = floats(2, [1.0, 3.0])
    >>> shape, a.tolist(), b.tolist()
    ((2,), [2.0, 2.0], [1.0, 3.0])
    """
    arrays = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in values))
    return arrays[0].shape, [np.ascontiguousarray(array).reshape(-1) for array in arrays]


def shaped(flat: Floats, shape: tuple[int, ...]) -> Scalar:
    """The flat result in its callers' shape; a numpy float64 (a Python float, too) where they gave single values.

    >>> float(shaped(np.array([2.0]), ()))
    2.0
    """
    result: Scalar = flat.reshape(shape)[()]
    return result
