"""When each communication of a step starts if nobody holds it up: no events, but actions level by level, and the step's end by tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.schedules.columnar import Bools
from parsim.simulator.program import Program, RankCourse
from parsim.step.task import Collective, Send


class Passage(NamedTuple):
    """A communication of a pipeline rank, as often as it happens."""

    task: Collective | Send
    rank: int
    row: int | None  # one of the actions that it is of; None: of the step's end
    starts_ps: Ints


def passages(program: Program) -> Iterator[Passage]:
    """All of a step."""
    columns, folds = program.columns, program.folds
    starts, ends, leaves = _actions(program)
    order = np.argsort(program.pass_index, kind="stable")
    cuts = np.searchsorted(program.pass_index[order], np.arange(1, len(folds)))
    for each, rows in zip(folds, np.split(order, cuts), strict=True):
        rank, row = int(columns.rank[rows[0]]), int(rows[0])
        yield from (Passage(task, rank, row, starts[rows] + at) for task, at in each.inside)
        if each.message and isinstance(each.message.task, Send) and columns.sends[row]:
            yield Passage(each.message.task, rank, row, leaves[rows])
    last = np.searchsorted(columns.rank, np.arange(program.workload.num_ranks), side="right") - 1
    courses = [RankCourse(int(ends[row])) for row in last]
    yield from _beside(program, starts, courses)
    yield from _finish(program, courses)


def _actions(program: Program) -> tuple[Ints, Ints, Ints]:
    """When each action starts and ends, and its message leaves, [row]."""
    columns, folds, index = program.columns, program.folds, program.pass_index
    spans = np.array([each.ps for each in folds])[index]
    sends = np.array([each.message.ps if each.message else 0 for each in folds])[index] * columns.sends
    starts, ends, leaves, arrivals = np.zeros((4, len(index) + 1), dtype=np.int64)  # row -1, which is nobody's, stays 0
    for rows in columns.levels:
        starts[rows] = np.maximum(ends[columns.before[rows]], arrivals[columns.awaits[rows]])
        ends[rows] = starts[rows] + spans[rows]
        leaves[rows] = np.maximum(ends[rows], arrivals[columns.sent_before[rows]])
        arrivals[rows] = leaves[rows] + sends[rows]
    return starts, ends, leaves


def _beside(program: Program, starts: Ints, courses: Sequence[RankCourse]) -> Iterator[Passage]:
    """What actions leave running, which the courses of their ranks then know."""
    folds = program.folds
    for row in np.flatnonzero(leaves_running(program)).tolist():
        rank = int(program.columns.rank[row])
        ends = courses[rank].ends
        for stream, ready_ps, ps, task in folds[program.pass_index[row]].beside:
            start = max(int(starts[row]) + ready_ps, ends.get(stream, 0))
            ends[stream] = start + ps
            if isinstance(task, Collective):
                yield Passage(task, rank, row, np.array([start]))


def leaves_running(program: Program) -> Bools:
    """Whether each action leaves something running beside those that follow, [row]."""
    return np.array([bool(each.beside) for each in program.folds])[program.pass_index]


def _finish(program: Program, courses: Sequence[RankCourse]) -> Iterator[Passage]:
    """The step's end, whose collectives over the pipeline start when the last of their members comes."""
    items = [{id(item.task): item for item, _ in program.finish(rank)} for rank in range(len(courses))]
    for task in program.workload.step.finish:
        ranks = [rank for rank, own in enumerate(items) if id(task) in own]
        together = [max((courses[each].now for each in program.members(task, rank)), default=0) for rank in ranks]
        for rank, last in zip(ranks, together, strict=True):
            courses[rank].now = max(courses[rank].now, last)
            start = courses[rank].run(items[rank][id(task)])
            if isinstance(task, Collective):
                yield Passage(task, rank, None, np.array([start]))
