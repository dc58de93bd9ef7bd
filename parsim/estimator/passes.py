"""What each stage of a workload does in each phase: its time, memory and message.  Stages that do the same are measured once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct, field

from parsim.cluster.scalars import distinct_rows
from parsim.cost.shape import StageKind
from parsim.cost.sizes import Ints, Sizes
from parsim.cost.timing import longer_ps, task_ps
from parsim.cost.workload import Workload
from parsim.estimator import maxplus
from parsim.estimator.lists import Lives, Measures
from parsim.estimator.streams import exposure
from parsim.schedules.phase import Phase
from parsim.step.pairs import End, StagePair, pair_of
from parsim.step.program import Pass, pass_of
from parsim.step.task import Send, Task


class PassTime(NamedTuple):
    """Picoseconds of a phase of a stage once its message is there, by plan."""

    total: Ints
    from_start: Ints  # until the stream that it leaves busy ends, from its start
    from_busy: Ints  # and from when that stream was done before


class Members(NamedTuple):
    """The stages of one kind among the classes of all plans."""

    plans: Ints  # one a member
    classes: Ints  # index of its class in the plan's shape, one a member
    copies: Ints  # of each of its segments, [segment, member]


class PairMembers(NamedTuple):
    """The same of two stages that run together."""

    plans: Ints
    places: Ints  # of their classes among those of pairs in the plan's shape
    copies: tuple[Ints, Ints]  # of the one that goes forward, and of the other


class RankSizes(NamedTuple):
    """Ranks that hold different segments, or are of different plans."""

    sizes: Sizes
    held: dict[str, Ints]
    which: Ints  # of these a rank is, [rank, plan]


class Stages(Struct, frozen=True, eq=False):
    """What the stages of the plans of a workload do, by class: stages of a plan that do the same are measured once.

    Arrays [class, plan] hold zeros where the shape of a plan has fewer classes.
    """

    workload: Workload
    measures: Measures
    members: Mapping[StageKind, Members]
    num_classes: int
    pair_members: Mapping[tuple[StageKind, StageKind], PairMembers] = field(default_factory=dict)
    _times: dict[tuple[StageKind, Phase, bool], PassTime] = field(default_factory=dict)
    _lives: dict[tuple[StageKind, Phase], Lives] = field(default_factory=dict)
    _passes: dict[tuple[StageKind, Phase, bool], Pass] = field(default_factory=dict)
    _pairs: dict[tuple[StageKind, StageKind], StagePair] = field(default_factory=dict)
    _copies: dict[str, Ints] = field(default_factory=dict)
    _of_ranks: list[RankSizes] = field(default_factory=list)
    _ends: dict[int, Ints] = field(default_factory=dict)  # by the identities of tasks, which the Step keeps

    @classmethod
    def of(cls, workload: Workload, measures: Measures) -> Stages:
        """The classes of a workload's stages."""
        found: dict[StageKind, list[tuple[int, int, tuple[int, ...]]]] = {}
        for number, shape in enumerate(workload.shapes):
            for place, each in enumerate(shape.classes):
                found.setdefault(each.kind, []).append((number, place, each.copies))
        plans = [np.flatnonzero(workload.shape_of == number) for number in range(len(workload.shapes))]
        members = {}
        for kind, own in found.items():
            count = [len(plans[number]) for number, _, _ in own]
            copies = np.repeat(np.array([each for *_, each in own], dtype=np.int64).reshape(len(own), -1), count, axis=0).T
            classes = np.repeat([place for _, place, _ in own], count)
            members[kind] = Members(np.concatenate([plans[number] for number, _, _ in own]), classes, copies)
        return cls(workload, measures, members, max(len(shape.classes) for shape in workload.shapes), _pair_members(workload, plans))

    def take(self, places: Ints) -> Stages:
        """The same of some of the plans."""
        return Stages.of(self.workload.take(places), self.measures)

    def on_all_ranks(self, axes: Iterable[str] = ()) -> tuple[Stages, Ints]:
        """What each rank along these axes holds and does, or where none has most of all layers; and the first row of each plan."""
        workload, plan = self.workload.on_all_ranks(axes or self.workload.sizes.torn)
        return Stages.of(workload, Measures(workload.prices)), np.searchsorted(plan, np.arange(len(self.workload.rows)))

    def spread(self, value: Callable[[StageKind, Members], Ints]) -> Ints:
        """A value of each member of each kind, [class, plan]."""
        found = np.zeros((self.num_classes, len(self.workload.rows)), dtype=np.int64)
        for kind, members in self.members.items():
            found[members.classes, members.plans] = value(kind, members)
        return found

    def table(self, value: Callable[[StageKind, Phase], Ints]) -> Ints:
        """A value of each phase of each member of a kind, [phase, class, plan]."""
        return np.array([self.spread(lambda kind, _: value(kind, phase)) for phase in self.workload.phases])  # noqa: B023

    def spread_pairs(self, value: Callable[[tuple[StageKind, StageKind]], Ints]) -> Ints:
        """A value of each member of two kinds that run together, [two classes, plan]."""
        count = max(len(shape.class_pairs) for shape in self.workload.shapes)
        found = np.zeros((count, len(self.workload.rows)), dtype=np.int64)
        for kinds, members in self.pair_members.items():
            found[members.places, members.plans] = value(kinds)
        return found

    def pair_ps(self, kinds: tuple[StageKind, StageKind]) -> Ints:
        """Picoseconds of two stages together, one value a member."""
        return _time(self.pair_of(kinds), self.measures.on(kinds[0].node), self.pair_rows(kinds)).total

    def least_pair_ps(self, kinds: tuple[StageKind, StageKind]) -> Ints:
        """Picoseconds that two stages together take at least, one value a member."""
        return self._least_of(self.pair_of(kinds), kinds[0].node, self.pair_rows(kinds))

    def pair_charges(self, kinds: tuple[StageKind, StageKind]) -> dict[str, Ints]:
        """What compute does and waits for meanwhile, one value a member; sums to its time."""
        return _charges(self.pair_of(kinds), self.measures.on(kinds[0].node), self.pair_rows(kinds), self.pair_ps(kinds))

    def pair_peak_bytes(self, kinds: tuple[StageKind, StageKind]) -> Ints:
        """The most that both hold, relative to their start."""
        return self._lives_of(self.pair_of(kinds), self.pair_rows(kinds)).peak_bytes

    def pair_rows(self, kinds: tuple[StageKind, StageKind]) -> Ints:
        """Which row of the prices each member has."""
        return self.workload.rows[self.pair_members[kinds].plans]

    def pair_of(self, kinds: tuple[StageKind, StageKind]) -> StagePair:
        """The tasks of both, with the copies of the members."""
        if kinds not in self._pairs:
            phases, copies = self.workload.pair_phases, self.pair_members[kinds].copies
            parts = (tuple(zip(kind.names, own, strict=True)) for kind, own in zip(kinds, copies, strict=True))
            ends = (End(own, kind.receives(each), kind.sends(each)) for own, kind, each in zip(parts, kinds, phases, strict=False))
            self._pairs[kinds] = pair_of(self.workload.step, ends, phases)
        return self._pairs[kinds]

    def copies(self, segment: str) -> Ints:
        """How often a stage holds a segment, [class, plan]."""

        def own(kind: StageKind, members: Members) -> Ints:
            return sum(
                (copies for name, copies in zip(kind.names, members.copies, strict=True) if name == segment), start=members.plans * 0
            )

        if segment not in self._copies:
            self._copies[segment] = self.spread(own)
        return self._copies[segment]

    def on_ranks(self, values: Ints) -> Ints:
        """What the stages of each rank come to, [rank, plan], of values [class, plan]; all pipelines have as many ranks."""
        w = self.workload
        found = np.zeros((w.num_ranks, len(w.rows)), dtype=np.int64)
        for number, shape in enumerate(w.shapes):
            own = w.shape_of == number
            found[:, own] = shape.own @ values[: len(shape.classes), own]
        return found

    @property
    def held(self) -> dict[str, Ints]:
        """How often each rank holds each segment, [rank, plan]."""
        return {name: self.on_ranks(self.copies(name)) for name in self.workload.step.segments}

    @property
    def of_ranks(self) -> RankSizes:
        """What ranks hold, once each for those of a plan that hold the same."""
        if not self._of_ranks:
            plans, shape = np.arange(len(self.workload.rows)), (self.workload.num_ranks, len(self.workload.rows))
            held = {name: each.ravel() for name, each in self.held.items()}
            first, which = distinct_rows([np.broadcast_to(plans, shape).ravel(), *held.values()], plans.size * shape[0])
            sizes = self.workload.sizes.take(first % shape[1])
            self._of_ranks.append(RankSizes(sizes, {name: each[first] for name, each in held.items()}, which.reshape(shape)))
        return self._of_ranks[0]

    @property
    def nodes(self) -> Ints:
        """The kind of node of each rank, [rank, plan]."""
        return np.asarray(np.stack([shape.nodes for shape in self.workload.shapes], axis=1)[:, self.workload.shape_of])

    def finish_ps(self, task: Task) -> Ints:
        """Picoseconds of a task of the step's end, [rank, plan]."""
        each = self.finish_on(task)
        return np.asarray(each[0] if len(each) == 1 else np.take_along_axis(each, self.nodes[None], 0)[0])

    def finish_on(self, task: Task) -> Ints:
        """The same if all ranks lay on one kind of node, for each kind, [kind, rank, plan]."""
        if id(task) not in self._ends:
            sizes, held, which = self.of_ranks
            self._ends[id(task)] = np.stack([task_ps(task, sizes, model, held)[which] for model in self.workload.model.on_each])
        return self._ends[id(task)]

    def time(self, kind: StageKind, phase: Phase, *, closes: bool = False) -> PassTime:
        """The time of a phase, one value a member."""
        key = (kind, phase, closes)
        if key not in self._times:
            self._times[key] = _time(self.pass_of(kind, phase, closes=closes), self.measures.on(kind.node), self.rows_of(kind))
        return self._times[key]

    def charges(self, kind: StageKind, phase: Phase, *, closes: bool = False) -> dict[str, Ints]:
        """What compute does and waits for in a phase, one value a member; sums to its time."""
        total = self.time(kind, phase, closes=closes).total
        return _charges(self.pass_of(kind, phase, closes=closes), self.measures.on(kind.node), self.rows_of(kind), total)

    def launches(self, kind: StageKind, phase: Phase) -> list[tuple[Ints, Ints, Ints]]:
        """Copies of what waits for the host in a phase, its kernels, and how long it waits, one value a member each."""
        return _launches_of(self.pass_of(kind, phase), self.measures.on(kind.node), self.rows_of(kind))

    def pair_launches(self, kinds: tuple[StageKind, StageKind]) -> list[tuple[Ints, Ints, Ints]]:
        """The same of two stages together."""
        return _launches_of(self.pair_of(kinds), self.measures.on(kinds[0].node), self.pair_rows(kinds))

    def total_ps(self, kind: StageKind, phase: Phase) -> Ints:
        """Picoseconds of a phase, one value a member."""
        return self.time(kind, phase).total

    def least_ps(self, kind: StageKind, phase: Phase) -> Ints:
        """Picoseconds that a phase takes at least, one value a member."""
        return self._least_of(self.pass_of(kind, phase), kind.node, self.rows_of(kind))

    def turns(self, phase: Phase) -> tuple[tuple[bool, Ints], ...]:
        """How often a stage does a phase in a step, by plan, apart from the last time where that `closes` beside sums of gradients."""
        count = self.workload.micro_batches
        apart = phase.accumulates and self.workload.step.structure.replica_stream
        return ((False, count - 1), (True, count * 0 + 1)) if apart else ((False, count),)

    def late_ps(self, kind: StageKind, phase: Phase) -> Ints:
        """How much longer the last time takes, beside those sums, one value a member."""
        last, *_ = self.turns(phase)[::-1]
        return self.time(kind, phase, closes=last[0]).total - self.total_ps(kind, phase)

    def rows_of(self, kind: StageKind) -> Ints:
        """Which row of the prices each member has."""
        return self.workload.rows[self.members[kind].plans]

    def pass_of(self, kind: StageKind, phase: Phase, *, closes: bool = False) -> Pass:
        """The tasks of a phase, with the copies of its members."""
        key = (kind, phase, closes)
        if key not in self._passes:
            parts = tuple(zip(kind.names, self.members[kind].copies, strict=True))
            receives, sends = kind.receives(phase), kind.sends(phase)
            self._passes[key] = pass_of(self.workload.step, parts, phase, receives=receives, sends=sends, closes=closes)
        return self._passes[key]

    def send_ps(self, kind: StageKind, phase: Phase) -> Ints:
        """Picoseconds of the message to the next stage, by the slower of its ends; 0 where there is none."""
        sends = [task for task in self.pass_of(kind, phase).epilogue if isinstance(task, Send)]
        each = [self.measures.on(node).prices for node in kind.ends(phase)]
        rows = self.rows_of(kind)
        return sum((np.max([prices.of(task)[rows] for prices in each], axis=0) for task in sends), start=self.members[kind].plans * 0)

    def longer_ps(self, kind: StageKind, phase: Phase) -> Ints:
        """How much later that message has left where the next stage lies in another site."""
        sends = [task for task in self.pass_of(kind, phase).epilogue if isinstance(task, Send)]
        w, plans = self.workload, self.members[kind].plans
        models = [w.model.on(node) for node in kind.ends(phase)]
        return sum((longer_ps(task, w.sizes, models)[plans] for task in sends), start=plans * 0)

    def lives(self, kind: StageKind, phase: Phase) -> Lives:
        """Net and peak bytes of a phase, relative to its start."""
        if (kind, phase) not in self._lives:
            self._lives[kind, phase] = self._lives_of(self.pass_of(kind, phase), self.rows_of(kind))
        return self._lives[kind, phase]

    def _least_of(self, found: Pass | StagePair, node: int, rows: Ints) -> Ints:
        measures = self.measures.on(node)
        return sum((run.copies * measures.least_ps(run.tasks)[rows] for run in found.lists), start=rows * 0)

    def _lives_of(self, found: Pass | StagePair, rows: Ints) -> Lives:
        live = peak = zero = rows * 0
        for run in found.lists:
            copies = run.copies
            net, top = (each[rows] for each in self.measures.lives(run))
            peak = np.where(zero + copies > 0, np.maximum(peak, live + top + np.maximum((copies - 1) * net, 0)), peak)
            live = live + copies * net
        return Lives(live, peak)


