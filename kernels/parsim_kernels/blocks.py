"""Element-wise work in blocks that stay in the L2 cache, with the temporaries of one block instead of whole arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np

from parsim_kernels.signature import Array

BLOCK_BYTES: Final = 128 << 10  # of one array; a kernel touches four to eight at a time, and cores have 512 KiB of L2 or more


def blocks(*arrays: Array, scratch: int = 0) -> Iterable[tuple[Array, ...]]:
    """The same part of every array along the first dim, part by part, then `scratch` temporaries like the part of the first array.

    The temporaries have the dtype of the last array, which is the result.

    >>> [[part.tolist() for part in parts] for parts in blocks(np.arange(2), np.ones(2))]
    [[[0, 1], [1.0, 1.0]]]
    """
    first, dtype = arrays[0], arrays[-1].dtype
    if 0 < first.size * dtype.itemsize <= BLOCK_BYTES:
        return ((*arrays, *[np.empty(first.shape, dtype) for _ in range(scratch)]),)
    return _parts(arrays, first, dtype, scratch)


def _parts(arrays: tuple[Array, ...], first: Array, dtype: np.dtype[Any], scratch: int) -> Iterator[tuple[Array, ...]]:
    length = len(first)
    row = math.prod(first.shape[1:])
    step = max(BLOCK_BYTES // (row * dtype.itemsize or 1), 1)
    rooms = [np.empty((min(step, length), *first.shape[1:]), dtype) for _ in range(scratch)]
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield (*[array[start:stop] for array in arrays], *[room[: stop - start] for room in rooms])


def flat(*arrays: Array) -> tuple[Array, ...]:
    """The elements of each array as one row; no copy of a contiguous one."""
    return tuple([array if array.ndim == 1 else array.reshape(-1) for array in arrays])


def rows(*arrays: Array) -> tuple[Array, ...]:
    """Each array as a matrix of its last dim; no copy of a contiguous one."""
    return tuple([a if a.ndim == 2 else a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) for a in arrays])
