"""Tasks with everything resolved that is the same in each step: names of buffers, attributes, members, prices."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from parsim.cost.chunks import extents_of
from parsim.cost.count import bucket_of, payload
from parsim.cost.exchange import exchanges_of
from parsim.cost.sizes import Sizes
from parsim.executor.calls import KernelUse, Names, finish_kernels, pass_kernel
from parsim.executor.job import Copy, Job, Named
from parsim.executor.names import PREFIX, RankScope, Scope, buffers, lasting_names, scales_of
from parsim.executor.requests import CollectiveCall, MessageNeed
from parsim.model.dims import COMPUTE
from parsim.schedules.phase import Phase
from parsim.step.packed import DEQUANTISE
from parsim.step.program import Run, send_stream
from parsim.step.task import (
    COMPUTE_STREAM,
    Bucket,
    Collective,
    Compute,
    Hold,
    HostCopy,
    Operand,
    Receive,
    Send,
    Task,
    Value,
    Weight,
    reads,
    writes,
)

Owners = tuple[tuple[str, Weight], ...]


class Bound(Struct, frozen=True, kw_only=True):
    """A task of a rank: what it does to buffers, and how it moves the clock."""

    task: Task
    ps: int
    stream: str
    reads: Names
    writes: Names
    frees: Names
    kernels: tuple[KernelUse, ...] = ()
    collective: CollectiveCall | None = None
    need: MessageNeed | None = None
    weights: Owners = ()  # whose buffers come to life, pass between a device and its host, or are updated
    prefix: str = ""  # of the names of flat buffers
    layout: str = ""  # behind those of narrow ones
    dst: int = -1  # of a message, and the names of its parts
    posted: Names = ()
    on_its_way_ps: int = 0  # after it has left
    micro_batch: int = 0


class Rename(Struct, frozen=True):
    """What a copy hands on becomes what the next one takes."""

    old: str
    new: str


class Look(Struct, frozen=True):
    """The gradient of what a segment hands on that hands no gradient on itself, kept for those who compare."""

    name: str
    at: tuple[str, int]  # the copy of the segment, and the micro_batch


Item = Bound | Rename | Look
OfStage = tuple[int, int]  # a stage, and a micro_batch


class Lane(Struct):
    """A phase of a micro_batch on a stage, which goes from copy to copy."""

    phase: Phase
    stage: int
    scopes: Iterator[Scope]  # of the copies that follow
    scope: Scope  # of the present one, and before the first
    carried: str  # the buffer that the copy before, or a neighbouring stage of this rank, hands on

    def enter(self) -> Iterator[Item]:
        """Go on to the next copy."""
        self.scope = scope = next(self.scopes)
        entering, leaving = (side[self.phase] for side in (scope.copy[1].entering, scope.copy[1].leaving))
        if entering and self.carried and self.carried != scope.full(entering.name):
            yield Rename(self.carried, scope.full(entering.name))
        if entering and not leaving and self.phase.step < 0:
            yield Look(scope.full(entering.name), (scope.copy[0], scope.micro_batch))
        self.carried = scope.full(leaving.name) if leaving else ""


class Binder(Struct, frozen=True, dict=True):
    """Binds the tasks of one rank."""

    job: Job
    number: int
    _kernels: dict[int, tuple[Task, KernelUse]] = field(default_factory=dict)  # the first call of a kernel of a pass, by its task
    _lasting: dict[str, dict[str, str]] = field(default_factory=dict)  # by copy

    @functools.cached_property
    def at(self) -> dict[str, int]:
        """Coordinates of the rank."""
        return self.job.mesh.coordinates(self.number)

    @functools.cached_property
    def sizes(self) -> Sizes:
        """Those of the rank."""
        return self.job.sizes.at(self.at)

    @functools.cached_property
    def _node(self) -> int:
        """The kind of node on which it lies."""
        return self.job.workload.node_of(self.at["pp"])

    def _scope(self, copy: Copy, at: OfStage, ahead: Copy | None = None) -> Scope:
        if copy[0] not in self._lasting:
            self._lasting[copy[0]] = lasting_names(*copy, self.job.step.structure)
        return Scope(copy, *at, self._lasting[copy[0]], ahead)

    def action(self, stage: int, phase: Phase, micro_batch: int, *, closes: bool) -> Iterator[Item]:
        """A phase of a micro_batch on a stage."""
        found = self.job.workload.pass_of(stage, phase, closes=closes)
        yield from self._walk(found.lists, (self._lane(stage, phase, micro_batch),), (str(phase), stage, micro_batch))

    def pair(self, forward: OfStage, backward: OfStage) -> Iterator[Item]:
        """A stage forward and one backward, each with its micro_batch, but for the wait for the forward's message."""
        ahead, *behind = self.job.workload.pair_phases
        lanes = (self._lane(forward[0], ahead, forward[1]), *(self._lane(backward[0], phase, backward[1]) for phase in behind))
        yield from self._walk(self.job.workload.pair_of(forward[0], backward[0]).lists, lanes, ("pair", *forward, *backward))

    def message(self, stage: int, micro_batch: int) -> Iterator[Item]:
        """The wait for the message of a forward, if one comes."""
        lane = self._lane(stage, self.job.workload.phases[0], micro_batch)
        prologue = self.job.workload.pass_of(stage, lane.phase).prologue
        for task in prologue:
            if isinstance(task, Receive):
                yield from self._receive(task, lane, 0)

    def _lane(self, stage: int, phase: Phase, micro_batch: int) -> Lane:
        copies, at = self.job.copies(stage), (stage, micro_batch)
        copies = copies if phase.step > 0 else copies[::-1]
        scopes = [self._scope(copy, at, ahead) for copy, ahead in zip(copies, (*copies[1:], None), strict=True)]
        first = self._scope(copies[0], at, copies[0])
        return Lane(phase, stage, iter(scopes), first, self._on_this_rank(stage, phase, micro_batch))

    def _walk(self, lists: Iterable[Run], lanes: Sequence[Lane], key: tuple[object, ...]) -> Iterator[Item]:
        """Lists in order, each as often as it has copies."""
        known = {lane.phase: lane for lane in lanes}
        for place, run in enumerate(each for each in lists for _ in range(int(each.copies))):
            parts = run.parts or tuple((lanes[0].phase, task) for task in run.tasks)
            for phase in dict.fromkeys(phase for phase, _ in parts) if run.is_copy else ():
                yield from known[phase].enter()
            for index, ((phase, task), ps) in enumerate(zip(parts, self.job.workload.ps_of(run, self._node), strict=True)):
                # A message is known by phase, the stage it goes to, and micro_batch, and each of its tensors by its place.
                if isinstance(task, Receive):
                    yield from self._receive(task, known[phase], int(ps[0]))
                elif isinstance(task, Send):
                    yield self._send(task, known[phase], int(ps[0]))
                else:
                    yield self._bound(task, known[phase].scope, (*key, place, index), int(ps[0]))

    def _receive(self, task: Receive, lane: Lane, ps: int) -> Iterator[Bound]:
        """All tensors of a message, which come together."""
        scope, source = lane.scope, self._neighbour(lane.stage - lane.phase.step)
        for name, target in zip(_parts(task.targets, lane, lane.stage), task.targets, strict=True):
            need = MessageNeed(name, scope.full(target.name), self.job.itemsize(COMPUTE), source)
            yield Bound(task=task, ps=ps, stream=COMPUTE_STREAM, reads=(), writes=(), frees=(), need=need)

    def _send(self, task: Send, lane: Lane, ps: int) -> Bound:
        to, scope = lane.stage + lane.phase.step, lane.scope
        reads, frees = tuple(scope.full(each.name) for each in task.sources), tuple(map(scope.full, task.frees))  # type: ignore[arg-type]
        names, dst = _parts(task.sent, lane, to), self._neighbour(to)
        where, workload = (lane.stage, lane.phase), self.job.workload
        ps, far = ps + int(workload.longer_ps(task, *where)[0]), int(workload.on_its_way_ps(*where)[0])
        return Bound(task=task, ps=ps, stream=task.stream, reads=reads, writes=(), frees=frees, dst=dst, posted=names, on_its_way_ps=far)

    def _on_this_rank(self, stage: int, phase: Phase, micro_batch: int) -> str:
        """The buffer that a neighbouring stage of this rank hands on; "" where a message brings it, or nothing does."""
        source = self.job.workload.neighbour(stage, phase, -1)
        if source is None or self.job.workload.crosses(stage, phase, -1):
            return ""
        last = self.job.copies(source)[-1 if phase.step > 0 else 0]
        leaving = last[1].leaving[phase]
        return self._scope(last, (source, micro_batch)).full(leaving.name) if leaving else ""

    def finish(self, copies: Sequence[Copy], tasks: Sequence[Task]) -> Iterator[Bound]:
        """The end of a step of these tasks, as far as this rank has a part in it."""
        for place, task in enumerate(tasks):
            alone = getattr(task, "alone", None)
            members = self.job.members(self.number, task.group) if isinstance(task, Collective) else (self.number,)
            if self.number not in members or (alone and any(self.at[axis] for axis in alone.axes)):
                continue
            # Where ranks of different stages meet, what the last of them holds has the price.
            stages = [self.job.mesh.coordinates(each)["pp"] for each in members]
            ps = int(self.job.workload.finish_ps(task, self.job.workload.copies_on(stages[-1]), stages)[0])
            yield self._bound(task, RankScope(copies), ("finish", place), ps)

    def _neighbour(self, stage: int) -> int:
        """The rank at this one's place on another stage."""
        return self.job.mesh.rank_at({**self.at, "pp": self.job.workload.rank_of(stage)})

    def _bound(self, task: Task, scope: Scope | RankScope, key: tuple[object, ...], ps: int) -> Bound:
        """A task that is no message."""
        named = self._names(task, scope)
        bare: dict[str, Any] = {
            "task": task,
            "ps": ps,
            "stream": getattr(task, "stream", COMPUTE_STREAM),
            "reads": named.reads,
            "writes": named.writes,
            "frees": named.frees,
            "micro_batch": scope.micro_batch if isinstance(scope, Scope) else 0,
        }
        match task:
            case Compute() if bucket := bucket_of(task):
                bare["kernels"] = tuple(finish_kernels(self.job, self.number, self.at, task, scope))
                bare["weights"] = tuple(scope.owners(bucket))
            case Compute() if isinstance(scope, Scope):
                bare["kernels"] = (self._pass_kernel(task, named),)
            case Collective():
                bare["collective"] = self._collective(task, scope, key, ps)
                if task.fresh:
                    bare.update(self._flat((task.target,), scope))
            case Hold():
                bare.update(self._flat(task.values, scope))
                bare["writes"] = tuple(scope.full(value.name) for value in task.values if isinstance(value, Operand))
            case HostCopy():
                bare["weights"] = tuple(scope.owners(task.bucket))
        return Bound(**bare)

    def _names(self, task: Task, scope: Scope | RankScope) -> Named:
        if not isinstance(scope, Scope):
            return self._name(task, scope)
        key = id(task), scope.copy[0], scope.ahead and scope.ahead[0], scope.micro_batch
        if key not in self.job.named:
            self.job.named[key] = self._name(task, scope)
        return self.job.named[key]

    def _name(self, task: Task, scope: Scope | RankScope) -> Named:
        frees = tuple(name for freed in task.frees for name in self._free_names(freed, scope))
        used = (task.inputs, task.outputs) if isinstance(task, Compute) and isinstance(scope, Scope) else ((), ())
        inputs, outputs = (tuple(scope.full(value.name) for value in side) for side in used)
        inputs += scales_of(inputs[0], self.job) if isinstance(task, Compute) and task.kernel == DEQUANTISE else ()
        return Named(task, tuple(map(scope.full, reads(task))), tuple(map(scope.full, writes(task))), frees, inputs, outputs)

    def _pass_kernel(self, task: Compute, named: Named) -> KernelUse:
        """The call of a kernel of a pass, which differs from copy to copy in its buffers alone."""
        if id(task) not in self._kernels:
            self._kernels[id(task)] = task, pass_kernel(self.job, self.number, self.sizes, task, named)
        return replace(self._kernels[id(task)][1], inputs=named.inputs, outputs=named.outputs)

    def _free_names(self, freed: str | Bucket, scope: Scope | RankScope) -> Names:
        if not isinstance(freed, Bucket):
            return (scope.full(freed),)
        owners, parts = scope.owners(freed), dict.fromkeys((freed.part,) if freed.part == "shard" else ("whole", freed.part))
        if freed.role == "gradients" and freed.part == "padded" and not self.job.step.structure.scatters:
            parts["shard"] = None  # a view
        return tuple(dict.fromkeys(name for part in parts for name in buffers(owners, freed, part)))

    def _flat(self, values: Sequence[Value], scope: Scope | RankScope) -> dict[str, Any]:
        """The weights of buckets in one role."""
        buckets = [value for value in values if isinstance(value, Bucket)]
        weights = tuple(owner for bucket in buckets for owner in scope.owners(bucket))
        return {"weights": weights, "prefix": PREFIX[buckets[0].role], "layout": buckets[0].layout} if buckets else {}

    def _collective(self, task: Collective, scope: Scope | RankScope, key: tuple[object, ...], ps: int) -> CollectiveCall | None:
        """None where this rank has nothing to give."""
        members, source, target = self.job.members(self.number, task.group), task.source, task.target
        names: Names
        shards: Names = ()
        if not isinstance(source, Bucket) or not isinstance(target, Bucket):
            names, new = (scope.full(source.name),), scope.full(target.name) if task.fresh else None
        else:
            owners, new = scope.owners(source), None
            names = buffers(owners, source, source.part)
            if source.part != target.part:
                names, shards = buffers(owners, source, "padded"), buffers(owners, source, "shard")
        if not names:
            return None
        itemsize = self.job.itemsize(payload(task).dtype)
        extents = extents_of(task, self.sizes)
        parts = None if extents is None else extents[0].tolist()
        found = exchanges_of(task, self.sizes, self.job.model)
        cut = {
            "dim": max(task.dim, 0),
            "split": max(task.split, 0),
            "extents": parts,
            "operator": task.operator,
            "exchange": found and found.kinds[0].exchange,
        }
        return CollectiveCall(
            key=(task.group.name, members, *key),
            members=members,
            operation=task.operation,
            group=task.group,
            names=names,
            target=new,
            operator=task.operator,  # type: ignore[arg-type]
            itemsize=itemsize,
            how={"itemsize": itemsize, **({"add": task.accumulate} if shards else cut)},
            ps=ps,
            stream=task.stream,
            reads=tuple(map(scope.full, reads(task))),
            writes=tuple(map(scope.full, writes(task))),
            shards=shards,
        )


def _parts(tensors: Sequence[Operand], lane: Lane, to: int) -> Names:
    """The names of a message's tensors: `to` a stage."""
    return tuple(f"{send_stream(lane.phase)} {to}/{lane.scope.micro_batch}{f' {place}' * (place > 0)}" for place in range(len(tensors)))
