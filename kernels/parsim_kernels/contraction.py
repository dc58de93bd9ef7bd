"""The contraction of two arrays over named dims.  It is its own gradient: each gradient is a contraction with another expression."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from parsim_kernels.signature import Array, Attributes, KernelResult, Out, expression, extents, fresh, joint, terms

_DimNames = tuple[str, ...]
_Extents = tuple[int, ...]


def einsum(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The contraction attributes["expr"] of two operands, as one (batched) matmul.  2 x the product of all extents FLOPs.

    Raises:
        ValueError: the expression does not fit the arrays, or an output dim stands in neither operand.

    Source: a multiply and an add a term of the sum; Narayanan et al. 2021 (arXiv:2104.04473), appendix, counts so.

    >>> (product,), flops = einsum((np.ones((2, 3)), np.ones((3, 5))), {"expr": "B D, D F -> B F"})
    >>> product.shape, float(product[0, 0]), flops
    ((2, 5), 3.0, 60)
    """
    left, right = inputs
    plan = _matmul_views(expression(attributes), left.shape, right.shape)
    left, right = plan.left.of(left), plan.right.of(right)
    product = out(plan.shape, joint(left, right))
    _multiply(left, right, plan.out.of(product))
    return (product,), plan.flops


@dataclass(frozen=True, slots=True)
class _View:
    """How an array is seen as a stack of matrices.  A step that would change nothing is left out."""

    absent: _Extents  # dims that stand nowhere else are summed
    long: _Extents | None  # dims longer than 1
    order: _Extents | None  # in another order
    shape: _Extents | None  # some merged

    def of(self, array: Array) -> Array:
        """A view where the merged dims lie together, else a copy."""
        if self.absent:
            array = np.add.reduce(array, axis=self.absent)
        if self.long is not None:
            array = array.reshape(self.long)
        if self.order is not None:
            array = array.transpose(self.order)
        return array if self.shape is None else array.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class _MatmulViews:
    left: _View  # batch, rows that loop, 1 a column that loops, rows, summed
    right: _View  # batch, 1 a row that loops, columns that loop, summed, columns
    out: _View  # batch, rows that loop, columns that loop, rows, columns
    shape: _Extents  # of the product
    flops: int


@lru_cache(maxsize=4096)
def _matmul_views(expr: str, left_shape: _Extents, right_shape: _Extents) -> _MatmulViews:
    """The views of an expression's arrays; a copy is needed only where several summed dims lie in another order in each operand.

    Dims that are neighbours in both arrays that bear them are one.  Of several groups of rows the longest are the rows of the matrices;
    the others loop, as do the columns.
    """
    (all_left, all_right), all_out = terms(expr, 2)
    sizes = extents((all_left, left_shape), (all_right, right_shape))
    if missing := set(all_out) - set(sizes):
        raise ValueError(f"output dims {sorted(missing)} of {expr!r} stand in no operand")
    kept = ({*all_left} & {*all_right}) | {*all_out}
    left, right, out = (tuple(d for d in dims if d in kept and sizes[d] != 1) for dims in (all_left, all_right, all_out))
    batch = [(d,) for d in left if d in right and d in out]
    in_left = math.prod(sizes[d] for d in left) >= math.prod(sizes[d] for d in right)
    longer, shorter = (left, right) if in_left else (right, left)
    summed = tuple(d for d in longer if d in shorter and d not in out)
    *row_loops, rows = _groups([d for d in left if d not in right], left, out, sizes)
    *column_loops, columns = _groups([d for d in right if d not in left], right, out, sizes)
    nothing: _DimNames = ()

    def view(dims: _DimNames, long: _DimNames, groups: Iterable[_DimNames]) -> _View:
        absent = tuple(i for i, d in enumerate(dims) if d not in kept)
        return _view(absent, [d for d in dims if d in kept], long, tuple(groups), sizes)

    return _MatmulViews(
        view(all_left, left, (*batch, *row_loops, *(nothing for _ in column_loops), rows, summed)),
        view(all_right, right, (*batch, *(nothing for _ in row_loops), *column_loops, summed, columns)),
        view(all_out, out, (*batch, *row_loops, *column_loops, rows, columns)),
        tuple(sizes[d] for d in all_out),
        2 * math.prod(sizes.values()),
    )


def _view(absent: _Extents, dims: Sequence[str], long: _DimNames, groups: Sequence[_DimNames], sizes: dict[str, int]) -> _View:
    """The steps from an array of `dims`, once `absent` are summed, over its `long` dims to the merged `groups`."""
    order = tuple(long.index(d) for group in groups for d in group)
    start, first = tuple(sizes[d] for d in dims), tuple(sizes[d] for d in long)
    last = tuple(math.prod(sizes[d] for d in group) for group in groups)
    is_ordered = order == tuple(range(len(order)))
    merges = last != tuple(first[i] for i in order)
    in_one_step = is_ordered and merges and last != start
    return _View(absent, None if first == start or in_one_step else first, None if is_ordered else order, last if merges else None)


def _groups(dims: Sequence[str], operand: _DimNames, out: _DimNames, sizes: dict[str, int]) -> list[_DimNames]:
    """Dims of one operand, merged where they are neighbours in it and in the output; the longest group comes last."""
    groups: list[_DimNames] = []
    for dim in dims:
        last = groups[-1][-1] if groups else ""
        if last and operand.index(dim) == operand.index(last) + 1 and out.index(dim) == out.index(last) + 1:
            groups[-1] = (*groups[-1], dim)
        else:
            groups.append((dim,))
    return sorted(groups, key=lambda group: math.prod(sizes[d] for d in group)) or [()]


def _multiply(left: Array, right: Array, out: Array) -> None:
    """out = left @ right, in an orientation in which BLAS can write it."""
    left = left if _is_dense(left) else np.ascontiguousarray(left)
    right = right if _is_dense(right) else np.ascontiguousarray(right)
    if out.strides[-1] == out.itemsize:
        np.matmul(left, right, out=out)
    elif _is_dense(out):
        np.matmul(right.swapaxes(-1, -2), left.swapaxes(-1, -2), out=out.swapaxes(-1, -2))
    else:
        out[...] = np.matmul(left, right)


def _is_dense(matrix: Array) -> bool:
    """Whether the elements of a row, or of a column, lie side by side, as BLAS wants them."""
    return matrix.itemsize in matrix.strides[-2:]
