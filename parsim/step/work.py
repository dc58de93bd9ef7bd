"""What a kernel's own law is asked: the work of one call as numpy does it, unfused, and which law that is.

`timing` prices with it, and `calibrate` fits to it, so that both mean the same by a call's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from parsim.cluster.accelerator import KernelLaw
from parsim.cluster.efficiency import kernel_s
from parsim.cluster.scalars import Scalar
from parsim.model.op_kinds import COSTS
from parsim.step.count import extents, flops, hbm_bytes
from parsim.step.holdings import Holding, own_weights, part_elements
from parsim.step.sizes import Sizes
from parsim.step.task import Compute, Finish, Step


@dataclass(frozen=True, slots=True)
class Work:
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
    batched = "_batched" if task.kernel == "einsum" and _shared_dims(task) else ""
    return f"{task.kernel}{batched}{'_add' if task.accumulate else ''}"


def work_of(task: Compute, sizes: Sizes) -> Work:
    """The work of a task, one value per plan: all operands are moved, since numpy fuses nothing."""
    moved = hbm_bytes(replace(task, fused=False), sizes)
    if task.kernel == "draw":
        # A number drawn counts as a FLOP and a sequence, which has a generator of its own, as a matrix; every rank draws the whole tensor
        # before it takes its part.
        dims = task.outputs[0].dims
        return Work(np.prod([sizes.dims[dim] for dim in dims], axis=0), moved, num_matrices=sizes.dims["B"] if "B" in dims else 0.0)
    if task.kernel != "einsum":
        return Work(flops(task, sizes), moved)
    size, written = extents(task, sizes), sum(sizes.num_bytes(output) for output in task.outputs)
    shared = _shared_dims(task)
    matrices: Scalar = np.prod([size[dim] for dim in shared], axis=0) if shared else 0.0
    return Work(flops(task, sizes), moved, written, matrices)


def finish_work(step: Step, work: Finish, sizes: Sizes, holding: Holding, itemsize_bytes: int) -> Iterator[Work]:
    """The calls of one piece of a step's end: one a weight, and all copies of its segment alike."""
    for segment in step.segments:
        for weight in own_weights(segment, step.structure):
            elements = part_elements(sizes.elements(weight.sharding), sizes.degrees["dp"], work.part)
            yield Work(COSTS[work.kernel].per_element * elements, itemsize_bytes * elements, num_calls=holding.of(segment))


def _shared_dims(task: Compute) -> tuple[str, ...]:
    """The dims that both operands and the result of a contraction have, in order."""
    left, right = (operand.dims for operand in task.inputs)
    return tuple(dim for dim in left if dim in right and dim in task.outputs[0].dims)
