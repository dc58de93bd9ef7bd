"""Seconds in which tokens come in the order of experts, and back, where a stack has no kernel that does it while it copies.

A stack that sorts repeats each token for its experts, a pass; fetches rows by the sorted index, a second; and adds up what came back, a
third.  One whose experts have a fixed capacity multiplies by a table of zeros and ones instead, and its experts are one batch of products.
Source: AI-Hypercomputer/maxtext@e591f30c, src/maxtext/layers/moe.py (permute, unpermute, _sort_activations_custom; dense_matmul with
capacity_factor: generate_masks, dispatch and combine by einsum).
"""

from __future__ import annotations

import numpy as np

from parsim.cluster.accelerator import Accelerator
from parsim.cluster.efficiency import elementwise_s, gather_s, gemm_s
from parsim.cluster.scalars import Scalar
from parsim.cost.buckets import elements, num_bytes
from parsim.cost.cost_model import CostModel
from parsim.cost.count import hbm_bytes, operands, results
from parsim.cost.sizes import Ints, Sizes
from parsim.model.dims import LINEAR
from parsim.parallel.plan import SORT
from parsim.step.task import Compute

MOVES = ("permute", "unpermute")


def sorts(task: Compute, model: CostModel) -> bool:
    """Whether a kernel moves tokens between their order and that of experts, of a stack that has no kernel of its own for it."""
    return task.kernel in MOVES and model.stack.permute == SORT


def are_batched(sizes: Sizes, model: CostModel) -> bool:
    """Whether all experts are one batch of products, since each has as many rows as it may take, of which some are empty."""
    return model.stack.permute == SORT and any(-1 in each.tokens for each in sizes.slots.values())


def sorted_s(task: Compute, sizes: Sizes, model: CostModel) -> Scalar:
    """Seconds of such a kernel: of what it reads and writes, and of the rows of experts, which are fetched and written again."""
    accelerator = model.cluster.node.accelerator
    if are_batched(sizes, model):
        return _one_hot_s(task, sizes, model)
    rows = np.maximum(num_bytes(operands(task)[0], sizes), num_bytes(results(task)[0], sizes))
    return elementwise_s(accelerator, hbm_bytes(task, sizes)) + gather_s(accelerator, 2 * rows)


def _one_hot_s(task: Compute, sizes: Sizes, model: CostModel) -> Scalar:
    """Seconds of the product of the tokens of a sequence with a table of their slots, of which each has one row."""
    (x,), (y,) = operands(task)[:1], results(task)
    tokens, rows = (x, y) if task.kernel == "permute" else (y, x)
    length = sizes.local(tokens.sharding, "T")
    slots = elements(rows, sizes) // sizes.local(rows.sharding, rows.dims[-1])
    dtype = model.multiplies_in(LINEAR)
    moved = hbm_bytes(task, sizes) + slots * length * sizes.itemsize_bytes[tokens.dtype]
    work = 2 * elements(rows, sizes) * length
    return gemm_s(model.cluster.node.accelerator, work, moved, dtype, sustained=model.sustained_in(dtype))


def order_s(num_bytes: Ints, accelerator: Accelerator, model: CostModel) -> Scalar:
    """Seconds in which what ranks exchanged is put in the order of experts, or back: read and written once."""
    return (gather_s if model.stack.permute == SORT else elementwise_s)(accelerator, 2 * num_bytes)
