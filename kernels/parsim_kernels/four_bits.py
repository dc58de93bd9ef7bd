"""Matrices in 4 bits (nf4), emulated: an element is one of 16 levels times the scale of its block, and scales may be in 8 bits themselves.

Source: Dettmers et al. 2023 (arXiv:2305.14314), section 3, and appendix E for the levels; bitsandbytes, functional.py (`quantize_4bit`, and
`create_dynamic_map` for scales, whose levels are denser near 0: Dettmers 2016, arXiv:1511.04561).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh

BLOCK, GROUP = 64, 256  # elements that share a scale, and scales that share another
LEVELS: Final = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def scale_levels() -> Array:
    """The 256 levels of a scale in 8 bits: of each power of ten twice as many as of that below, in the middle of equal steps, and 0 and 1.

    >>> found = scale_levels()
    >>> len(found), found[[0, 127, 255]].tolist(), float(found[128])
    (256, [-0.99296875, 0.0, 1.0], 5.5e-07)
    """
    found = [0.0, 1.0]
    for power in range(7):
        edges = np.linspace(0.1, 1.0, 2**power + 1)
        found += [sign * 10.0 ** (power - 6) * middle for middle in (edges[:-1] + edges[1:]) / 2 for sign in (-1, 1)]
    return np.array(sorted(found))


def pack(matrix: Array, num_matrices: int, *, double: bool) -> tuple[Array, ...]:
    """A matrix, or several one behind the other, as 16 x the block + the level of each element, and the scales of blocks.

    A block is of neighbours in memory, and of one matrix.  A scale is the largest magnitude, in float32; with `double` it is one of
    `scale_levels` times the largest distance from the mean in its group, which follow it: the last result has that mean behind these.

    >>> places, scales = pack(np.array([[0.5, -2.0], [0.0, 1.4]]), 1, double=False)
    >>> places.tolist(), scales.tolist()
    ([[10, 0], [7, 14]], [2.0])
    """
    flat = matrix.reshape(num_matrices, -1)
    blocks = np.pad(flat, ((0, 0), (0, -flat.shape[1] % BLOCK))).reshape(-1, BLOCK)
    scales = np.abs(blocks).max(1).astype(np.float32).astype(matrix.dtype)
    levels = _nearest(blocks / np.where(scales, scales, 1.0)[:, None], np.array(LEVELS))
    places = (16 * np.arange(len(blocks))[:, None] + levels).reshape(num_matrices, -1)[:, : flat.shape[1]].reshape(matrix.shape)
    if not double:
        return places, scales
    mean = np.float32(scales.mean())
    apart = scales - mean
    groups = np.arange(len(scales)) // GROUP
    largest = np.array([np.abs(apart[groups == group]).max() for group in range(groups[-1] + 1)], np.float32).astype(matrix.dtype)
    codes = _nearest(apart / np.where(largest, largest, 1.0)[groups], scale_levels())
    return places, codes, np.append(largest, mean)


def dequantise(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The matrix that `pack` made, from its results.  n FLOPs.

    >>> dequantise(pack(np.array([[0.5, -2.0]]), 1, double=False), {})[0][0].tolist()
    [[0.4922246038913727, -2.0]]
    """
    places, *scales = inputs
    of_blocks = scales[0]
    if len(scales) > 1:
        codes, (*largest, mean) = scales
        of_blocks = np.asarray(scale_levels()[codes] * np.array(largest)[np.arange(len(codes)) // GROUP] + mean)
    block, level = np.divmod(places, 16)
    y = out(places.shape, scales[-1].dtype)
    np.multiply(np.array(LEVELS)[level], of_blocks[block], out=y)
    return (y,), places.size


def _nearest(x: Array, levels: Array) -> Array:
    """The place of the nearest of ascending levels."""
    return np.searchsorted((levels[:-1] + levels[1:]) / 2, x)
