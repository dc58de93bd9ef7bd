"""What a cost function takes and gives: one value, or an array with one value per plan, on a single path of arithmetic.

Python's `**` and numpy's differ in the last bit; here both go through the same contiguous float64 arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from parsim.errors import ScenarioError
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

# As text: who only reads a scenario needs no arrays, and does not wait for numpy.
Scalar: TypeAlias = "int | float | NDArray[Any]"
Floats: TypeAlias = "NDArray[np.float64]"
Ints: TypeAlias = "NDArray[np.int64]"

_MOST_PS = 1e17  # a day for one task: no task of a real step comes near
_LARGEST = 2**62
_SPARSE = 8  # combinations that could be, a row, above which those that are there are sorted instead


def floats(*values: Scalar) -> tuple[tuple[int, ...], list[Floats]]:
    """The values' common shape, and each as a flat contiguous float64 array of that many elements.

    >>> shape, (a, b) = floats(2, [1.0, 3.0])
    >>> shape, a.tolist(), b.tolist()
    ((2,), [2.0, 2.0], [1.0, 3.0])
    """
    arrays = [np.asarray(value, dtype=np.float64) for value in values]
    shape = np.broadcast(*arrays).shape
    return shape, [(each if each.shape == shape else np.full(shape, each)).ravel() for each in arrays]


def reshape(flat: Floats, shape: tuple[int, ...]) -> Scalar:
    """The flat result in its callers' shape; a numpy float64 (a Python float, too) where they gave single values."""
    result: Scalar = flat.reshape(shape)[()]
    return result


def one_each(values: NDArray[Any], count: int) -> NDArray[Any]:
    """As many values, of one or as many.

    >>> one_each(np.array(3), 2).tolist()
    [3, 3]
    """
    return values if values.shape == (count,) else np.broadcast_to(values, count)


def same(value: int, count: int) -> Ints:
    """As many times one number, which takes no room."""
    return np.broadcast_to(np.int64(value), (count,))


def is_same(values: Ints) -> bool:
    """Whether it is so without a look at the numbers."""
    return len(values) > 0 and (values.strides == (0,) or len(values) == 1)


def picoseconds(seconds: Scalar) -> Ints:
    """The one rounding of times.

    Raises:
        ScenarioError: a time that is no number, or above a day.

    >>> int(picoseconds(1.5e-6))
    1500000
    """
    scaled = np.rint(np.asarray(seconds, dtype=np.float64) * PS_PER_S)
    if not (scaled < _MOST_PS).all():  # false for NaN as well
        remedy = "Check the bandwidths, rates and latencies of the hardware."
        raise ScenarioError(f"one task would take {np.max(seconds):.3g} s", remedy=remedy)
    return scaled.astype(np.int64)


def distinct(values: Ints) -> Ints:
    """The values that occur, ascending, or the rows of a matrix that do: numpy's own, which imports masked arrays unless asked for more.

    >>> distinct(np.array([3, 1, 3])).tolist()
    [1, 3]
    """
    found: Ints = np.unique(values, return_index=True, axis=0 if values.ndim > 1 else None)[0]
    return found


def distinct_rows(columns: Sequence[Ints], count: int) -> tuple[Ints, Ints]:
    """The first row of each distinct combination, and for each row which it has.

    >>> first, which = distinct_rows([np.array([3, 1, 3]), np.array([0, 0, 0])], 3)
    >>> first.tolist(), which.tolist()
    ([1, 0], [1, 0, 1])
    """
    packed, size = np.zeros(count, dtype=np.int64), 1
    for column in (each for each in columns if count and not is_same(each)):
        low, high = int(column.min()), int(column.max())
        if low == high:
            continue
        if size * (high - low + 1) >= _LARGEST:
            _, packed = np.unique(packed, return_inverse=True)
            size = int(packed.max()) + 1
        packed *= high - low + 1
        packed += column
        packed -= low
        size *= high - low + 1
    if size > _SPARSE * count:
        _, first, which = np.unique(packed, return_index=True, return_inverse=True)
        return first, which
    begin = np.full(size, count)
    np.minimum.at(begin, packed, np.arange(count))
    there = begin < count
    return begin[there], (np.cumsum(there) - 1)[packed]
