"""Calls of kernels on a rank's buffers: one for a kernel of a pass, one a weight for a kernel of a step's end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from parsim.cost.buckets import matrices, weight_elements
from parsim.cost.sizes import Sizes
from parsim.executor.job import Job, Named
from parsim.executor.names import NORM, RankScope, Scope, buffers
from parsim.parallel.dimensions import DENSE, EXPERT, axes_of, axis_of, view_of
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.parallel.precision import ROW, Narrowing
from parsim.scenario.types import Training
from parsim.step.quantise import told_of
from parsim.step.task import COMPUTE_STREAM, Bucket, Collective, Compute, Operand, Weight
from parsim_kernels import Machine
from parsim_kernels.signature import Attributes

Names = tuple[str, ...]


class KernelUse(Struct, frozen=True, kw_only=True):
    """One call of a kernel on the buffers of a memory: a rank's, or its host's."""

    memory: int
    kernel: str
    inputs: Names
    outputs: Names
    attributes: Attributes
    itemsizes: tuple[int, ...] = ()  # bytes an element of new buffers
    modes: Mapping[str, bool]  # accumulate, in_place, overwrite

    def run(self, machine: Machine, now: Mapping[str, int] | None = None) -> None:
        """Do it; `now`: what the kernel is told that differs from step to step."""
        attributes = {**self.attributes, **now} if now else self.attributes
        machine.compute(self.memory, self.kernel, self.inputs, self.outputs, self.itemsizes, attributes, **self.modes)


def pass_kernel(job: Job, number: int, sizes: Sizes, task: Compute, named: Named) -> KernelUse:
    """The call of a task of a pass."""
    return KernelUse(
        memory=number,
        kernel=task.kernel,
        inputs=named.inputs,
        outputs=named.outputs,
        attributes=job.attributes(task, sizes),
        itemsizes=tuple(job.itemsize(value.dtype) for value in task.outputs),
        modes={"accumulate": task.accumulate, "in_place": task.in_place, "overwrite": task.overwrite},
    )


def finish_kernels(job: Job, number: int, at: Mapping[str, int], task: Compute, scope: Scope | RankScope) -> Iterator[KernelUse]:
    """The calls of a task of a step's end, or of an update in a pass."""
    bucket = next(value for value in task.inputs if isinstance(value, Bucket))
    for instance, weight in scope.owners(bucket):
        yield _WeightKernel(job, number, at, task, instance, weight).use()


def told_of_weight(job: Job, weight: Weight, at: Mapping[str, int]) -> Attributes:
    """What the kernel is told that makes the narrow layouts of a lasting weight on the rank at these coordinates."""
    how = narrows_of(job)
    return {**told_of(how.attributes(weight=True), weight.narrow_rows, how.layouts), **job.tiles(weight.sharding, job.sizes.at(at))}


def told_of_shard(job: Job, weight: Weight, at: Mapping[str, int]) -> Attributes:
    """The same of this rank's own part of a flattened weight."""
    sizes = job.sizes.at(at)
    first = job.mesh.position(at, weight.group) * int(weight_elements(weight, "shard", sizes)[0]) if weight.group.axes else 0
    cut = first, *(int(each[0]) for each in matrices(weight, sizes))
    return {**told_of(narrows_of(job).attributes(weight=True), 1, (ROW,)), "cut": cut}


def told_of_update(given: Training) -> Attributes:
    """What the kernel of an optimizer is told; each takes what it knows."""
    decays = {"beta1": given.beta1, "beta2": given.beta2, "weight_decay": given.weight_decay, "momentum": given.momentum}
    return {"lr": given.learning_rate, "eps": given.eps, **decays}


def narrows_of(job: Job) -> Narrowing:
    """How weights that last are narrow."""
    found = job.step.structure.lasting_narrow
    assert found
    return found


