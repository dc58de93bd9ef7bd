"""What one rank does in a step, as a generator: it walks tasks, computes by itself, and yields where it needs others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from msgspec.structs import replace

from parsim.executor.bind import Binder, Bound, Item, Look, OfStage, Rename
from parsim.executor.clock import Clock
from parsim.executor.job import Copy, Job
from parsim.executor.names import suffix
from parsim.executor.requests import CollectiveCall, Request
from parsim.executor.slow import delay_ps, num_messages
from parsim.executor.values import region, shard
from parsim.executor.weights import Store
from parsim.model.dims import COMPUTE, MASTER, QUANTISED
from parsim.parallel.dimensions import EXPERT, axes_of
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.schedules.phase import Phase
from parsim.step.program import SHARD
from parsim.step.task import COMPUTE_STREAM, HOST, Bucket, Collective, Compute, Hold, HostCopy, Operand, Part, Send, Wait
from parsim_kernels import Machine
from parsim_kernels.signature import Array


class Wire(Protocol):
    """What carries a message to another rank."""

    def post(self, rank: Rank, dst: int, buffer: str, name: str, arrival: int) -> None:
        """Send a copy of a buffer as `name`; its bytes count, and `arrival` goes along."""
        ...


class Rank:
    """One rank of the machine: its place, its clock, and the program of a step."""

    def __init__(self, number: int, job: Job, machine: Machine, clock: Clock, wire: Wire) -> None:
        self.number, self.job, self.machine, self.clock, self.wire = number, job, machine, clock, wire
        self.inputs_seen: dict[tuple[str, int], Array] = {}  # gradients of the outputs of lowest segments, by copy and micro_batch
        self.gradients_seen: dict[str, Array] = {}  # of weights that a pass updated, as they were applied
        self.step = 0  # of those that run, the present one
        self.own_norm = 0.0  # squared, of the gradients of this step that were handed to a sum over replicas
        self.at = job.mesh.coordinates(number)  # coordinates on the mesh
        workload = job.workload
        stages = sorted(workload.stages(self.at["pp"]), key=lambda stage: stage % workload.shape.stages_a_copy)  # as the model has them
        self.copies: tuple[Copy, ...] = tuple(copy for stage in stages for copy in job.copies(stage))  # all segments on this rank
        self.store = Store(job, machine, number, self.at, self.copies)
        self.binder = Binder(job, number)
        self._actions: dict[tuple[int, Phase, int, bool], tuple[Item, ...]] = {}
        self._pairs: dict[tuple[OfStage, OfStage], tuple[Item, ...]] = {}
        self._finish: dict[bool, tuple[Bound, ...]] = {}  # by whether replicas that train apart come together
        self._delays: dict[tuple[object, float], int] = {}  # picoseconds of actions, by how many times as long kernels take

    def longer_ps(self, factor: float) -> int:
        """How much longer all takes that has run until now, each once, where kernels take so many times as long."""
        at_end = sum(_stretch(bound, factor).ps - bound.ps for each in self._finish.values() for bound in each)
        return at_end + sum(self._delay_ps(key, factor) for key in self._actions)

    def action(self, stage: int, phase: Phase, micro_batch: int, *, closes: bool) -> Iterator[Request]:
        """A phase of a micro_batch on a stage."""
        key = (stage, phase, micro_batch, closes)
        if key not in self._actions:
            self._actions[key] = tuple(self.binder.action(*key[:3], closes=closes))
        yield from self._late(key, self._actions[key])

    def pair(self, forward: OfStage, backward: OfStage) -> Iterator[Request]:
        """A forward and a backward together, each of a stage and its micro_batch, behind the wait for the forward's message."""
        if (forward, backward) not in self._pairs:
            self._pairs[forward, backward] = tuple(self.binder.pair(forward, backward))
        yield from self._late((forward, backward), self._pairs[forward, backward])

    def _late(self, key: Any, items: tuple[Item, ...]) -> Iterator[Request]:
        """An action, later by what its kernels take longer in the present step."""
        first = num_messages(items)
        yield from self.walk(items[:first])
        self.clock.compute += self._delay_ps(key, self.slow)
        yield from self.walk(items[first:])

    def _delay_ps(self, key: Any, factor: float) -> int:
        if factor != 1.0 and (key, factor) not in self._delays:
            items = self._pairs[key] if key in self._pairs else self.binder.action(*key[:3], closes=False)
            self._delays[key, factor] = delay_ps(items, factor)
        return self._delays.get((key, factor), 0)

    def message(self, forward: OfStage) -> Iterator[Request]:
        """The wait for the message of a pair's forward."""
        yield from self.walk(tuple(self.binder.message(*forward)))

    def finish(self, before: Callable[[Bound], None]) -> Iterator[Request]:
        """The end of a step; `before` may look at each task before it runs."""
        if (syncs := self.job.syncs(self.step)) not in self._finish:
            self._finish[syncs] = tuple(self.binder.finish(self.copies, self.job.step_at(self.step).finish))
        for item in self._finish[syncs]:
            before(item)
            yield from self.walk((_stretch(item, self.slow),))

    def walk(self, items: tuple[Item, ...]) -> Iterator[Request]:
        """Tasks in the order of issue."""
        for item in items:
            if isinstance(item, Rename):
                self.machine.rename(self.number, item.old, item.new)
            elif isinstance(item, Look):
                self.inputs_seen[item.at] = self.machine.get(self.number, item.name).copy()
            elif isinstance(item.task, Compute):
                self.compute(item)
            else:
                yield from self.other(item)

    def compute(self, bound: Bound) -> None:
        """Run a kernel, or that of each weight, and move the clock by its price."""
        if bound.kernels and bound.kernels[0].kernel == "draw":
            self.draw(bound)
        else:
            if self.job.step.structure.in_backward and "optimizer" in bound.task.attributes:  # type: ignore[union-attr]
                self.look_at_gradients(bound)
            now = {"step": self.step + 1} if bound.task.attributes.get("optimizer") else None  # type: ignore[union-attr]
            for use in bound.kernels:
                use.run(self.machine, now)
        self.clock.run(bound.stream, bound.reads, bound.writes, bound.ps)
        self.machine.free(self.number, *bound.frees)

    @property
    def slow(self) -> float:
        """How many times as long as usual its kernels take in the present step."""
        factors = self.job.asked.factors
        return factors[self.number][self.step % len(factors[self.number])] if factors else 1.0

    def look_at_gradients(self, bound: Bound) -> None:
        """Keep the gradients that an update is about to apply for those who compare."""
        part: Part = "shard" if self.job.step.structure.zero_stage else "whole"
        for instance, weight in bound.weights:
            found = self.machine.get(self.number, f"{instance}/d_{weight.name}{suffix(weight, part)}")
            self.gradients_seen[f"{instance}/{weight.name}"] = found.copy()

    def norm_of_replica(self, task: object, call: CollectiveCall) -> float:
        """How long, squared, the gradients are that are about to be summed over replicas."""
        gradients = isinstance(task, Collective) and isinstance(task.source, Bucket) and task.source.role == "gradients"
        if not gradients or call.group != self.job.step.structure.replicas:
            return 0.0
        return sum(float(np.sum(np.square(self.machine.get(self.number, name)))) for name in call.names)

    def draw(self, bound: Bound) -> None:
        """Bring a drawn tensor to life: this rank's part of it."""
        (use,), operand = bound.kernels, bound.task.outputs[0]  # type: ignore[union-attr]
        assert isinstance(operand, Operand)
        instance = use.outputs[0].partition("/")[0]
        shape = [self.job.extent(dim) for dim in operand.dims]
        workload = self.job.workload
        number = self.step * workload.num_micro_batches * workload.shape.num_copies + bound.micro_batch
        part = shard(self.job.values.draw(instance, operand.name, number, shape), operand.sharding, self.job.sizes.at(self.at))
        self.machine.hold(self.number, use.outputs[0], part, use.itemsizes[0])

    def other(self, bound: Bound) -> Iterator[Request]:
        """A task that moves data, or only waits or keeps the books of memory."""
        task, call = bound.task, bound.collective
        itemsize = self.job.itemsize(QUANTISED if bound.layout else COMPUTE)
        if not isinstance(task, HostCopy):
            for instance, weight in bound.weights:
                name = f"{instance}/{bound.prefix}{weight.name}{bound.layout}"
                if not (isinstance(task, Hold) and isinstance(like := task.values[0], Bucket)):
                    self.store.hold_flat(name, weight, self.store.zeros(weight), itemsize, own=False)
                elif like.role in ("temporaries", "quantised"):
                    self.store.hold_temporary(name, weight, like)
                else:
                    self.store.hold_gradient(name, weight, like.part)
        if isinstance(task, Hold):
            self.begin(bound, task)
        if bound.need:
            yield bound.need
        elif isinstance(task, Collective) and task.operation == "slice":
            self.slice(bound, task)
        elif call:
            self.own_norm += self.norm_of_replica(task, call)
            yield call
        elif isinstance(task, Wait):
            self.clock.wait(task.streams, bound.reads)
        elif isinstance(task, Send):
            self.send(bound, task)
        else:
            if isinstance(task, HostCopy):
                self.pass_host(bound, task)
            self.clock.run(bound.stream, bound.reads, bound.writes, bound.ps)
        self.machine.free(self.number, *bound.frees)

    def begin(self, bound: Bound, task: Hold) -> None:
        """Bring activations to life that are not there yet, full of zeros."""
        there, new = self.machine.names(self.number), (value for value in task.values if isinstance(value, Operand))
        for name, value in zip(bound.writes, new, strict=True):
            if name not in there:
                shape = [stop - start for start, stop in region(value.sharding, self.job.sizes.at(self.at))]
                self.machine.hold(self.number, name, np.zeros(shape, self.job.values.precision), self.job.itemsize(value.dtype))

    def part(self, name: str, held: Operand, wanted: Operand) -> Array:
        """A view of the part of a buffer that lies where `wanted` does."""
        regions = (region(each.sharding, self.job.sizes.at(self.at)) for each in (held, wanted))
        return self.machine.get(self.number, name)[
            tuple(slice(start - first, stop - first) for (first, _), (start, stop) in zip(*regions, strict=True))
        ]

    def slice(self, bound: Bound, task: Collective) -> None:
        """This rank's part of a tensor that all hold."""
        (source,), (target,) = bound.reads, bound.writes
        assert isinstance(task.source, Operand) and isinstance(task.target, Operand)
        self.machine.hold(self.number, target, self.part(source, task.source, task.target).copy(), self.job.itemsize(task.target.dtype))
        self.clock.run(bound.stream, bound.reads, bound.writes, bound.ps)

    def send(self, bound: Bound, task: Send) -> None:
        """Post a copy of what crosses to the next stage, or of this rank's part of it."""
        arrival = self.clock.run(bound.stream, bound.reads, (), bound.ps) + bound.on_its_way_ps
        for whole, posted, source, sent in zip(bound.reads, bound.posted, task.sources, task.sent, strict=True):
            is_cut = sent.sharding != source.sharding
            if is_cut:
                self.machine.hold(self.number, whole + SHARD, self.part(whole, source, sent), self.job.itemsize(sent.dtype))
            self.wire.post(self, bound.dst, whole + SHARD if is_cut else whole, posted, arrival)
            if is_cut:
                self.machine.free(self.number, whole + SHARD)

    def pass_host(self, bound: Bound, task: HostCopy) -> None:
        """Gradients to the host, or the weights that it has updated back over those of the device; or pages, either way."""
        if task.bucket.role == "states":
            self.pass_pages(bound, to_host=task.to_host)
            return
        machine, host, itemsize = self.machine, self.store.host, self.job.itemsize(task.bucket.dtype)
        for instance, weight in bound.weights:
            name, own = f"{instance}/{weight.name}", suffix(weight, task.bucket.part)
            if task.to_host:
                copy = f"{name}.{task.bucket.dtype}"
                machine.send(self.number, host, f"{instance}/d_{weight.name}{own}", copy, HOST, itemsize)
                machine.receive_over(host, copy, copy)
            else:
                machine.send(host, self.number, f"{name}.master", name, HOST, itemsize)
                machine.receive_over(self.number, name, f"{name}{own}")

    def pass_pages(self, bound: Bound, *, to_host: bool) -> None:
        """States of weights to the device, where they cost no memory that anybody else needs, or back over those of the host."""
        machine, host = self.machine, self.store.host
        states = OPTIMIZERS[self.job.step.structure.optimizer].state_sizes(self.job.itemsize(MASTER))
        for name, itemsize in ((f"{i}/{w.name}.{state}", itemsize) for i, w in bound.weights for state, itemsize in states):
            if to_host:
                machine.send(self.number, host, name, name, HOST, itemsize)
                machine.receive_over(host, name, name)
                machine.free(self.number, name)
            else:
                machine.send(host, self.number, name, name, HOST, itemsize)
                machine.receive(self.number, name, 0)

    def loss(self) -> float | None:
        """This rank's part of the step's loss; None where it holds none, or the same as another."""
        for instance, segment in self.copies:
            for total in (each for each in segment.totals if not each.dims):
                summed = {"pp", *total.sharding.partial, *axes_of(EXPERT)}
                if not any(self.at[axis] for axis in self.at if axis not in summed):
                    return float(self.machine.get(self.number, f"{instance}/{total.name}"))
        return None


def _stretch(bound: Bound, factor: float) -> Bound:
    """A task of the step's end whose kernels take so many times as long."""
    is_kernel = factor != 1.0 and isinstance(bound.task, Compute) and bound.stream == COMPUTE_STREAM
    return replace(bound, ps=round(bound.ps * factor)) if is_kernel else bound
