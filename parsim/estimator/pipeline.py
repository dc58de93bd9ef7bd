"""The step's longest path: the passes of all ranks, with messages between them, and the end of the step.

Integer picoseconds over arrays of plans, and nothing rounded here: `simulate` runs the same step through events and must agree
to the picosecond.  Every gap of a rank's compute is charged to what it waited for, so a breakdown sums to the step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from msgspec import Struct

from parsim import schedules
from parsim.cluster.scalars import Floats, distinct_rows
from parsim.cost.reach import site_latency_ps, stages_that_leave_sites
from parsim.cost.shape import Shape
from parsim.cost.sizes import Ints
from parsim.cost.timing import task_ps
from parsim.cost.workload import Workload
from parsim.estimator.fold import Passes, fold
from parsim.estimator.passes import Stages
from parsim.estimator.streams import Streams, exposure
from parsim.estimator.together import charged_more, more_of_ranks, most_saved
from parsim.estimator.worst import ranks_of_plans
from parsim.parallel.dimensions import axis_of
from parsim.schedules import Rounds
from parsim.schedules.columnar import Bools
from parsim.step.task import Collective, Task
from parsim.units import PS_PER_S

_USUAL: Final = ("tensor_parallel", "pipeline_parallel", "data_parallel")  # innermost first and replicas last
_MOST_BYTES = 200e6  # of the arrays of a batch
_ARRAYS = 8  # of a value an action and plan, in a batch


class Timeline(Struct, frozen=True):
    """The step of one plan, and what compute did or waited for on the critical rank, whose bubble is shortest.

    Of replicas that train apart all steps of a period, from one sum of weights to the next.
    """

    step_ps: int
    critical_rank: int
    charges: dict[str, int]  # compute, exposed_AXIS, bubble, optimizer, other; sums to the step
    num_steps: int = 1

    @property
    def step_s(self) -> float:
        """Seconds of a step, on average."""
        return self.step_ps / self.num_steps / PS_PER_S

    def repeat(self, times: int, last: Timeline) -> Timeline:
        """The period of so many such steps and a last one."""
        names = dict.fromkeys((*last.charges, *self.charges))
        charges = {name: times * self.charges.get(name, 0) + last.charges.get(name, 0) for name in names}
        return Timeline(times * self.step_ps + last.step_ps, last.critical_rank, charges, times + 1)


class RankEnds(NamedTuple):
    """When the passes of each rank end, the sums of gradients that run beside them, and what it waited for messages, [rank, plan]."""

    ends: Ints
    busy: Ints
    flying: Ints

    def of_plan(self, place: int) -> RankEnds:
        """The same of one of the plans."""
        return RankEnds(*(each[:, place : place + 1].copy() for each in self))


class StepEnds(NamedTuple):
    """The same with the end of the step behind them: when compute of each rank is done, and what it did or waited for there."""

    passes: RankEnds
    compute: Ints
    charges: Mapping[str, Ints]
    quiet: StepEnds | None = None  # of replicas that train apart, where they do not come together

    def of_plan(self, place: int) -> StepEnds:
        """The same of one of the plans."""
        compute, *charges = (each[:, place : place + 1].copy() for each in (self.compute, *self.charges.values()))
        quiet = self.quiet and self.quiet.of_plan(place)
        return StepEnds(self.passes.of_plan(place), compute, dict(zip(self.charges, charges, strict=True)), quiet)

    def mean_ps(self, local_steps: Ints) -> Ints | Floats:
        """Picoseconds of the steps, of replicas that train apart on average over a period, [plan]."""
        last: Ints = self.compute.max(axis=0)
        return last if self.quiet is None else (last + (local_steps - 1) * self.quiet.compute.max(axis=0)) / local_steps


class Member(NamedTuple):
    """Plans of one workload that have a pipeline and number of micro_batches in common."""

    place: int  # of the workload
    plans: Ints
    shape: Shape
    loops: int


class Finished(NamedTuple):
    """Some plans of one of several workloads."""

    place: int  # of the workload
    plans: Ints
    ends: StepEnds


def steps_of(many: Sequence[Stages], *, watch: bool = False) -> Iterator[Finished]:
    """The steps of all plans of some workloads: what runs the same rounds is folded together; `watch`: as for `rank_ends`."""
    for batch in _batches(many):
        parts = [many[place].take(own) for place, own in batch]
        for (place, own), part, passes in zip(batch, parts, rank_ends(parts, watch=watch), strict=True):
            yield Finished(place, own, ends_of(part, passes))


def _batches(many: Sequence[Stages]) -> Iterator[list[tuple[int, Ints]]]:
    """Plans by ranks of the pipeline, in batches whose arrays stay small: places of workloads, and of plans in each."""
    ranks = [np.array([shape.num_ranks for shape in each.workload.shapes])[each.workload.shape_of] for each in many]
    rows = max((shape.num_stages * len(shape.phases) for each in many for shape in each.workload.shapes), default=1)
    size = max(1, int(_MOST_BYTES / (8 * _ARRAYS * rows)))
    for num_ranks in sorted({*np.concatenate([*ranks, np.zeros(0, np.int64)]).tolist()}):
        batch, room = list[tuple[int, Ints]](), size
        for place, each in enumerate(ranks):
            own = np.flatnonzero(each == num_ranks)
            for part in filter(len, np.split(own, range(room, len(own), size))):
                if len(part) > room:
                    yield batch
                    batch, room = [], size
                batch.append((place, part))
                room -= len(part)
        yield batch


def rank_ends(parts: Sequence[Stages], *, watch: bool = False) -> list[RankEnds]:
    """The passes of some workloads, each of pipelines with one number of ranks; `watch`: whether `flying` is asked for."""
    groups: dict[Rounds, list[Member]] = {}
    for place, part in enumerate(parts):
        for rounds, member in members_of(place, part.workload):
            groups.setdefault(rounds, []).append(member)
    times = [[*map(part.table, (part.total_ps, part.send_ps, part.late_ps, part.longer_ps))] for part in parts]
    beside, together = [*map(beside_times, parts)], [part.spread_pairs(part.pair_ps) for part in parts]
    found = [RankEnds(*np.zeros((3, part.workload.num_ranks, len(part.workload.rows)), dtype=np.int64)) for part in parts]
    for rounds, members in groups.items():
        loops = np.repeat([each.loops for each in members], [len(each.plans) for each in members])
        own_times = (by_action(parts[each.place].workload, times[each.place], together[each.place], each, rounds) for each in members)
        passes, first = fold(rounds, loops, *map(np.hstack, zip(*own_times, strict=True)), watch=watch), 0
        for each in members:
            own = Passes(*(column[:, first : first + len(each.plans)] for column in passes))
            busy = busy_ends(beside[each.place], each, rounds, own)
            for whole, values in zip(found[each.place], (own.ends, busy, own.flying), strict=True):
                whole[:, each.plans] = values
            first += len(each.plans)
    return found


def members_of(place: int, workload: Workload) -> Iterator[tuple[Rounds, Member]]:
    """The plans of a workload by what they run."""
    first, which = distinct_rows([workload.shape_of, workload.micro_batches], len(workload.rows))
    for number, plan in enumerate(first.tolist()):
        shape = workload.shapes[workload.shape_of[plan]]
        rounds, loops = schedules.rounds(shape.schedule, shape.num_ranks, shape.chunks, int(workload.micro_batches[plan]))
        yield rounds, Member(place, np.flatnonzero(which == number), shape, loops)


def by_action(w: Workload, times: Sequence[Ints], together: Ints, member: Member, rounds: Rounds) -> Iterator[Ints]:
    """Of spans, messages and lateness [phase, class, plan], and of pairs [two classes, plan], what actions have, [action, plan] each; then
    how long messages to other sites are on their way, which leave later, too.
    """
    shape, plans = member.shape, member.plans
    pairs = together[shape.classes_of(*rounds.pairs.T)[:, None], plans] if len(rounds.pairs) else together[:0, plans]
    spans, sends, late, longer = (each[:, shape.index[:, None], plans] for each in times)
    leave = stages_that_leave_sites(w.model.cluster, shape, w.phases, w.sizes.take(plans))
    parts = (spans, pairs), (sends + leave * longer, pairs * 0), (late, pairs * 0), (leave * site_latency_ps(w.model.cluster), pairs * 0)
    for each, own in parts:
        alone = each.reshape(-1, len(plans))
        yield np.concatenate([alone, own, own[:1] * 0]) if len(own) else alone


def beside_times(stages: Stages) -> list[Ints]:
    """What runs beside the last accumulation of a stage, if anything does: from its start, and from when that stream was done before,
    until its end, [class, plan] each.
    """
    if not stages.workload.step.structure.replica_stream:
        return []
    (phase,) = (each for each in stages.workload.phases if each.accumulates)
    from_start = stages.spread(lambda kind, _: stages.time(kind, phase, closes=True).from_start)
    return [from_start, stages.spread(lambda kind, _: stages.time(kind, phase, closes=True).from_busy)]


def busy_ends(beside: Sequence[Ints], member: Member, rounds: Rounds, passes: Passes) -> Ints:
    """When the sums of gradients end that run beside the passes, [rank, plan]."""
    busy = passes.ends * 0
    if beside:
        from_start, from_busy = beside
        index = member.shape.index[rounds.closing % member.shape.num_stages]
        for actions, each in zip(rounds.closing.T, index.T[:, :, None], strict=True):
            busy = np.maximum(passes.starts[actions] + from_start[each, member.plans], busy + from_busy[each, member.plans])
    return busy


class Ending(Protocol):
    """A step's end on replicas that are not all alike."""

    def ps(self, task: Task, price: Callable[[Stages], Ints], stages: Stages) -> Ints:
        """Picoseconds that a task takes, [rank, plan], by what it is priced at on these stages, or on others like them."""

    def meet(self, task: Task, ends: Ints) -> Ints:
        """When all replicas that start a task together are there."""


