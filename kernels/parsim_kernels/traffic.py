"""Bytes that a kernel reads and writes: its arrays once each at their itemsize, a result that is added to what is there twice.

Nothing is fused: each kernel finds its inputs in memory, and leaves its results there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from parsim_kernels.signature import Array

# Inputs of which a kernel sees only the shape: no traffic of their own.
_SHAPES = {"lookup_grad": 2, "position_grad": 1, "relative_biases_grad": 0, "repeat": 1}
# Inputs of which it reads as much as it finds there: a row a token, wherever it lies; one element of each row; a row;
# a chunk; all but a row; some rows.
_LOOKED_UP = {"lookup": 1, "pick": 0, "first": 0, "take": 0, "prepend_grad": 0, "excerpt": 0}
# A mask is a byte an element, whatever it is held as.  Source: Korthikanti et al. 2022 (arXiv:2205.05198), section 4.1.
_MASK = {"dropout": 1}
_SPECIAL = {*_SHAPES, *_LOOKED_UP, *_MASK, "position"}


def touched_bytes(
    kernel: str,
    inputs: Sequence[tuple[Array, int]],
    results: Sequence[tuple[Array, int]],
    *,
    accumulate: bool,
) -> int:
    """Bytes that one call of a kernel moves; each array comes with its bytes an element.

    >>> import numpy as np
    >>> touched_bytes("add", [(np.ones(3), 2), (np.ones(3), 2)], [(np.ones(3), 4)], accumulate=True)
    36
    """
    if kernel not in _SPECIAL:
        read = sum([array.size * itemsize for array, itemsize in inputs])
        written = sum([array.size * itemsize for array, itemsize in results])
        return read + written * (2 if accumulate else 1)
    found = {_LOOKED_UP.get(kernel): results[0][0].size, _SHAPES.get(kernel): 0}
    if kernel == "position":  # the rows of the table that x[B T D] has, once for all sequences
        found = {1: math.prod(inputs[0][0].shape[1:])}
    read = sum(found.get(i, array.size) * (1 if i == _MASK.get(kernel) else itemsize) for i, (array, itemsize) in enumerate(inputs))
    if kernel == "lookup_grad" and accumulate:  # the rows that the gradients d_y belong to, not the table
        written = inputs[1][0].size * results[0][1]
    else:
        written = sum(array.size * itemsize for array, itemsize in results)
    return read + written * (2 if accumulate else 1)
