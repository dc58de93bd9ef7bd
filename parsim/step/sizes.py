"""Plans as arrays: the extent of every dim and the degree of every axis, one value per plan.  One plan is an array of length 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parsim.errors import ScenarioError
from parsim.model.dims import COMPUTE, FIXED_ITEMSIZE_BYTES, GRADIENT
from parsim.model.spec import ModelSpec
from parsim.parallel.dimensions import axes, split
from parsim.parallel.dimensions import degrees as degrees_of
from parsim.parallel.mesh import fastest_first
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.parallel.sharding import Sharding
from parsim.step.task import Operand

Ints = NDArray[np.int64]
_MOST_FLOPS = 2.0**62  # of a pass: half of int64


@dataclass(frozen=True, slots=True)
class Sizes:
    """Extents of dims (of one micro_batch, all replicas together), degrees of axes, and bytes of an element by role."""

    dims: Mapping[str, Ints]
    degrees: Mapping[str, Ints]
    itemsize_bytes: Mapping[str, int]
    num_plans: int
    rank_order: tuple[str, ...]  # axes from the fastest

    def local(self, sharding: Sharding, dim: str) -> Ints:
        """Extent of one dim on one rank."""
        extent = self.dims[dim]
        for axis in sharding.axes[sharding.dims.index(dim)]:
            extent = extent // self.degrees[axis]
        return extent

    def elements(self, sharding: Sharding) -> Ints:
        """Elements of a tensor on one rank; a scalar has one."""
        count = np.ones(self.num_plans, dtype=np.int64)
        for dim in sharding.dims:
            count = count * self.local(sharding, dim)
        return count

    def num_bytes(self, operand: Operand) -> Ints:
        """Bytes of a buffer on one rank, at its declared dtype."""
        return self.elements(operand.sharding) * self.itemsize_bytes[operand.dtype]

    def group(self, axis: str) -> tuple[Ints, Ints]:
        """Ranks of a group along `axis`, and the distance between neighbours: the product of the faster axes."""
        stride = np.ones(self.num_plans, dtype=np.int64)
        for faster in self.rank_order[: self.rank_order.index(axis)]:
            stride = stride * self.degrees[faster]
        return self.degrees[axis], stride


def padded_vocabulary(vocab_size: int, multiple: int, num_shards: int) -> int:
    """The vocabulary, padded so that every shard is a multiple of `multiple` (Megatron-LM, make-vocab-size-divisible-by).

    >>> padded_vocabulary(50257, 128, 8)
    51200
    """
    unit = multiple * num_shards
    return -(-vocab_size // unit) * unit


def _check_range(dims: Mapping[str, Ints], model: ModelSpec) -> None:
    """Refuse extents whose largest matmul would overflow int64.

    Raises:
        ScenarioError: it would.
    """
    extent = {dim: float(values.max()) for dim, values in dims.items()}
    width = math.prod(extent.get(dim, 0.0) for dim in "KRC")
    widest = max(width, *(extent.get(dim, 0.0) for dim in "DFVYI"))
    largest = 2 * extent["B"] * extent["S"] * max(extent["D"] * widest, width * extent["S"])
    if 20 * largest > _MOST_FLOPS:  # a pass through a layer, backward and recomputation included, is below twenty of its largest
        raise ScenarioError(
            f'model "{model.name}" needs {largest:.1e} FLOPs in one matmul of a micro_batch, more than is counted exactly',
            remedy="Lower micro_batch, sequence_length or the model's widths.",
        )


def sizes_of(model: ModelSpec, batch: Batch, plans: Sequence[Plan], stack: Stack, dtype_bytes: Mapping[str, int]) -> Sizes:
    """Sizes of several plans of one model, batch and rank order.

    >>> from parsim.parallel.plan import Batch, Plan, Stack
    >>> from parsim.model.transformer import TransformerSpec
    >>> tiny = TransformerSpec("tiny", 2, 8, 32, 2, num_kv_heads=2, head_dim=4, vocab_size=64, max_positions=16)
    >>> sizes = sizes_of(tiny, Batch(4, 16), [Plan(data_parallel=2, micro_batch=2)], Stack("any"), {"bf16": 2, "fp32": 4})
    >>> int(sizes.dims["B"][0]), int(sizes.dims["V"][0])
    (4, 128)
    """

    def each(values: Sequence[int]) -> Ints:
        return np.array(values, dtype=np.int64)

    count = len(plans)
    same = {
        **{dim: batch.sequence_length for dim in "STZ"},
        **model.extents,
    }
    dims = {dim: each([extent] * count) for dim, extent in same.items()}
    dims["B"] = each([plan.micro_batch * split(plan, "B") for plan in plans])
    if "V" in same:
        dims["V"] = each([padded_vocabulary(same["V"], stack.vocab_multiple, split(plan, "V")) for plan in plans])
    by_plan = [degrees_of(plan) for plan in plans]
    degrees = {axis: each([found[axis] for found in by_plan]) for axis in axes()}
    _check_range(dims, model)
    compute = dtype_bytes[batch.dtype]
    itemsize = {
        COMPUTE: compute,
        GRADIENT: compute if stack.gradient_dtype == "compute" else dtype_bytes[stack.gradient_dtype],
        **FIXED_ITEMSIZE_BYTES,
    }
    return Sizes(dims, degrees, itemsize, count, fastest_first(plans[0].rank_order))
