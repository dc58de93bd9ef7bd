"""What one rank does in a step, as a generator: it computes by itself and yields where it needs others.

The names of its buffers carry the segment's instance and the micro_batch: `layer3/0/norm1`; weights carry the instance only.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from parsim.executor.bound import BoundCompute, BoundMeeting, Pass, bind
from parsim.executor.clock import Clock
from parsim.executor.job import Attributes, Job
from parsim.executor.need import Awaited, Meeting, Need
from parsim.executor.shards import bucket_meeting, sharded_action
from parsim.executor.values import Array, shard
from parsim.model.dims import COMPUTE
from parsim.parallel.mesh import coordinates, group
from parsim.schedules import Action
from parsim.step.holdings import own_weights
from parsim.step.task import Compute, Segment, Weight
from parsim_kernels import Machine

if TYPE_CHECKING:
    from parsim.executor.finish import End


class Wire(Protocol):
    """What carries a message to another rank."""

    def post(self, rank: Rank, dst: int, buffer: str, name: str, arrival: int) -> None:
        """Send a copy of a buffer as `name`; its bytes count, and `arrival` goes along."""
        ...


@dataclass(slots=True)
class Rank:
    """One rank of the machine: its place, its clock, and the program of a step."""

    number: int
    job: Job
    machine: Machine
    clock: Clock
    wire: Wire
    inputs_seen: dict[int, Array] = field(default_factory=dict)  # gradient of the embedding's output, by micro_batch
    ends: tuple[End, ...] = ()  # of a step; bound in the first
    step: int = 0  # of those that run, the present one
    at: dict[str, int] = field(init=False)  # coordinates on the mesh
    held: tuple[tuple[str, Segment], ...] = field(init=False)  # all copies of segments on this rank
    _passes: dict[tuple[str, int, bool], Pass] = field(init=False, default_factory=dict)  # by instance, micro_batch and direction
    _lasting: dict[tuple[str, str], str | None] = field(init=False, default_factory=dict)
    _attributes: dict[int, Attributes] = field(init=False, default_factory=dict)  # by the identity of a task of the Step

    def __post_init__(self) -> None:
        self.at = coordinates(self.number, self.job.degrees)
        stages = range(self.at["pp"], self.job.num_stages, self.job.degrees["pp"])
        self.held = tuple(copy for stage in stages for copy in self.instances(stage))

    @property
    def updater(self) -> int:
        """Whose memory holds the optimizer's states: this rank's, or its host's, which the machine numbers behind all ranks."""
        return self.number + (self.job.num_ranks if self.job.step.structure.offload else 0)

    def instances(self, stage: int) -> list[tuple[str, Segment]]:
        """Copies of segments on a virtual stage, in forward order; layers are numbered over the whole model."""
        first = sum(self.job.layers[:stage])
        layers = [segment for segment, copies in self.job.step.layers(self.job.layers[stage]) for _ in range(copies)]
        found = [(f"layer{first + i}", segment) for i, segment in enumerate(layers)]
        if stage == 0:
            found.insert(0, ("embedding", self.job.step.embedding))
        if stage == self.job.num_stages - 1:
            found.append(("head", self.job.step.head))
        return found

    def lasting(self, instance: str, segment: Segment, name: str) -> str | None:
        """The full name of a weight, a weight's gradient or a total; None for an activation."""
        key = (instance, name)
        if key not in self._lasting:
            self._lasting[key] = self._find_lasting(instance, segment, name)
        return self._lasting[key]

    def _find_lasting(self, instance: str, segment: Segment, name: str) -> str | None:
        for weight in segment.weights:
            if name in (weight.name, f"d_{weight.name}"):
                return f"{self.owner(instance, weight)}/{name}"
        return f"{instance}/{name}" if name in {t.name for t in segment.totals} else None

    def owner(self, instance: str, weight: Weight) -> str:
        """The instance whose buffer a weight is: the embedding's, where a tied head stands on the same rank."""
        return "embedding" if weight.owner == "embedding" and self.job.degrees["pp"] == 1 else instance

    def full(self, instance: str, segment: Segment, micro_batch: int, name: str) -> str:
        """The name under which the machine holds a buffer of this pass."""
        return self.lasting(instance, segment, name) or f"{instance}/{micro_batch}/{name}"

    def action(self, action: Action, last_backward: bool) -> Iterator[Need]:
        """Receive, run the segments of the stage, send and let go."""
        forward, stage, m = action.phase == "F", action.stage, action.micro_batch
        instances = self.instances(stage) if forward else self.instances(stage)[::-1]
        receives = stage > 0 if forward else stage < self.job.num_stages - 1
        carried = ""
        if receives:
            carried = f"stage{stage}/{m}/{'x' if forward else 'd_y'}"
            yield from self.receive(carried, stage - 1 if forward else stage + 1)
        structure = self.job.step.structure
        if structure.per_pass:
            carried = yield from sharded_action(self, instances, m, forward, carried)
        else:
            for instance, segment in instances:
                carried = yield from self.segment(instance, segment, m, forward, carried)
                if last_backward and structure.gradient_overlap and own_weights(segment, structure):
                    yield bucket_meeting(self, instance, segment)
        if carried:
            self.send(carried, stage + 1 if forward else stage - 1, m, forward)

    def segment(self, instance: str, segment: Segment, m: int, forward: bool, carried: str) -> Generator[Need, None, str]:
        """One pass through one copy of a segment; the result is the full name of the buffer that it hands on."""
        entering, leaving = (segment.x, segment.y) if forward else (segment.y, segment.x)
        if entering:
            name = "x" if forward else "d_y"
            self.machine.rename(self.number, carried, f"{instance}/{m}/{name}")
        if not forward and segment.name == "embedding":
            self.inputs_seen[m] = self.machine.get(self.number, f"{instance}/{m}/d_y").copy()
        start, key = self.clock.compute, (instance, m, forward)
        if key not in self._passes:
            self._passes[key] = bind(self, instance, segment, m, forward)
        for bound in self._passes[key].tasks:
            if isinstance(bound, BoundMeeting):
                yield bound.meeting
            else:
                self.compute(instance, m, bound)
            self.machine.free(self.number, *bound.frees)
        self.clock.join(start, self._passes[key].floor_ps)
        if not leaving:
            return ""
        return f"{instance}/{m}/{segment.y.name if forward and segment.y else segment.d_x}"

    def attributes(self, task: Compute) -> Attributes:
        """What a kernel is told besides its inputs, the same in every pass."""
        if id(task) not in self._attributes:
            self._attributes[id(task)] = self.job.attributes(task, self.at)
        return self._attributes[id(task)]

    def compute(self, instance: str, m: int, bound: BoundCompute) -> None:
        """Run one kernel, and move the clock by its price."""
        if bound.call.kernel == "draw":
            self.draw(instance, m, bound)
        else:
            bound.call.run(self.machine, self.number, bound.attributes)
        self.clock.run(bound.reads, bound.ps)

    def draw(self, instance: str, m: int, bound: BoundCompute) -> None:
        """Bring a drawn tensor to life: this rank's part of it."""
        operand = bound.task.outputs[0]
        shape = [self.job.extent(dim) for dim in operand.dims]
        whole = self.job.values.drawn(instance, operand.name, self.step * self.job.num_micro_batches + m, shape)
        part = shard(whole, operand.sharding, self.job.degrees, self.at)
        self.machine.hold(self.number, bound.call.outputs[0], part, bound.call.itemsizes[0])

    def receive(self, name: str, stage: int) -> Iterator[Need]:
        """Wait for a message of a stage, and gather it where it comes in shards."""
        itemsize, src = self.job.itemsize(COMPUTE), self.neighbour(stage)
        if not self.job.step.structure.scatter_gather:
            yield Awaited(name, itemsize, src)
            return
        yield Awaited(f"{name}~tp", itemsize, src)
        members, ps = group(self.number, "tp", self.job.degrees), int(self.job.prices.gather[0])
        sources = (f"{name}~tp",)
        yield Meeting(("gather", members, name), members, "all_gather", "tp", sources, name, 1, "sum", itemsize, ps, "compute")
        self.machine.free(self.number, f"{name}~tp")

    def send(self, carried: str, stage: int, m: int, forward: bool) -> None:
        """Post a copy to the next stage's rank and let the buffer go; with scatter_gather only this rank's part of it."""
        name, posted = f"stage{stage}/{m}/{'x' if forward else 'd_y'}", carried
        if self.job.step.structure.scatter_gather:
            name, posted = f"{name}~tp", f"{carried}~tp"
            whole = self.machine.get(self.number, carried)
            self.machine.hold(self.number, posted, self.job.part(whole, self.at["tp"]), self.job.itemsize(COMPUTE))
        arrival = self.clock.post("F" if forward else "B", int(self.job.prices.send[0]))
        self.wire.post(self, self.neighbour(stage), posted, name, arrival)
        self.machine.free(self.number, *{posted, carried})

    def neighbour(self, stage: int) -> int:
        """The rank at this one's place on another stage."""
        return self.job.rank_at({**self.at, "pp": stage % self.job.degrees["pp"]})

    def loss(self) -> float | None:
        """This rank's part of the step's loss; None where it holds none, or the same as another."""
        if not any(instance == "head" for instance, _ in self.held):
            return None
        summed = {"pp", *self.job.step.head.totals[0].sharding.partial}
        if any(self.at[axis] for axis in self.at if axis not in summed):
            return None
        return float(self.machine.get(self.number, "head/loss"))
