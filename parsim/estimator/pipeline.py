"""The step's longest path: actions level by level over all ranks at once, messages between them, and the end of the step.

Integer picoseconds over arrays of plans, and nothing rounded here: `simulate` runs the same step through events and must agree
to the picosecond.  Every gap of a rank's compute is charged to what it waited for, so a breakdown sums to the step.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from parsim import schedules
from parsim.cluster.scalars import distinct_rows
from parsim.cost.sizes import Ints
from parsim.cost.timing import task_ps
from parsim.cost.workload import Workload
from parsim.errors import ScenarioError
from parsim.estimator.passes import Stages
from parsim.estimator.streams import Streams, exposure
from parsim.estimator.worst import ranks_of_plans
from parsim.parallel.dimensions import axis_of
from parsim.schedules.columnar import Bools, Columns
from parsim.step.task import Collective, Task
from parsim.units import PS_PER_S

_USUAL: Final = ("tensor_parallel", "pipeline_parallel", "data_parallel")  # innermost first and replicas last
_MOST_PS = 2**63 - 1  # 106 days
_MOST_BYTES = 200e6  # of the arrays of a fold
_ARRAYS = 6  # of a value a row and plan, in a fold


@dataclass(frozen=True, slots=True)
class Timeline:
    """The step of one plan, and what compute did or waited for on the critical rank, which computes most."""

    step_ps: int
    critical_rank: int
    charges: dict[str, int]  # compute, exposed_AXIS, bubble, optimizer, other; sums to the step


class Levels(NamedTuple):
    """The rows of a schedule's columns in an order in which all that an action needs lies in earlier levels; n is before all."""

    rows: Ints
    cuts: tuple[tuple[int, int], ...]  # of each level
    before: Ints
    awaits: Ints
    sent_before: Ints


@functools.lru_cache(maxsize=64)
def _levels(columns: Columns) -> Levels:
    order = np.concatenate(columns.levels)
    place = np.empty(len(order) + 1, dtype=np.int64)
    place[order], place[-1] = np.arange(len(order)), len(order)  # row -1 is before all
    ends = np.cumsum([len(rows) for rows in columns.levels]).tolist()
    before, awaits, sent_before = (place[each[order]] for each in (columns.before, columns.awaits, columns.sent_before))
    return Levels(order, tuple(zip([0, *ends], ends, strict=False)), before, awaits, sent_before)


class Fold(NamedTuple):
    """When the actions of a schedule's columns start and end, [row, plan]; row -1 is the step's begin."""

    columns: Columns
    starts: Ints
    ends: Ints


def fold(stages: Stages) -> Fold:
    """Every action after the one before it on its rank and after its message; a message leaves after the one before it."""
    w = stages.workload
    columns = schedules.columns(w.schedule, w.num_ranks, w.chunks, w.num_micro_batches)
    levels = _levels(columns)
    kinds = columns.phase[levels.rows], w.shape.index[columns.stage[levels.rows]]
    spans = stages.table(lambda kind, phase: stages.time(kind, phase).total)[kinds]
    sends = stages.table(stages.send_ps)[kinds]
    _check_range(spans + sends, levels)
    found = np.zeros((2, len(spans) + 1, spans.shape[1]), dtype=np.int64)
    one = 0 if spans.shape[1] == 1 else slice(None)  # a single index is fastest
    found[:, levels.rows] = _walk(levels, spans[:, one], sends[:, one]).reshape(found[:, :-1].shape)
    return Fold(columns, *found)


def _walk(levels: Levels, spans: Ints, sends: Ints) -> Ints:
    starts, ends, arrivals = np.zeros((3, len(spans) + 1, *spans.shape[1:]), dtype=np.int64)
    _, cuts, before, awaits, sent_before = levels
    for low, high in cuts:
        start = starts[low:high] = np.maximum(ends[before[low:high]], arrivals[awaits[low:high]])
        end = ends[low:high] = start + spans[low:high]
        arrivals[low:high] = np.maximum(end, arrivals[sent_before[low:high]]) + sends[low:high]
    return np.stack([starts[:-1], ends[:-1]])


def _check_range(spans: Ints, levels: Levels) -> None:
    """Raise a ScenarioError for a step that int64 may not hold: the slowest actions of all levels, one after another."""
    longest = float(np.maximum.reduceat(spans, [low for low, _ in levels.cuts]).sum(axis=0, dtype=np.float64).max())
    if longest > _MOST_PS:
        raise ScenarioError(f"the step would take {longest / PS_PER_S:.3g} s", remedy="Check the rates and bandwidths of the hardware.")


def step_ps(stages: Stages) -> Ints:
    """Picoseconds of the step of each plan."""
    found = stages.workload.rows * 0
    for own in _portions(stages.workload):
        part = stages.take(own)
        found[own] = finish(part, *pass_ends(part, fold(part))).compute.max(axis=0)
    return found


def _portions(workload: Workload) -> Iterator[Ints]:
    """Plans of one pipeline and number of micro_batches, in portions whose arrays stay small."""
    first, which = distinct_rows([workload.shape_of, workload.micro_batches], len(workload.rows))
    for index, plan in enumerate(first.tolist()):
        own = np.flatnonzero(which == index)
        rows = int(workload.micro_batches[plan]) * workload.shapes[workload.shape_of[plan]].num_stages * len(workload.phases)
        size = max(1, int(_MOST_BYTES / (8 * _ARRAYS * rows)))
        yield from np.split(own, range(size, len(own), size))


