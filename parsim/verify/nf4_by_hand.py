"""A matrix in nf4 by hand, block by block: Dettmers et al. 2023 (arXiv:2305.14314), section 3.  The levels themselves are the kernels'."""

from __future__ import annotations

import numpy as np

from parsim_kernels.four_bits import LEVELS
from parsim_kernels.signature import Array


def in_nf4(matrix: Array, num_matrices: int, *, double: bool) -> Array:
    """What is left of each of so many matrices in blocks of 64 elements, whose scales have 8 bits each where these are double quantised."""
    rows = matrix.reshape(num_matrices, -1)
    cuts = [(row, start, start + 64) for row in range(num_matrices) for start in range(0, rows.shape[1], 64)]
    scales = np.array([float(np.float32(abs(rows[row, start:stop]).max())) for row, start, stop in cuts])
    found, made = np.empty_like(rows), _in_8_bits(scales) if double else scales
    for (row, start, stop), scale, wide in zip(cuts, scales, made, strict=True):
        found[row, start:stop] = [_closest(x / scale, LEVELS) * wide if scale else 0.0 for x in rows[row, start:stop]]
    return found.reshape(matrix.shape)


def bytes_in_nf4(elements: int, *, double: bool) -> int:
    """Bytes of a matrix of which each 256 blocks of 64 elements have scales in float32, or in a byte and one more in float32."""
    scales = 256 + 4 if double else 256 * 4
    return -(-elements * (256 * 64 // 2 + scales) // (256 * 64))


def _in_8_bits(scales: Array) -> Array:
    """Each less the mean is one of 256 levels times the largest of 256 such: seven powers of ten, of 1, 2 ... 64 levels, and 0 and 1."""
    mean = float(np.float32(scales.mean()))
    positive = [10 ** (power - 6) * (0.1 + 0.9 * (step + 0.5) / 2**power) for power in range(7) for step in range(2**power)]
    levels, found = [0.0, 1.0, *positive, *(-each for each in positive)], np.empty_like(scales)
    for start in range(0, len(scales), 256):
        own = scales[start : start + 256] - mean
        largest = float(np.float32(abs(own).max()))
        found[start : start + 256] = [mean + (largest * _closest(x / largest, levels) if largest else 0.0) for x in own]
    return found


def _closest(x: float, levels: list[float] | tuple[float, ...]) -> float:
    return min(levels, key=lambda level: abs(level - x))