def ends_of(stages: Stages, passes: RankEnds) -> StepEnds:
    """The ends of a step on all ranks; of replicas that train apart also where they do not come together."""
    quiet = stages.workload.step.quiet
    return finish(stages, passes)._replace(quiet=finish(stages, passes, tasks=quiet.finish) if quiet else None)


def finish(stages: Stages, passes: RankEnds, ending: Ending | None = None, tasks: Iterable[Task] | None = None) -> StepEnds:
    """The end of the step, or these tasks of it, on all ranks, [rank, plan], the first of those that replicate one another; `ending`:
    where they are not alike."""
    w, ends = stages.workload, passes.ends
    copies = stages.held
    streams = Streams(ends, "optimizer")
    if w.step.structure.replica_stream:
        streams.begin(w.step.structure.replica_stream, passes.busy)
    for task in w.step.finish if tasks is None else tasks:
        members = _members(task, copies)
        if isinstance(task, Collective) and task.group.mirrors:  # two that hold the same, and wait for one another
            streams.wait(np.maximum(streams.compute, streams.compute[::-1]), "bubble")
        elif members is not None:
            start = np.max(streams.compute, axis=0, where=members, initial=0)
            streams.wait(np.where(members, start, 0), "bubble")
        price = functools.partial(_finish_ps, task, members)
        if ending is not None:
            streams.meet = functools.partial(_meet, ending, members)
        streams.issue(task, price(stages) if ending is None else ending.ps(task, price, stages))
    return StepEnds(passes, streams.compute, streams.charges)


