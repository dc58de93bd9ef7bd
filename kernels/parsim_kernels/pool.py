"""Memory for results: a pool that regains a block when the last array in it is gone, or buffers that are held already."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from parsim_kernels.signature import Array, Out

_SMALL_BYTES: Final = 4096  # below, malloc is faster than the pool
_ALIGNMENT: Final = 64  # a cache line, and the widest vector


class MemoryBlock(NamedTuple):
    """Memory, and where it begins: to ask the array takes longer than to use it."""

    memory: Array
    address: int


class Pool:
    """Arrays of any shape from blocks that are used again, by their exact number of bytes: a step repeats the sizes of the one before.

    Nothing is given back by hand.  An array of the pool keeps its block, as does every view of it; the block is free when none of them
    is left, inside the machine or out.  A free block stays with the pool for as long as the pool lives.

    >>> pool = Pool()
    >>> first = pool.take((1000,), np.dtype(np.float64)); at = first.ctypes.data
    >>> del first
    >>> pool.take((10, 100), np.dtype(np.float64)).ctypes.data == at, pool.allocated_bytes
    (True, 8000)
    """

    __slots__ = ("_free", "allocated_bytes")

    def __init__(self) -> None:
        """Create an empty pool."""
        self.allocated_bytes = 0  # obtained from the system, in use or free
        self._free: dict[int, list[MemoryBlock]] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A C-contiguous array that owns its block; its values are arbitrary."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes < _SMALL_BYTES or dtype.hasobject:
            return np.empty(shape, dtype)
        free = self._free.setdefault(num_bytes, [])
        if not free:
            self.allocated_bytes += num_bytes
            free.append(_allocate(num_bytes))
        return np.asarray(_Loan(free.pop(), free, shape, dtype))


class _Loan:
    """The base of an array of the pool and so of all its views: when they are gone it puts the block back."""

    __slots__ = ("__array_interface__", "_block", "_free")

    def __init__(self, block: MemoryBlock, free: list[MemoryBlock], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._block, self._free = block, free
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": (block.address, False)}

    def __del__(self) -> None:
        self._free.append(self._block)


class Into:
    """An `Out` of buffers that are held already, in the order of the results; a result that does not fit its buffer gets fresh memory.

    >>> buffer = np.zeros(2)
    >>> out = Into([buffer], np.empty)
    >>> out((2,), buffer.dtype) is buffer
    True
    """

    __slots__ = ("_buffers", "_otherwise")

    def __init__(self, buffers: Sequence[Array], otherwise: Out) -> None:
        """Destinations, and where the memory of all other results comes from."""
        self._buffers, self._otherwise = iter(buffers), otherwise

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The memory of the next result."""
        buffer = next(self._buffers, None)
        if buffer is not None and buffer.shape == shape and buffer.dtype == dtype and buffer.flags.c_contiguous:
            return buffer
        return self._otherwise(shape, dtype)


def _allocate(num_bytes: int) -> MemoryBlock:
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start: int = memory.ctypes.data
    return MemoryBlock(memory, start + -start % _ALIGNMENT)
