"""Numbers of 8 and 4 bits, emulated: each element becomes the nearest that the format holds once its group is scaled into range.

A group shares a scale: the whole tensor, or a block of it.  Results hold the values that a GEMM multiplies, scales included, so that any
kernel may read them.  Source: Micikevicius et al. 2022 (arXiv:2209.05433), section 3; Rouhani et al. 2023 (arXiv:2310.10537), section 3;
NVIDIA Transformer Engine, user guide, FP8 and NVFP4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Final

import numpy as np

from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, integer, real


@dataclass(frozen=True, slots=True)
class MiniFloat:
    """A binary format without infinities in use: what does not fit becomes the largest."""

    fraction_bits: int
    smallest_exponent: int  # of a normal number
    largest: float


FORMATS: Final = {"e4m3": MiniFloat(3, -6, 448.0), "e5m2": MiniFloat(2, -14, 57344.0), "e2m1": MiniFloat(1, 0, 6.0)}
_POWERS: Final = "e8m0"  # a scale that is a power of two, and so large that nothing is cut off
_BLOCK_AND_TENSOR: Final = "e4m3"  # a scale of 8 bits a block, beside one of float32 a tensor


def nearest(x: Array, name: str) -> Array:
    """The nearest numbers of a format, ties to even, cut off at its largest.

    >>> nearest(np.array([0.3, 17.0, 19.0, 1e6, 2.0**-10]), "e4m3").tolist()
    [0.3125, 16.0, 20.0, 448.0, 0.0]
    """
    kind = FORMATS[name]
    _, exponent = np.frexp(x)  # x = fraction 2^exponent, fraction in [1/2, 1)
    step = np.maximum(exponent - 1, kind.smallest_exponent) - kind.fraction_bits
    rounded = np.ldexp(np.rint(np.ldexp(x, -step)), step)
    return np.asarray(np.clip(rounded, -kind.largest, kind.largest))


def absmax(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The largest magnitude of x: one, or one a tile; of a part of flattened matrices one a block, 0 where it has none of it.  n FLOPs."""
    (x,) = inputs
    if "cut" in attributes:
        block, count = _blocks_of_part(x, attributes)
        found = out((count,) if count > 1 else (), real(x))
        found.fill(0)
        np.maximum.at(found.reshape(-1), block, np.abs(_as_read(x.reshape(-1)[: len(block)])))
        return (found,), x.size
    tiles = _extents(x, attributes)
    counts = tuple(map(len, tiles))
    found = out(counts if max(counts, default=1) > 1 else (), real(x))
    flat = found.reshape(-1)
    for place, part in enumerate(_tiles(tiles, attributes)):
        flat[place] = np.max(np.abs(_as_read(x[part])), initial=0.0)
    return (found,), x.size


