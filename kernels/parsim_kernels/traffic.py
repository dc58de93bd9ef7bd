"""Bytes that a kernel reads and writes: its arrays once each at their itemsize, a result that is added to what is there twice.

Nothing is fused: each kernel finds its inputs in memory, and leaves its results there.
"""

from __future__ import annotations

from collections.abc import Sequence

from parsim_kernels.signature import Array

# Inputs of which a kernel reads some rows, or only the shape: no traffic of their own.
_LOOKED_UP = {"lookup": 1, "lookup_grad": 2, "position_grad": 1, "first": 0}
# A mask is a byte an element, whatever it is held as.  Source: Korthikanti et al. 2022 (arXiv:2205.05198), section 4.1.
_MASK = {"dropout": 1}


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
    read = sum(
        array.size * (1 if i == _MASK.get(kernel) else itemsize)
        for i, (array, itemsize) in enumerate(inputs)
        if i != _LOOKED_UP.get(kernel)
    )
    if kernel == "lookup_grad" and accumulate:  # the rows that the gradients d_y belong to, not the table
        written = inputs[1][0].size * results[0][1]
    else:
        written = sum(array.size * itemsize for array, itemsize in results)
    return read + written * (2 if accumulate else 1)