def _finish_ps(task: Task, members: Bools | None, stages: Stages) -> Ints:
    """Picoseconds of a task of the step's end, [rank, plan]; 0 on ranks that have no part in it."""
    ps = stages.finish_ps(task)
    if isinstance(task, Collective) and task.group.mirrors:
        return np.maximum(ps, ps[::-1])  # on the slower of their nodes
    if members is None:
        return ps
    last = len(members) - 1 - np.argmax(members[::-1], axis=0)
    return np.where(members, _slowest_ps(stages, task, members, last), 0)


def _meet(ending: Ending, members: Bools | None, task: Task, ends: Ints) -> Ints:
    """When those of each rank are there that start a task together; ranks that have no part in it wait for nobody."""
    found = ending.meet(task, ends)
    return found if members is None else np.where(members, found, ends)


def _slowest_ps(stages: Stages, task: Task, members: Bools, last: Ints) -> Ints:
    """Picoseconds of what ranks start together: for what the last of them holds, on the slowest of their nodes, one value a plan."""
    each = np.take_along_axis(stages.finish_on(task), last[None, None], 1)[:, 0]
    return np.asarray(np.max([ps * (members & (stages.nodes == node)).any(axis=0) for node, ps in enumerate(each)], axis=0))


def _members(task: Task, held: Mapping[str, Ints]) -> Bools | None:
    """Which ranks of the pipeline take part in a collective over it together, [rank, plan]; None for any other task."""
    if not isinstance(task, Collective) or "pp" not in task.group.axes:
        return None
    return np.any([held[name] > 0 for name in task.group.homes], axis=0) if task.group.homes else next(iter(held.values())) >= 0


def timeline(stages: Stages, ends: StepEnds | None = None, local_steps: int = 1) -> Timeline:
    """The step of the only plan, every gap of its critical rank charged: to communication what was on its way, to the bubble the rest.

    The critical rank is the one whose bubble is shortest, the first of equals: it computes or communicates longest.  `ends`: its own,
    of watched passes, where they are known.
    """
    if ends is None:
        ends = ends_of(stages, *rank_ends([stages], watch=True))
    last = _line(stages, ends)
    return _line(stages, ends.quiet).repeat(local_steps - 1, last) if ends.quiet else last


