"""The contraction of two arrays over named dims.  It is its own gradient: each gradient is a contraction with another expression."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from parsim_kernels.signature import Array, Attributes, Out, Result, extents, fresh, terms

Dims = tuple[str, ...]


def einsum(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> Result:
    """The contraction attributes["expr"] of two operands, as one (batched) matmul.  2 x the product of all extents FLOPs.

    Raises:
        ValueError: the expression does not fit the arrays, or an output dim stands in neither operand.

    Source: a multiply and an add a term of the sum; Narayanan et al. 2021 (arXiv:2104.04473), appendix, counts so.

    >>> (product,), flops = einsum((np.ones((2, 3)), np.ones((3, 5))), {"expr": "B D, D F -> B F"})
    >>> product.shape, float(product[0, 0]), flops
    ((2, 5), 3.0, 60)
    """
    (left_dims, right_dims), out_dims = terms(attributes, 2)
    left, right = inputs
    sizes = extents((left_dims, left), (right_dims, right))
    if missing := set(out_dims) - set(sizes):
        raise ValueError(f"output dims {sorted(missing)} of {attributes['expr']!r} stand in no operand")
    left, left_dims = _sum_absent(left, left_dims, {*right_dims, *out_dims})
    right, right_dims = _sum_absent(right, right_dims, {*left_dims, *out_dims})
    product = out(tuple(sizes[d] for d in out_dims), np.result_type(left.dtype, right.dtype))
    plan = _plan(left_dims, right_dims, out_dims, tuple(sizes.items()))
    _multiply(plan.left.of(left), plan.right.of(right), plan.out.of(product))
    return (product,), 2 * math.prod(sizes.values())


@dataclass(frozen=True, slots=True)
class _View:
    """How an array is seen as a stack of matrices: dims longer than 1, in another order, some merged."""

    long: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def of(self, array: Array) -> Array:
        """A view where the merged dims lie together, else a copy."""
        return array.reshape(self.long).transpose(self.order).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class _Plan:
    left: _View  # batch, rows that loop, 1 a column that loops, rows, summed
    right: _View  # batch, 1 a row that loops, columns that loop, summed, columns
    out: _View  # batch, rows that loop, columns that loop, rows, columns


@lru_cache(maxsize=4096)
def _plan(left: Dims, right: Dims, out: Dims, extents: tuple[tuple[str, int], ...]) -> _Plan:
    """The views of an expression's arrays; a copy is needed only where several summed dims lie in another order in each operand.

    Dims that are neighbours in both arrays that bear them are one.  Of several groups of rows the longest are the rows of the matrices;
    the others loop, as do the columns.
    """
    sizes = dict(extents)
    left, right, out = (tuple(d for d in dims if sizes[d] != 1) for dims in (left, right, out))
    batch = [(d,) for d in left if d in right and d in out]
    in_left = math.prod(sizes[d] for d in left) >= math.prod(sizes[d] for d in right)
    longer, shorter = (left, right) if in_left else (right, left)
    summed = tuple(d for d in longer if d in shorter and d not in out)
    *row_loops, rows = _groups([d for d in left if d not in right], left, out, sizes)
    *column_loops, columns = _groups([d for d in right if d not in left], right, out, sizes)
    nothing: Dims = ()

    def view(dims: Dims, groups: Iterable[Dims]) -> _View:
        parts = tuple(groups)
        order = tuple(dims.index(d) for group in parts for d in group)
        return _View(tuple(sizes[d] for d in dims), order, tuple(math.prod(sizes[d] for d in group) for group in parts))

    return _Plan(
        view(left, (*batch, *row_loops, *(nothing for _ in column_loops), rows, summed)),
        view(right, (*batch, *(nothing for _ in row_loops), *column_loops, summed, columns)),
        view(out, (*batch, *row_loops, *column_loops, rows, columns)),
    )


def _groups(dims: Sequence[str], operand: Dims, out: Dims, sizes: dict[str, int]) -> list[Dims]:
    """Dims of one operand, merged where they are neighbours in it and in the output; the longest group comes last."""
    groups: list[Dims] = []
    for dim in dims:
        last = groups[-1][-1] if groups else ""
        if last and operand.index(dim) == operand.index(last) + 1 and out.index(dim) == out.index(last) + 1:
            groups[-1] = (*groups[-1], dim)
        else:
            groups.append((dim,))
    return sorted(groups, key=lambda group: math.prod(sizes[d] for d in group)) or [()]


def _multiply(left: Array, right: Array, out: Array) -> None:
    """out = left @ right, in an orientation in which BLAS can write it."""
    left, right = (matrix if _is_dense(matrix) else np.ascontiguousarray(matrix) for matrix in (left, right))
    if out.strides[-1] == out.itemsize:
        np.matmul(left, right, out=out)
    elif _is_dense(out):
        np.matmul(right.swapaxes(-1, -2), left.swapaxes(-1, -2), out=out.swapaxes(-1, -2))
    else:
        out[...] = np.matmul(left, right)


def _is_dense(matrix: Array) -> bool:
    """Whether the elements of a row, or of a column, lie side by side, as BLAS wants them."""
    return matrix.itemsize in matrix.strides[-2:]


def _sum_absent(array: Array, dims: Dims, used: set[str]) -> tuple[Array, Dims]:
    lone = tuple(i for i, dim in enumerate(dims) if dim not in used)
    return (array.sum(axis=lone), tuple(dim for dim in dims if dim in used)) if lone else (array, dims)
