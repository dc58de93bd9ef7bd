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
        for message in each.messages:
            if isinstance(message.task, Send) and program.sends[sender := program.sender(row, message.task)]:
                yield Passage(message.task, rank, row, leaves[rows + (sender - row)])
    last = np.searchsorted(columns.rank, np.arange(program.workload.num_ranks), side="right") - 1
    courses = [RankCourse(int(ends[row])) for row in last]
    yield from _beside(program, starts, courses)
    yield from _finish(program, courses)


def _actions(program: Program) -> tuple[Ints, Ints, Ints]:
    """When each action starts and ends, and its message leaves, [row]."""
    columns, folds, index = program.columns, program.folds, program.pass_index
    spans, (sends, on_its_way) = np.array([each.ps for each in folds])[index], np.zeros((2, len(index)), dtype=np.int64)
    for row, each in enumerate(index.tolist()):
        for message in folds[each].messages:
            if isinstance(message.task, Send):
                longer_ps, on_its_way[program.sender(row, message.task)] = program.far_ps(row, message.task)
                sends[program.sender(row, message.task)] = message.ps + longer_ps
    sends *= columns.sends
    starts, ends, leaves, left, arrivals = np.zeros((5, len(index) + 1), dtype=np.int64)  # row -1, which is nobody's, stays 0
    for rows in columns.levels:
        starts[rows] = np.maximum(ends[columns.before[rows]], arrivals[columns.awaits[rows]])
        ends[rows] = starts[rows] + spans[rows]
        leaving = np.concatenate([rows[columns.ends[rows] == rows], [row - 1 for row in rows.tolist() if row in program.pairs]]).astype(int)
        leaves[leaving] = np.maximum(ends[columns.ends[leaving]], left[columns.sent_before[leaving]])
        left[leaving] = leaves[leaving] + sends[leaving]
        arrivals[leaving] = left[leaving] + on_its_way[leaving]
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