def _line(stages: Stages, ends: StepEnds) -> Timeline:
    charges = _charges_of_ranks(stages, ends)
    rank = int(np.argmin(charges["bubble"]))
    own = {name: int(ps[rank]) for name, ps in charges.items()}
    return Timeline(sum(own.values()), rank, own)


def _charges_of_ranks(stages: Stages, end: StepEnds) -> dict[str, Ints]:
    """What compute of each rank did or waited for in the step of the only plan, [rank]; each rank's sum to the step."""
    w, passes = stages.workload, end.passes
    charges = dict.fromkeys(("compute", *map(exposure, _links(w)), "bubble", "optimizer", "other"), np.zeros(w.num_ranks, dtype=np.int64))
    parts, spans = [(name, ps[:, 0]) for name, ps in end.charges.items()], charges["compute"]
    for kind, members in stages.members.items():
        own = w.shape.own[:, members.classes]
        for phase in w.phases:
            for closes, (times,) in stages.turns(phase):
                parts += [(name, own @ ps * times) for name, ps in stages.charges(kind, phase, closes=closes).items()]
                spans = spans + own @ stages.time(kind, phase, closes=closes).total * times
    if stages.pair_members:
        spans = spans + more_of_ranks(stages, stages.spread_pairs(stages.pair_ps), stages.table(stages.total_ps))[:, 0]
        parts += [(name, charged_more(stages, name)[:, 0]) for name in dict.fromkeys(name for name, _ in parts)]
    flying = passes.flying[:, 0]
    waits = passes.ends[:, 0] - spans - flying + end.compute.max() - end.compute[:, 0]
    for name, ps in (*parts, (exposure("pp"), flying), ("bubble", waits)):
        charges[name] = charges.get(name, 0) + ps
    return charges


def _links(workload: Workload) -> tuple[str, ...]:
    """What a breakdown names: the usual axes, then others that are on."""
    own = tuple(map(axis_of, _USUAL))
    return (*own, *(link for link in workload.step.structure.links if link not in own))


def lower_bound(stages: Stages) -> Ints:
    """Picoseconds that no schedule can beat: a rank's own work, after the stages below its first one have filled the pipeline and before
    they drain it.  Where a phase that hands nothing on may come last, none drain it.

    Nothing counts of what one list leaves to the next: whoever ranks many plans prices most of them so alone.
    """
    w, phases = stages.workload, stages.workload.phases
    spans, sends = map(stages.table, (stages.least_ps, stages.send_ps))
    up, down, drains = [each.step > 0 for each in phases], [each.step < 0 for each in phases], phases[-1].step < 0
    passed, back = (spans + sends)[up].sum(axis=0), sends[down].sum(axis=0) * drains
    if drains:
        passed = passed + spans[down].sum(axis=0)
    rows = ranks_of_plans(w, stages.num_classes)
    own, below, shifted = rows.columns
    reach = np.sum(below * passed.T[rows.plan] + shifted * back.T[rows.plan], axis=1)
    busy = np.sum(own * (spans.sum(axis=0) * w.micro_batches).T[rows.plan], axis=1)
    saved = most_saved(stages, stages.spread_pairs(stages.least_pair_ps), spans)
    return rows.worst(reach + busy) - saved + (_least_finish(stages) if drains else 0)


def _least_finish(stages: Stages) -> Ints:
    """Picoseconds of the end of the step on the first rank, into which a pipeline drains, if it waits for no other rank."""
    w = stages.workload
    first = np.zeros((len(w.shapes), stages.num_classes), dtype=np.int64)
    for shape, own in zip(w.shapes, first, strict=True):
        own[: len(shape.classes)] = shape.own[0]
    first = first[w.shape_of].T
    held = {name: np.sum(first * stages.copies(name), axis=0) for name in w.step.segments}
    node = np.array([shape.nodes[0] for shape in w.shapes])[w.shape_of]
    streams = Streams(w.rows * 0, "optimizer")
    for task in (w.step.quiet or w.step).finish:
        over_pipeline = isinstance(task, Collective) and "pp" in task.group.axes  # as long as its last member takes
        each = [w.rows * 0] if over_pipeline else [task_ps(task, w.sizes, model, held) for model in w.model.on_each]
        streams.issue(task, np.choose(node if len(each) > 1 else 0, each))
    return streams.compute
