"""A step that is disturbed, by events: the pipelines of a plan side by side, each with the factors that were drawn for it.

`parsim.estimator.samples` takes the same factors for many samples at once and must agree to the picosecond.  What factors lengthen is
found here in the items of passes.  Pipelines meet where a collective of the step's end joins them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import simpy
from msgspec import Struct

from parsim.cluster.scalars import Ints
from parsim.cost.factors import DelayParts, Factors, Hosted, delays_ps, stretched_ps
from parsim.parallel.group import Group
from parsim.schedules.columnar import Bools
from parsim.simulator.demand import Legs
from parsim.simulator.network import Events
from parsim.simulator.program import FoldedAction, Program, RankCourse, StreamItem, fold
from parsim.simulator.rank import RankStreams, World
from parsim.step.task import COMPUTE_STREAM, HOST, LAUNCH, Collective, Compute, Launches, Send, Wait


class DisturbedProgram(Struct, frozen=True, eq=False, dict=True):
    """One pipeline of a plan, and what disturbs it in one step."""

    program: Program
    factors: Factors  # of one sample
    most: Program | None = None  # with the documents that cost most, and with those that cost least
    least: Program | None = None
    slower: DisturbedProgram | None = None  # as on the slow links that some ranks have
    slow_ranks: Bools | None = None

    def is_slow(self, *ranks: int) -> bool:
        """Whether one of these ranks has slow links."""
        return self.slow_ranks is not None and bool(self.slow_ranks[[*ranks]].any())

    def of_rank(self, rank: int) -> DisturbedProgram:
        """Itself, or as it is on slow links where the rank has such."""
        return self.slower if self.is_slow(rank) and self.slower is not None else self

    @functools.cached_property
    def _parts(self) -> dict[int, DelayParts]:
        return {}

    def parts(self, row: int) -> DelayParts:
        """What factors lengthen of an action, of one that does not close."""
        alike = int(self.program.pass_index[row])
        if alike not in self._parts:
            usual, items = _fold(self.program, row)
            most, least = (0 if each is None else _fold(each, row)[0].ps - usual.ps for each in (self.most, self.least))
            kernels = sum(item.ps for item in items if item.stream == COMPUTE_STREAM and isinstance(item.task, Compute))
            own, waits, more, less = (np.array([[ps]]) for ps in (kernels, usual.ps - kernels - _host_ps(items), most, least))
            self._parts[alike] = DelayParts(own, waits, more, less, tuple(_waits_for_host(items)))
        return self._parts[alike]

    def delay_ps(self, row: int) -> int:
        """How much later an action begins."""
        c, w = self.program.columns, self.program.workload
        number = int(c.micro_batch[row] + c.stage[row] // w.shape.stages_a_copy * w.num_micro_batches)
        found = delays_ps(self.factors, np.array([row]), self.parts(row), np.array([number]))
        return 0 if found is None else int(found[0, 0])

    def link_ps(self, row: int, ps: int) -> int:
        """Picoseconds of a message that leaves with an action."""
        return ps if self.factors.links is None else int(stretched_ps(self.factors.links[row, 0], np.array(ps)))


def _fold(program: Program, row: int) -> tuple[FoldedAction, list[StreamItem]]:
    """An action that is not the last of its stage to accumulate, and its items."""
    c, w = program.columns, program.workload
    found = program.passes[program.pass_index[row]] if c.paired[row] else w.pass_of(int(c.stage[row]), w.phases[c.phase[row]])
    node = program.nodes[program.pass_index[row]]
    items = [item for run in found.lists for _ in range(int(np.asarray(run.copies).item())) for item in program.items(run, node)]
    return fold(items), items


def _host_ps(items: Iterable[StreamItem]) -> int:
    """Picoseconds that the compute of an action waits for the host, which launches its kernels."""
    course, found = RankCourse(), 0
    for item in items:
        now = course.now
        for stream in item.task.streams if isinstance(item.task, Wait) else ():
            end = max(now, course.ends.get(stream, now))
            found, now = found + (end - now if stream in (LAUNCH, HOST) else 0), end
        course.run(item)
        found += item.ps if isinstance(item.task, Launches) and item.stream == COMPUTE_STREAM else 0
    return found


def _waits_for_host(items: Iterable[StreamItem]) -> Iterator[Hosted]:
    """What waits for the host, from each launch to the wait for it, as if nothing had been before."""
    course, kernels, launched = RankCourse(), 0, False
    for item in items:
        if isinstance(item.task, Launches) and item.stream == LAUNCH and not launched:
            course, kernels, launched = RankCourse(), 0, True
        if isinstance(item.task, Wait) and LAUNCH in item.task.streams and launched:
            others = (course.ends.get(stream, 0) for stream in item.task.streams if stream != LAUNCH)
            wait = course.ends[LAUNCH] - max([course.ready(item), *others])
            yield Hosted(*(np.array([[each]]) for each in (1, kernels, wait)))
            kernels, launched = 0, False
        course.run(item)
        kernels += item.ps if isinstance(item.task, Compute) and item.stream == COMPUTE_STREAM else 0


class _Rank(RankStreams):
    """A rank of one of several pipelines."""

    def __init__(self, number: int, pipeline: int, step: _DisturbedStep, rows: range) -> None:
        super().__init__(number, step.worlds[pipeline], rows)
        self.pipeline, self.step, self.own = pipeline, step, step.pipelines[pipeline]

    def course(self) -> Events:
        """The whole step, an action an event."""
        env, world, usual, ends, now = self.env, self.world, self.own.program, dict[str, int](), 0
        here = self.own.of_rank(self.number)
        for row in self.rows:
            index, awaits = int(usual.pass_index[row]), int(usual.columns.awaits[row])
            if awaits >= 0:
                arrival = world.arrival(awaits)
                now = max(now, arrival if isinstance(arrival, int) else (yield arrival))
            now += here.delay_ps(row)
            span_ps, beside, messages, _ = here.program.folds[index]
            for stream, ready_ps, ps, _ in beside:
                ends[stream] = max(now + ready_ps, ends.get(stream, 0)) + ps
            now += span_ps
            yield env.timeout(now - env.now)
            for place, (stream, _, _, task) in enumerate(messages):
                sender = usual.sender(row, task) if isinstance(task, Send) else row
                if usual.sends[sender]:
                    on = self.own.of_rank(self.number if not self.own.is_slow(self._receiver(sender)) else self._receiver(sender))
                    ps = on.program.folds[index].messages[place].ps
                    longer_ps, on_its_way_ps = on.program.far_ps(row, task) if isinstance(task, Send) else (0, 0)
                    end = ends[stream] = max(now, ends.get(stream, 0)) + on.link_ps(row, ps + longer_ps)
                    world.send(sender, end + on_its_way_ps)
        shared = usual.workload.step.structure.replica_stream
        self.last = {stream: env.timeout(end - now) for stream, end in ends.items() if end > now and stream != shared}
        if shared and shared in ends:
            self.last[shared] = env.process(self._together(shared, max(end - now, 0) if (end := ends[shared]) else 0))
        yield from self.finish()

    def _receiver(self, sender: int) -> int:
        """The rank to which the message of an action goes."""
        (row,) = np.flatnonzero(self.own.program.columns.awaits == sender)
        return int(self.own.program.columns.rank[row])

    def _together(self, stream: str, ps: int) -> Events:
        """Sums of gradients end when all pipelines' have."""
        yield self.env.timeout(ps)
        yield from self.step.meet(f"{stream} of {self.number}", len(self.step.pipelines))

    def finish(self) -> Events:
        """The end of the step."""
        for item, members in self.own.program.finish(self.number):
            if members:
                yield from self.world.meet(f"{item.task.name} of {members}", len(members))
            yield from self.walk((item,))
        self.world.end_ps = max(self.world.end_ps, int(self.env.now))

    def spend(self, item: StreamItem, row: int | None, segment: str = "") -> Events:
        """The time of a task of the step's end, once all pipelines that start it together are there."""
        if isinstance(item.task, Collective):
            members = self.own.program.members(item.task, self.number) or (self.number,)
            lot = self.step.lot(item.task.group, self.pipeline)
            yield from self.step.meet(f"{item.task.name} of {members} in {lot}", len(members) * len(lot))
        yield self.env.timeout(self.step.finish_ps(item, self.number, self.pipeline))