def pass_ends(stages: Stages, found: Fold) -> tuple[Ints, Ints]:
    """When the passes of each rank end, and the sums of gradients that run beside them, [rank, plan]."""
    w, columns = stages.workload, found.columns
    ends = found.ends[np.flatnonzero(np.diff(columns.rank, append=w.num_ranks))]
    busy = ends * 0
    if w.step.structure.replica_stream:
        closing = np.flatnonzero(columns.closes).reshape(w.num_ranks, -1)  # in the order of issue
        (phase,) = (w.phases[index] for index in set(columns.phase[closing].flat))
        from_start = stages.spread(lambda kind, _: stages.time(kind, phase, closes=True).from_start)
        from_busy = stages.spread(lambda kind, _: stages.time(kind, phase, closes=True).from_busy)
        for rows in closing.T:
            each = w.shape.index[columns.stage[rows]]
            busy = np.maximum(found.starts[rows] + from_start[each], busy + from_busy[each])
    return ends, busy


def finish(stages: Stages, ends: Ints, busy: Ints) -> Streams:
    """The end of the step on all ranks, [rank, plan], the first of those that replicate one another."""
    w = stages.workload
    copies = stages.held
    streams = Streams(ends, "optimizer")
    if w.step.structure.replica_stream:
        streams.begin(w.step.structure.replica_stream, busy)
    for task in w.step.finish:
        ps = stages.finish_ps(task)
        members = _members(task, copies)
        if members is not None:
            start = np.max(streams.compute, axis=0, where=members, initial=0)
            streams.wait(np.where(members, start, 0), "bubble")
            last = len(ends) - 1 - np.argmax(members[::-1], axis=0)
            ps = np.where(members, np.take_along_axis(ps, last[None], 0), 0)
        streams.issue(task, ps)
    return streams


def _members(task: Task, held: Mapping[str, Ints]) -> Bools | None:
    """Which ranks of the pipeline take part in a collective over it, [rank, plan]; None for any other task."""
    if not isinstance(task, Collective) or "pp" not in task.group.axes:
        return None
    return np.any([held[name] > 0 for name in task.group.homes], axis=0) if task.group.homes else next(iter(held.values())) >= 0


def timeline(stages: Stages) -> Timeline:
    """The step of the only plan, every gap of its critical rank charged."""
    w = stages.workload
    found = fold(stages)
    end = finish(stages, *pass_ends(stages, found))
    step = int(end.compute.max())
    work = stages.table(lambda kind, phase: stages.charges(kind, phase).get("compute", stages.members[kind].plans * 0))
    rank = int(np.argmax(w.shape.own @ work[:, :, 0].sum(axis=0)))
    charges = dict.fromkeys(("compute", *map(exposure, _links(w)), "bubble", "optimizer", "other"), 0)
    parts = [(name, int(ps[rank, 0])) for name, ps in end.charges.items()]
    for kind, members in stages.members.items():
        times = w.shape.own[rank, members.classes] * w.num_micro_batches
        for phase in w.phases:
            parts += [(name, int(ps @ times)) for name, ps in stages.charges(kind, phase).items()]
    for name, ps in (*parts, *_waits(found, rank), ("bubble", step - int(end.compute[rank, 0]))):
        charges[name] = charges.get(name, 0) + ps
    return Timeline(step, rank, charges)


def _waits(found: Fold, rank: int) -> tuple[tuple[str, int], ...]:
    """Gaps before the actions of a rank: what was on its way is communication, what was not yet sent is bubble."""
    own = np.flatnonzero(found.columns.rank == rank)
    starts, done, sent = found.starts[own], found.ends[found.columns.before[own]], found.ends[found.columns.awaits[own]]
    flying = np.maximum(starts - np.maximum(done, sent), 0)
    return (exposure("pp"), int(flying.sum())), ("bubble", int((starts - done - flying).sum()))


def _links(workload: Workload) -> tuple[str, ...]:
    """What a breakdown names: the usual axes, then others that are on."""
    own = tuple(map(axis_of, _USUAL))
    return (*own, *(link for link in workload.step.structure.links if link not in own))


def lower_bound(stages: Stages) -> Ints:
    """Picoseconds that no schedule can beat: a rank's own work, after the stages below its first one have filled the pipeline and before
    they drain it.  Where a phase that hands nothing on may come last, none drain it."""
    w, phases = stages.workload, stages.workload.phases
    spans, sends = stages.table(lambda kind, phase: stages.time(kind, phase).total), stages.table(stages.send_ps)
    up, down, drains = [each.step > 0 for each in phases], [each.step < 0 for each in phases], phases[-1].step < 0
    passed, back = (spans + sends)[up].sum(axis=0), sends[down].sum(axis=0) * drains
    if drains:
        passed = passed + spans[down].sum(axis=0)
    rows = ranks_of_plans(w, stages.num_classes)
    own, below, shifted = rows.columns
    reach = np.sum(below * passed.T[rows.plan] + shifted * back.T[rows.plan], axis=1)
    busy = np.sum(own * spans.sum(axis=0).T[rows.plan], axis=1) * w.micro_batches[rows.plan]
    return rows.worst(reach + busy) + (_least_finish(stages) if drains else 0)


def _least_finish(stages: Stages) -> Ints:
    """Picoseconds of the end of the step on the first rank, into which a pipeline drains, if it waits for no other rank."""
    w = stages.workload
    first = np.zeros((len(w.shapes), stages.num_classes), dtype=np.int64)
    for shape, own in zip(w.shapes, first, strict=True):
        own[: len(shape.classes)] = shape.own[0]
    first = first[w.shape_of].T
    held = {name: np.sum(first * stages.copies(name), axis=0) for name in w.step.segments}
    streams = Streams(w.rows * 0, "optimizer")
    for task in w.step.finish:
        over_pipeline = isinstance(task, Collective) and "pp" in task.group.axes  # as long as its last member takes
        streams.issue(task, w.rows * 0 if over_pipeline else task_ps(task, w.sizes, w.model, held))
    return streams.compute
