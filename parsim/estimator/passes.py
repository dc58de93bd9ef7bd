"""What each stage of a workload does in each phase: its time, memory and message.  Stages that do the same are measured once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from parsim.cost.sizes import Ints
from parsim.cost.workload import Workload
from parsim.estimator import maxplus
from parsim.estimator.lists import Lives, Measures, crossing
from parsim.estimator.streams import exposure
from parsim.schedules.phase import Phase
from parsim.step.program import Pass
from parsim.step.task import Send


class PassTime(NamedTuple):
    """Picoseconds of a phase of a stage once its message is there, by plan."""

    total: Ints
    charges: Mapping[str, Ints]  # sums to the total
    from_start: Ints  # until the stream that it leaves busy ends, from its start
    from_busy: Ints  # and from when that stream was done before


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """The stages of a workload in classes that do the same."""

    workload: Workload
    measures: Measures
    first: tuple[int, ...]  # stage of each class
    index: Ints  # class of each stage
    home: Ints  # rank of each stage
    held: dict[str, Ints]  # copies of each segment, [rank, plan]
    _times: dict[tuple[int, Phase, bool], PassTime] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, workload: Workload, measures: Measures) -> Stages:
        """The classes of a workload's stages."""
        last = workload.num_stages - 1
        classes: dict[object, tuple[int, int]] = {}  # a class and its first stage, by what sets it apart
        index: list[int] = []
        home = np.array([workload.rank_of(stage) for stage in range(last + 1)])
        zero = np.zeros((workload.num_ranks, workload.sizes.num_plans), dtype=np.int64)
        held = {name: zero.copy() for name in workload.step.segments}
        for stage in range(last + 1):
            parts = workload.parts(stage)
            for name, copies in parts:
                held[name][home[stage]] += copies
            apart = (stage > 0 and home[stage - 1] != home[stage], stage < last and home[stage + 1] != home[stage])
            key = (*apart, *((name, np.asarray(copies).tobytes()) for name, copies in parts))
            index.append(classes.setdefault(key, (len(classes), stage))[0])
        return cls(workload, measures, tuple(stage for _, stage in classes.values()), np.array(index), home, held)

    @property
    def by_rank(self) -> Ints:
        """The stages of each rank, its chunks in order, [rank, chunk]."""
        return np.argsort(self.home, kind="stable").reshape(self.workload.num_ranks, -1)

    def table(self, value: Callable[[int, Phase], Ints]) -> Ints:
        """A value of each phase and stage, [phase, stage, plan]."""
        return np.array([[value(stage, phase) for stage in self.first] for phase in self.workload.phases])[:, self.index]

    def time(self, stage: int, phase: Phase, *, closes: bool = False) -> PassTime:
        """The time of a phase."""
        key = (stage, phase, closes)
        if key not in self._times:
            self._times[key] = _time(self.workload.pass_of(stage, phase, closes=closes), self.measures, self.workload.rows)
        return self._times[key]

    def send_ps(self, stage: int, phase: Phase) -> Ints:
        """Picoseconds of the message to the next stage; 0 where there is none."""
        sends = [task for task in self.workload.pass_of(stage, phase).epilogue if isinstance(task, Send)]
        return sum((self.workload.ps(task) for task in sends), start=self.workload.sizes.zero)

    def lives(self, stage: int, phase: Phase) -> Lives:
        """Net and peak bytes of a phase, relative to its start."""
        found = self.workload.pass_of(stage, phase)
        live = peak = zero = self.workload.sizes.zero
        for run in found.lists:
            copies, segment = run.copies, run.segment
            known = [operand for kept in segment.kept.values() for operand in kept]  # what may be alive when the list starts
            known += [operand for operand in (segment.entering[phase], segment.leaving[phase]) if operand]
            net, top = (each[self.workload.rows] for each in self.measures.lives(run.tasks, known))
            peak = np.where(zero + copies > 0, np.maximum(peak, live + top + np.maximum((copies - 1) * net, 0)), peak)
            live = live + copies * net
        return Lives(live, peak)


def _time(found: Pass, measures: Measures, rows: Ints) -> PassTime:
    """A phase from rest.  What it takes beyond its lists from rest, it waits for the stream that crosses them."""
    lists = [(run.tasks, run.copies) for run in found.lists]
    state = crossing(tasks for tasks, _ in lists)
    zero = np.zeros(len(rows), dtype=np.int64)
    charges: dict[str, Ints] = {}
    total, matrix = zero, maxplus.identity(state.num_entries, len(rows))
    for tasks, copies in lists:
        ends, charged = measures.course(tasks, state)
        for name, ps in charged.items():
            charges[name] = charges.get(name, zero) + copies * ps[rows]
        if state.num_entries == 1:
            total = total + copies * ends[rows, 0, 0]
        else:
            matrix = maxplus.product(maxplus.power(ends[rows], zero + copies), matrix)
    if state.num_entries == 1:
        return PassTime(total, charges, zero + maxplus.NEVER, zero)
    total = matrix[:, 0].max(axis=1)
    waits = exposure(state.streams[0])
    charges[waits] = total - sum((ps for name, ps in charges.items() if name != waits), start=zero)
    return PassTime(total, charges, matrix[:, 1, 0], matrix[:, 1, 1])
