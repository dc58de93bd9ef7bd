"""FLOPs, HBM bytes and sent bytes of one task, as integers: what the kernels must agree with, and what timing prices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from parsim.model.op_kinds import COSTS
from parsim.parallel.sharding import Sharding
from parsim.step.choice import closed_forms
from parsim.step.sizes import Ints, Sizes
from parsim.step.task import Communicate, Compute, Operand

if TYPE_CHECKING:
    from parsim.step.timing import Market


def flops(task: Compute, sizes: Sizes) -> Ints:
    """FLOPs of a kernel on one rank: 2 x the product of all extents for a contraction, head_dim x unmasked pairs for flash
    attention, else a number for each element."""
    cost = COSTS[task.kernel]
    if task.kernel == "einsum":
        return np.asarray(2 * np.prod(list(extents(task, sizes).values()), axis=0, dtype=np.int64))
    if cost.family == "attention":
        query, local = task.inputs[0].sharding, sizes.local
        heads = local(query, "B") * local(query, "K") * local(query, "R")
        queries, keys = local(query, "S"), local(task.inputs[1].sharding, "Z")
        pairs = unmasked_pairs(queries) if task.attributes.get("causal", 1) else queries * keys
        return cost.per_element * heads * local(query, "C") * pairs
    if not cost.per_element:
        return np.zeros(sizes.num_plans, dtype=np.int64)
    return cost.per_element * sizes.elements(task.inputs[cost.operand].sharding)


def unmasked_pairs(sequence_length: Ints) -> Ints:
    """Pairs of query and key that a causal mask leaves: s (s + 1) / 2."""
    return sequence_length * (sequence_length + 1) // 2


def extents(task: Compute, sizes: Sizes) -> dict[str, Ints]:
    """Local extent of every dim that a kernel touches."""
    return {dim: sizes.local(o.sharding, dim) for o in (*task.inputs, *task.outputs) for dim in o.dims}


def hbm_bytes(task: Compute, sizes: Sizes) -> Ints:
    """Bytes between HBM and the device: every operand once, an accumulated output twice.

    A fused op finds its first input in registers, and what it changes in place is written by the kernel that holds it.
    """
    skips = COSTS[task.kernel].skips
    read = [o for i, o in enumerate(task.inputs) if i not in skips and not (task.fused and i == 0)]
    written = () if task.fused and task.in_place else task.outputs
    total = np.zeros(sizes.num_plans, dtype=np.int64)
    for operand in (*read, *written, *(written if task.accumulate else ())):
        total = total + sizes.num_bytes(_rows(task, operand, written))
    return total


def _rows(task: Compute, operand: Operand, written: tuple[Operand, ...]) -> Operand:
    """Adding into a table touches the rows of the gradient, not the table."""
    return task.inputs[1] if task.kernel == "lookup_grad" and task.accumulate and operand in written else operand


def payload(task: Communicate) -> Sharding:
    """Where the larger side of a collective lies: what is reduced, or what has been gathered."""
    return task.target.sharding if task.operation == "all_gather" else task.source.sharding


def sent_bytes(task: Communicate, sizes: Sizes, market: Market, position: int) -> Ints:
    """Bytes that the rank at `position` of its group sends."""
    if task.operation == "slice":
        return np.zeros(sizes.num_plans, dtype=np.int64)
    elements = sizes.elements(payload(task))
    itemsize = sizes.itemsize_bytes[task.source.dtype]
    num_ranks, _ = sizes.group(task.axis)
    chosen = closed_forms(task.operation, task.axis, elements * itemsize, sizes, market)
    return np.asarray(chosen.sent_elements(task.operation, position, num_ranks, elements), dtype=np.int64) * itemsize