def quantise(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x in a narrow format, from x or (x, absmax of x): a result for each of attributes["layouts"].  2 n FLOPs, to scale and to round.

    The first attributes["rows"] dims of x are the rows of a matrix.  In layout `row` a block lies `along` so many columns, `across` so
    many rows, in `col` the other way; 0 stands for all.  Where attributes["tiles"] says so, each dim is cut into so many equal parts, or
    into parts of these extents, that are scaled by themselves, as if each lay on another rank; attributes["orders"] says in which order
    the places of a dim are for that.  Where attributes["cut"] = (first, count, rows, columns) says so, x is the part from `first` on of as
    many flattened matrices, padded, whose blocks are as large along as across, and the second input is their `absmax`.

    >>> x = np.array([[1.0, 0.3], [100.0, 30.0]])
    >>> told = {"format": "e2m1", "scale": "e8m0", "rows": 1, "across": 1, "along": 2, "layouts": "row"}
    >>> quantise((x,), told)[0][0].tolist()
    [[1.0, 0.25], [96.0, 32.0]]
    """
    x = inputs[0]
    tiles, layouts = _extents(x, attributes), str(attributes["layouts"]).split()
    results = tuple(out(x.shape, real(x)) for _ in layouts)
    known = inputs[1].reshape(-1) if len(inputs) > 1 else None
    if "cut" in attributes and known is not None:
        results[0][...] = _part_in_blocks(x.reshape(-1), known, attributes).reshape(x.shape)
        return results, 2 * x.size
    for place, part in enumerate(_tiles(tiles, attributes)):
        tile = _as_read(x[part])
        if not tile.size:
            continue
        matrix = tile.reshape(math.prod(tile.shape[: integer(attributes, "rows")]), -1)
        most = float(np.max(np.abs(matrix), initial=0.0)) if known is None else float(known[place])
        for layout, result in zip(layouts, results, strict=True):
            result[part] = _in_blocks(matrix, most, layout, attributes).reshape(tile.shape)
    return results, 2 * x.size


def _in_blocks(matrix: Array, most: float, layout: str, attributes: Attributes) -> Array:
    """A matrix rounded block by block; the last block of a line may be short."""
    name, kind = str(attributes["format"]), str(attributes["scale"])
    sides = integer(attributes, "across"), integer(attributes, "along")
    if not any(sides):
        return _round_group(matrix, np.float64(most), most, name, kind)
    sides = sides if layout == "row" else sides[::-1]
    rows, columns = (side or max(extent, 1) for side, extent in zip(sides, matrix.shape, strict=True))
    padded = np.pad(matrix, ((0, -matrix.shape[0] % rows), (0, -matrix.shape[1] % columns)))
    blocks = padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
    largest = np.max(np.abs(blocks), axis=(1, 3), keepdims=True, initial=0.0)
    rounded = _round_group(blocks, largest, most, name, kind).reshape(padded.shape)
    return np.asarray(rounded[: matrix.shape[0], : matrix.shape[1]])


def _blocks_of_part(x: Array, attributes: Attributes) -> tuple[Array, int]:
    """The block of each element of a part of flattened matrices that is not padding, and how many blocks all have."""
    first, count, rows, columns = _place_of_part(attributes)
    matrix, rest = np.divmod(np.arange(first, min(first + x.size, count * rows * columns)), max(rows * columns, 1))
    side = integer(attributes, "along")
    if not side:
        return matrix, count
    down, over = -(-rows // side), -(-columns // side)
    return (matrix * down + rest // columns // side) * over + rest % columns // side, count * down * over


def _place_of_part(attributes: Attributes) -> tuple[int, ...]:
    told = attributes["cut"]
    return tuple(each for each in told if isinstance(each, int)) if isinstance(told, tuple) else ()


def _part_in_blocks(x: Array, largest: Array, attributes: Attributes) -> Array:
    """A part of flattened matrices, rounded by what is largest in their blocks."""
    block, num_blocks = _blocks_of_part(x, attributes)
    _, count, *_ = _place_of_part(attributes)
    each, found = num_blocks // count, np.zeros(x.shape, real(x))
    for matrix in range(count):
        (own,), most = np.nonzero(block // each == matrix), float(np.max(largest[matrix * each : (matrix + 1) * each]))
        found[own] = _round_group(_as_read(x[own]), largest[block[own]], most, str(attributes["format"]), str(attributes["scale"]))
    return found


def _round_group(x: Array, largest: Array | np.float64, most: float, name: str, kind: str) -> Array:
    """The values of x in a format: scaled so that the largest of a group comes to the format's, rounded, and scaled back."""
    room = FORMATS[name].largest
    safe = np.where(largest > 0, largest, room)
    if kind == _POWERS:
        factor = np.exp2(-np.ceil(np.log2(safe / room)))
    elif kind == _BLOCK_AND_TENSOR:
        of_tensor = np.float64(FORMATS[kind].largest * room / most if most > 0 else 1.0)
        block = nearest(safe / room * of_tensor, kind)
        factor = of_tensor / np.where(block > 0, block, 1.0)
    else:
        factor = np.minimum(room / safe, np.finfo(np.float32).max).astype(np.float32).astype(np.float64)
    return np.asarray(nearest(x * factor, name) / factor)


def _as_read(x: Array) -> Array:
    """x as float32 holds it, which is more than a kernel reads: what lies on a tie but for float64's own rounding lies on it."""
    return np.asarray(x.astype(np.float32).astype(np.float64))


def _extents(x: Array, attributes: Attributes) -> list[tuple[int, ...]]:
    """Of the tiles along each dim."""
    told = attributes.get("tiles")
    given = told if isinstance(told, tuple) else (1,) * x.ndim
    return [each if isinstance(each, tuple) else (extent // each,) * each for each, extent in zip(given, x.shape, strict=True)]


def _tiles(extents: Sequence[tuple[int, ...]], attributes: Attributes) -> Iterator[tuple[slice | Array, ...]]:
    parts = product(*([slice(end - extent, end) for extent, end in zip(own, accumulate(own), strict=True)] for own in extents))
    orders = attributes.get("orders")
    if not isinstance(orders, tuple) or not any(orders):
        return parts
    lines = [np.array(order) if order else np.arange(sum(own)) for order, own in zip(orders, extents, strict=True)]
    return (np.ix_(*(line[part] for line, part in zip(lines, each, strict=True))) for each in parts)
