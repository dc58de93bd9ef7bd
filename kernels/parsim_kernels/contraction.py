"""The contraction of two arrays over named dims.  It is its own gradient: each gradient is a contraction with another expression."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parsim_kernels.signature import Array, Attributes, Result, extents, terms


def einsum(inputs: Sequence[Array], attributes: Attributes) -> Result:
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
    batch = [d for d in left_dims if d in right_dims and d in out_dims]
    summed = [d for d in left_dims if d in right_dims and d not in out_dims]
    rows = [d for d in left_dims if d not in right_dims]
    columns = [d for d in right_dims if d not in left_dims]
    product = _matrix(left, left_dims, batch, rows, summed) @ _matrix(right, right_dims, batch, summed, columns)
    dims = [*batch, *rows, *columns]
    whole = product.reshape([sizes[d] for d in dims]).transpose([dims.index(d) for d in out_dims])
    return (np.asarray(whole, order="C"),), 2 * math.prod(sizes.values())


def _sum_absent(array: Array, dims: tuple[str, ...], used: set[str]) -> tuple[Array, tuple[str, ...]]:
    lone = tuple(i for i, dim in enumerate(dims) if dim not in used)
    return (array.sum(axis=lone), tuple(dim for dim in dims if dim in used)) if lone else (array, dims)


def _matrix(array: Array, dims: tuple[str, ...], batch: Sequence[str], rows: Sequence[str], columns: Sequence[str]) -> Array:
    ordered = array.transpose([dims.index(d) for d in (*batch, *rows, *columns)])
    cut = len(batch), len(batch) + len(rows)
    return ordered.reshape(*ordered.shape[: cut[0]], math.prod(ordered.shape[cut[0] : cut[1]]), math.prod(ordered.shape[cut[1] :]))
