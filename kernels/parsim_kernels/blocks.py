"""Element-wise work in blocks that stay in the L2 cache, with the temporaries of one block instead of whole arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from parsim_kernels.signature import Array

BLOCK_BYTES: Final = 128 << 10  # of one array; a kernel touches four to eight at a time, and cores have 512 KiB of L2 or more


def blocks(*arrays: Array, scratch: int = 0) -> Iterator[tuple[Array, ...]]:
    """The same part of every array along the first dim, part by part, then `scratch` temporaries like the part of the first array.

    The temporaries have the dtype of the last array, which is the result.

    >>> [[part.tolist() for part in parts] for parts in blocks(np.arange(2), np.ones(2))]
    [[[0, 1], [1.0, 1.0]]]
    """
    first, length = arrays[0], len(arrays[0])
    dtype = arrays[-1].dtype
    row = math.prod(first.shape[1:])
    step = max(BLOCK_BYTES // (row * dtype.itemsize or 1), 1)
    rooms = [np.empty((min(step, length), *first.shape[1:]), dtype) for _ in range(scratch)]
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield (*[array[start:stop] for array in arrays], *[room[: stop - start] for room in rooms])


def flat(*arrays: Array) -> tuple[Array, ...]:
    """The elements of each array as one row; no copy of a contiguous one."""
    return tuple(array.reshape(-1) for array in arrays)


def rows(*arrays: Array) -> tuple[Array, ...]:
    """Each array as a matrix of its last dim; no copy of a contiguous one."""
    return tuple(array.reshape(math.prod(array.shape[:-1]), array.shape[-1]) for array in arrays)