class _WeightKernel(Struct, frozen=True):
    """A kernel of a step's end on one weight."""

    job: Job
    number: int
    at: Mapping[str, int]
    task: Compute
    instance: str
    weight: Weight

    def use(self) -> KernelUse:
        inputs = tuple(name for value in self.task.inputs for name in self.names(value))
        outputs = tuple(name for value in self.task.outputs for name in self.names(value))
        modes = {"accumulate": self.task.accumulate, "in_place": self.task.in_place}
        modes["overwrite"] = not any(modes.values())
        memory, told = self.number if self.is_on_device else self.number + self.job.num_ranks, self.attributes()
        return KernelUse(memory=memory, kernel=self.task.kernel, inputs=inputs, outputs=outputs, attributes=told, modes=modes)

    @property
    def is_on_device(self) -> bool:
        return self.task.stream == COMPUTE_STREAM

    def names(self, value: Operand | Bucket) -> Names:
        """The buffers of one input or output."""
        if isinstance(value, Operand):
            return (value.name,)
        name, structure = f"{self.instance}/{self.weight.name}", self.job.step.structure
        if value.role == "gradients" and not self.is_on_device:
            return (f"{name}.{value.dtype}",)
        if value.role == "quantised" and not value.layout:
            return tuple(name + layout for layout in narrows_of(self.job).layouts)
        if value.role != "states":
            return buffers([(self.instance, self.weight)], value, value.part)
        has_master = structure.master_weights or structure.offload
        (own,) = (f"{name}.master",) if has_master else buffers([(self.instance, self.weight)], value, value.part)
        states = OPTIMIZERS[structure.optimizer].states if "optimizer" in self.task.attributes else ()
        return (own, *(f"{name}.{state}" for state, _ in states))

    def attributes(self) -> Attributes:
        """What the kernel is told; each takes what it knows."""
        if self.task.kernel == "norm_sq":
            return {"scale": self.norm_scale()}
        if self.task.kernel == "clip":
            return {"max_norm": self.job.training.max_norm}
        if self.task.kernel == "steer":
            return {"rate": self.job.spec.steering}
        if self.task.kernel in ("absmax", "quantise") and self.job.step.structure.gathers_narrow:
            return told_of_shard(self.job, self.weight, self.at)
        if self.task.kernel == "quantise":
            return told_of_weight(self.job, self.weight, self.at)
        if "outer_optimizer" in self.task.attributes:
            given = self.job.training
            outer = {"lr": given.outer_learning_rate, "momentum": given.outer_momentum}
            return {"replicas": self.job.num_apart, **(outer if self.task.kernel == "outer_nesterov" else {})}
        if "optimizer" not in self.task.attributes:
            return {}
        return told_of_update(self.job.training)

    @property
    def is_copy(self) -> bool:
        """Whether a rank before this one holds the same kv head."""
        return self.weight.makes_kv_heads and self.at[axis_of("tensor_parallel")] % int(self.job.sizes.kv_copies[0]) > 0

    @property
    def is_mirror(self) -> bool:
        """Whether a rank before this one on the pipeline holds the same stages."""
        return self.job.step.structure.is_mirrored and self.at["pp"] >= self.job.workload.num_ranks // 2

    def norm_scale(self) -> float:
        """Each element of a gradient counts once: on the first of the ranks that hold the same, and not for the copy of a tied weight."""
        sharded = {axis for axes in self.weight.sharding.axes for axis in axes}
        cut = {"pp", *sharded, *(self.weight.group.axes if self.job.step.structure.zero_stage else ())}
        sums = (task for task in self.job.step.finish if isinstance(task, Collective) and task.source.name == NORM)
        summed = {axis for task in sums for axis in task.group.axes}
        if view_of(cut) == EXPERT:  # the ranks of a stage, as experts see them
            summed = summed - set(axes_of(DENSE)) | set(axes_of(EXPERT))
        again = self.weight.copy_of or self.is_copy or self.is_mirror
        return 0.0 if again or any(self.at[axis] for axis in summed - cut) else 1.0