def _pair_members(workload: Workload, plans: Sequence[Ints]) -> dict[tuple[StageKind, StageKind], PairMembers]:
    """Of all shapes, of which each has some of the plans."""
    found: dict[tuple[StageKind, StageKind], list[PairMembers]] = {}
    for shape, own in zip(workload.shapes, plans, strict=True):
        for place, two in enumerate(shape.class_pairs.tolist()):
            each = [shape.classes[number] for number in two]
            ahead, behind = (np.repeat(np.array(one.copies, dtype=np.int64)[:, None], len(own), axis=1) for one in each)
            found.setdefault((each[0].kind, each[1].kind), []).append(PairMembers(own, own * 0 + place, (ahead, behind)))
    return {
        kinds: PairMembers(
            np.concatenate([each.plans for each in all_of]),
            np.concatenate([each.places for each in all_of]),
            tuple(np.concatenate([each.copies[side] for each in all_of], axis=1) for side in (0, 1)),  # type: ignore[arg-type]
        )
        for kinds, all_of in found.items()
    }


def _time(found: Pass | StagePair, measures: Measures, rows: Ints) -> PassTime:
    """A phase from rest."""
    state = measures.crossing(run.tasks for run in found.lists)
    zero = rows * 0
    total, matrix = zero, maxplus.identity(state.num_entries, len(rows))
    for run in found.lists:
        ends = measures.course(run, state).ends
        if state.num_entries == 1:
            total = total + run.copies * ends[rows, 0, 0]
        else:
            matrix = maxplus.product(maxplus.power(ends[rows], zero + run.copies), matrix)
    if state.num_entries == 1:
        return PassTime(total, zero + maxplus.NEVER, zero)
    return PassTime(matrix[:, 0].max(axis=1), matrix[:, 1, 0], matrix[:, 1, 1])


def _launches_of(found: Pass | StagePair, measures: Measures, rows: Ints) -> list[tuple[Ints, Ints, Ints]]:
    each = ((run, own) for run in found.lists for own in measures.launches(run))
    return [(rows * 0 + run.copies, own.kernels[rows], own.wait[rows]) for run, own in each]


def _charges(found: Pass | StagePair, measures: Measures, rows: Ints, total: Ints) -> dict[str, Ints]:
    """What it sums to.  What a phase takes beyond its lists from rest, it waits for the stream that crosses them."""
    state = measures.crossing(run.tasks for run in found.lists)
    zero = rows * 0
    charges: dict[str, Ints] = {}
    for run in found.lists:
        for name, ps in measures.course(run, state).charges.items():
            charges[name] = charges.get(name, zero) + run.copies * ps[rows]
    if state.num_entries > 1:
        waits = exposure(state.streams[0])
        charges[waits] = total - sum((ps for name, ps in charges.items() if name != waits), start=zero)
    return charges
