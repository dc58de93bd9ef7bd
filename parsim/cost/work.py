"""What a kernel's own law is asked: the work of one call as numpy does it, unfused, and which law that is.

`timing` prices with it, and `calibrate` fits to it, so that both mean the same by a call's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.cluster.accelerator import KernelLaw
from parsim.cluster.efficiency import kernel_s
from parsim.cluster.scalars import Scalar
from parsim.cost.buckets import Held, num_bytes, weight_elements
from parsim.cost.count import bucket_of, element_bytes, extents, flops, hbm_bytes, operands, results
from parsim.cost.sizes import Sizes
from parsim.model.op_kinds import COSTS, GEMMS
from parsim.step.task import Compute


class Work(Struct, frozen=True):
    """The work of some equal calls of a kernel: what `kernel_s` asks of one, and how many there are."""

    flops: Scalar
    moved_bytes: Scalar
    written_bytes: Scalar = 0.0
    num_matrices: Scalar = 0.0
    num_calls: Scalar = 1.0

    def seconds(self, law: KernelLaw) -> Scalar:
        """Seconds by a law."""
        return kernel_s(
            law,
            self.flops,
            self.moved_bytes,
            written_bytes=self.written_bytes,
            num_matrices=self.num_matrices,
            num_calls=self.num_calls,
        )


def law_name(task: Compute) -> str:
    """The name of the law that prices a task: its kernel, then `_batched` for a batched product, and `_add` where it accumulates."""
    if bucket_of(task) is not None:
        return task.kernel
    kernel = "einsum_batched" if task.kernel in GEMMS and _shared_dims(task) else task.kernel
    return f"{kernel}{'_add' if task.accumulate else ''}"


def works_of(task: Compute, sizes: Sizes, held: Held = None) -> Iterator[Work]:
    """The calls of a task, one value per plan: one of a pass, one a weight at a step's end, where all copies of its segment are alike."""
    bucket = bucket_of(task)
    if bucket is None:
        yield _work_of(task, sizes)
        return
    for segment, weight in bucket.weights:
        count = weight_elements(weight, bucket.part, sizes)
        calls: Scalar = 1.0 if held is None else held.get(segment, 0)
        yield Work(COSTS[task.kernel].per_element * count, element_bytes(task, sizes) * count, num_calls=calls)


def _work_of(task: Compute, sizes: Sizes) -> Work:
    """All operands are moved, since numpy fuses nothing."""
    moved = hbm_bytes(replace(task, fused=False), sizes)
    if task.kernel == "draw":
        # A number drawn counts as a FLOP and a sequence, which has a generator of its own, as a matrix; every rank draws the whole tensor
        # before it takes its part.
        (drawn,) = results(task)
        numbers = np.prod([sizes.dims[dim] for dim in drawn.dims], axis=0)
        return Work(numbers, moved, num_matrices=sizes.dims["B"] if "B" in drawn.dims else 0.0)
    if task.kernel not in GEMMS:
        return Work(flops(task, sizes), moved)
    size, written = extents(task, sizes), sum(num_bytes(output, sizes) for output in task.outputs)
    shared = _shared_dims(task)
    matrices: Scalar = np.prod([size[dim] for dim in shared], axis=0) if shared else 0.0
    return Work(flops(task, sizes), moved, written, matrices)


def _shared_dims(task: Compute) -> tuple[str, ...]:
    """The dims that both operands and the result of a contraction have, in order; that of experts, of which each has its own."""
    if task.kernel == "grouped_gemm":
        return ("E",)
    left, right = (operand.dims for operand in operands(task))
    return tuple(dim for dim in left if dim in right and dim in results(task)[0].dims)
