"""Seconds of matmuls, grouped ones among them: their shape, their bytes, and what adding into gradients and odd widths cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from parsim.cluster.accelerator import Accelerator, GroupedLaw
from parsim.cluster.efficiency import alignment, gemm_s, grouped_gemm_s, masked_share
from parsim.cluster.scalars import Scalar
from parsim.cost.buckets import elements
from parsim.cost.count import extents, flops, hbm_bytes, operands, results
from parsim.cost.sizes import Ints, Sizes
from parsim.model.dims import COMPUTE, GRADIENT, QUANTISED, TOKEN_DIMS
from parsim.step.task import Compute

# Weight-gradient GEMMs that accumulate in float32 take 3 to 5 % longer than plain ones; the law of a plain one would charge their
# longer output as if nothing hid it.  Source: parsim fit to GEMM tables of SimuMax (A100, B200), layouts with and without accumulation.
ACCUMULATION_FACTOR = 1.04

# Of GEMMs of experts, at most: the exponent that joins their roofs.  Each expert has a kernel of its own, whose loads and sums no other
# hides, so that experts of few tokens take nearly both roofs one after the other, and what is added into gradients counts.
# Source: parsim fit, one number: 108 grouped GEMMs of B200 and 12 of A100 PCIe in SimuMax's tables (TransformerEngine), 7.0 % median, 21 %
# 90th percentile (14.1 % and 33 % by factors of 1.08 and 1.36 for all sizes); by the exponent that suits the other device alone A100 11.9 %
# and B200 16.4 % (tests/compare/grouped_gemm.py).
GROUPED_EXPONENT = 1.6


def plain_gemm_s(task: Compute, sizes: Sizes, accelerator: Accelerator, dtype: str, sustained: Scalar, *, is_batch: bool = False) -> Scalar:
    """Seconds of a GEMM that adds nothing to a gradient; `is_batch`: experts are one batch of products, all of one size."""
    shape, is_grouped = gemm_shape(task, sizes), task.kernel == "grouped_gemm" and not is_batch
    if is_grouped and (law := accelerator.grouped_gemm) is not None:
        return _grouped_gemm_s(task, sizes, accelerator, law, dtype, sustained)
    return gemm_s(
        accelerator,
        flops(task, sizes),
        gemm_bytes(task, sizes),
        dtype,
        shape=shape,
        weight_bytes=weight_bytes(task, sizes),
        aligned=gemm_alignment(task, shape, partial(alignment, accelerator)),
        sustained=sustained,
        exponent=GROUPED_EXPONENT if is_grouped else None,
    )


def _grouped_gemm_s(task: Compute, sizes: Sizes, accelerator: Accelerator, law: GroupedLaw, dtype: str, sustained: Scalar) -> Scalar:
    """Seconds of the products of all experts by the one kernel that the device has for them."""
    shape = gemm_shape(task, sizes)
    return grouped_gemm_s(
        accelerator,
        flops(task, sizes),
        gemm_bytes(task, sizes),
        dtype,
        law=law,
        shape=shape,
        weight_bytes=weight_bytes(task, sizes),
        rows=_rows_of_experts(task, shape),
        aligned=gemm_alignment(task, shape, partial(masked_share, law)),
        sustained=sustained,
    )


def _rows_of_experts(task: Compute, shape: tuple[Ints, Ints, Ints]) -> Ints:
    """The tokens of one expert, on average."""
    return next(side for dims, side in zip(_sides(task), shape, strict=True) if "X" in dims)


def gemm_factor(task: Compute) -> float:
    """How many times as long as a plain GEMM of its size one takes."""
    return ACCUMULATION_FACTOR if adds_to_gradient(task) else 1.0


def adds_to_gradient(task: Compute) -> bool:
    """A weight-gradient GEMM of all tokens that adds into the step's buffer: priced as a plain GEMM x 1.04, its measured cost."""
    return task.accumulate and task.outputs[0].dtype == GRADIENT and task.kernel != "grouped_gemm"


def gemm_bytes(task: Compute, sizes: Sizes) -> Ints:
    """HBM bytes at which a GEMM is priced: one that adds into a gradient as if it wrote a plain output."""
    traffic = hbm_bytes(task, sizes)
    if adds_to_gradient(task):
        longer = 2 * sizes.itemsize_bytes[GRADIENT] - sizes.itemsize_bytes[COMPUTE]  # read and written, against written once
        traffic = traffic - elements(task.outputs[0], sizes) * longer
    return traffic


def weight_bytes(task: Compute, sizes: Sizes) -> Ints:
    """HBM bytes of what a GEMM reads or writes that is a weight or its gradient: tensors without tokens."""
    added = results(task) if task.accumulate and task.kernel == "grouped_gemm" else ()
    lasting = [o for o in (*operands(task), *results(task), *added) if not TOKEN_DIMS.intersection(o.dims)]
    own = {QUANTISED, GRADIENT} if task.kernel == "grouped_gemm" else {QUANTISED}  # else a gradient as if it were plain, see gemm_bytes
    return sum((elements(o, sizes) * sizes.itemsize_bytes[o.dtype if o.dtype in own else COMPUTE] for o in lasting), start=sizes.zero)


def gemm_shape(task: Compute, sizes: Sizes) -> tuple[Ints, Ints, Ints]:
    """m, n and k of one matrix of a GEMM."""
    size = extents(task, sizes)
    m, n, k = (_rows_of_one(task, dims, math.prod((size[dim] for dim in dims), start=sizes.zero + 1), size) for dims in _sides(task))
    return m, n, k


def _rows_of_one(task: Compute, dims: list[str], extent: Ints, size: Mapping[str, Ints]) -> Ints:
    """Of the side that counts tokens an expert has its part, on average; where it has none, as if it had a row of no FLOPs."""
    return np.maximum(-(-extent // size["E"]), 1) if task.kernel == "grouped_gemm" and "X" in dims else extent


def gemm_alignment(task: Compute, shape: tuple[Ints, Ints, Ints], share_of: Callable[[Scalar], Scalar]) -> Scalar:
    """Share of the GEMM rate left by the worst of m, n and k that counts no tokens; a batched GEMM is not charged for its head_dim.

    Tokens cost nothing by being odd: in aiconfigurator's tables GEMMs with m off 64 run as fast as those beside them.
    """
    left, right, out = (set(o.dims) for o in (*operands(task), results(task)[0]))
    if left & right & out:
        return 1.0
    share: Scalar = 1.0
    for dims, width in zip(_sides(task), shape, strict=True):
        if dims and not TOKEN_DIMS.intersection(dims):
            share = np.minimum(share, share_of(width))
    return share


def _sides(task: Compute) -> tuple[list[str], list[str], list[str]]:
    """The dims of m, n and k, in order; what both operands and the result have is a batch of matrices."""
    left, right, out = (set(o.dims) for o in (*operands(task), results(task)[0]))
    batch = left & right & out
    m, n, k = (sorted(both - batch) for both in (left & out, right & out, left & right))
    return m, n, k