class _DisturbedStep:
    """Pipelines that pass side by side."""

    def __init__(self, pipelines: Sequence[DisturbedProgram], meetings: Callable[[Group], Ints]) -> None:
        self.pipelines, self.meetings, env = pipelines, meetings, simpy.Environment()
        self.env, self.worlds = env, [World(each.program, env, Legs(each.program)) for each in pipelines]
        self._present: dict[str, list[simpy.Event]] = {}

    def run(self) -> int:
        """Picoseconds of the step."""
        columns, num_ranks = self.pipelines[0].program.columns, self.pipelines[0].program.workload.num_ranks
        starts = np.searchsorted(columns.rank, np.arange(num_ranks + 1)).tolist()
        for pipeline in range(len(self.pipelines)):
            for number in range(num_ranks):
                self.env.process(_Rank(number, pipeline, self, range(starts[number], starts[number + 1])).course())
        self.env.run()
        return max(world.end_ps for world in self.worlds)

    def lot(self, group: Group, pipeline: int) -> tuple[int, ...]:
        """The pipelines that a group joins with one of them."""
        which = self.meetings(group)
        return tuple(np.flatnonzero(which == which[pipeline]).tolist())

    def meet(self, name: str, count: int) -> Events:
        """Wait until so many are there."""
        present = self._present.setdefault(name, [])
        present.append(event := self.env.event())
        if len(present) == count:
            for each in self._present.pop(name):
                each.succeed()
        yield event

    def finish_ps(self, item: StreamItem, rank: int, pipeline: int) -> int:
        """Picoseconds of a task of the step's end by the slowest of those who start it together."""
        own, count = self.pipelines[pipeline], len(self.pipelines[pipeline].program.pass_index)
        if isinstance(item.task, Collective):
            members = own.program.members(item.task, rank) or (rank,)
            lot, ps = [self.pipelines[each] for each in self.lot(item.task.group, pipeline)], item.ps
            if any(each.is_slow(*members) for each in lot):
                ps = max([ps, *self._slower_ps(item, rank, lot)])
            links = [each.factors.links[count + member, 0] for each in lot for member in members if each.factors.links is not None]
            return int(stretched_ps(max(links), np.array(ps))) if links else ps
        kernels = own.factors.kernels
        if kernels is None or not isinstance(item.task, Compute) or item.stream != COMPUTE_STREAM:
            return item.ps
        if item.task.alone and pipeline != self.lot(item.task.alone, pipeline)[0]:
            return 0
        return int(stretched_ps(kernels[count + rank, 0], np.array(item.ps)))

    def _slower_ps(self, item: StreamItem, rank: int, lot: Sequence[DisturbedProgram]) -> Iterator[int]:
        for each in lot:
            if each.slower is not None:
                yield from (other.ps for other, _ in each.slower.program.finish(rank) if other.task.name == item.task.name)


def disturbed_step_ps(pipelines: Sequence[DisturbedProgram], meetings: Callable[[Group], Ints]) -> int:
    """Picoseconds of one step; `meetings` says which pipelines a group joins at its end, as Pipelines does."""
    return _DisturbedStep(pipelines, meetings).run()
