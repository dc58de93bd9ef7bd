"""The step's longest path: actions in schedule order on each rank, messages between them, gradient sums, and the step's end.

Integer picoseconds over arrays of plans, and nothing rounded here: `simulate` runs the same step through events and must agree
to the picosecond.  Every gap of a rank's compute is charged to what it waited for, so a breakdown sums to the step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from parsim.errors import ScenarioError
from parsim.estimator import maxplus
from parsim.estimator.group import Group
from parsim.estimator.segment import Span
from parsim.schedules import Action, ordered, rank_of
from parsim.step.sizes import Ints
from parsim.step.timing import finish_ps
from parsim.units import PS_PER_S

Time = Any  # picoseconds: an int for one plan, an int64 array for several
_MOST_PS = 2**63 - 1  # 106 days
_USUAL = ("tp", "pp", "dp")  # axes that every breakdown names


@dataclass(frozen=True, slots=True)
class Timeline:
    """The step and, for each pipeline rank, what its compute stream did or waited for."""

    step_ps: Ints
    charges: tuple[dict[str, Ints], ...]  # by rank: compute, exposed_AXIS, bubble, optimizer, other


def timeline(group: Group) -> Timeline:
    """Fold the whole step, and charge every gap."""
    fold = _Fold(group, charging=True)
    step = fold.run()
    for rank in range(group.num_ranks):
        fold.charge(rank, "bubble", step - fold.ends[rank])
    charges = tuple({name: fold.arrays(ps) for name, ps in charged.items()} for charged in fold.charges)
    return Timeline(fold.arrays(step), charges)


def step_ps(group: Group) -> Ints:
    """The step alone: the same fold without its reasons."""
    fold = _Fold(group, charging=False)
    return fold.arrays(fold.run())


def lower_bound(group: Group) -> Ints:
    """Picoseconds that no schedule of this group can beat: a rank's own work, after the stages below it have filled the pipeline
    and before they drain it."""
    bound = group.zero
    spans = {(s, k): group.action(s, k).total_ps for s in range(group.num_stages) for k in "FB"}
    reach = group.zero
    for rank in range(group.num_ranks):
        own = range(rank, group.num_stages, group.num_ranks)
        busy = sum((spans[s, k] for s in own for k in "FB"), start=group.zero) * group.num_micro_batches
        bound = np.maximum(bound, reach + busy)
        reach = reach + spans[rank, "F"] + spans[rank, "B"] + 2 * group.passes.send
    return bound


class _Fold:
    """Ends of streams so far: compute of each rank, its two sending streams, its gradient stream.

    One plan is folded with Python integers, several with int64 arrays: integers are exact on both paths, and the former are faster.
    """

    def __init__(self, group: Group, *, charging: bool) -> None:
        self.group, self.charging = group, charging
        self.single = group.sizes.num_plans == 1
        self.larger: Callable[[Time, Time], Time] = max if self.single else np.maximum
        zero = self.times(group.zero)
        self.zero = zero
        self.ends: list[Time] = [zero] * group.num_ranks
        self.gradients: list[Time] = [zero] * group.num_ranks
        self.sending: dict[tuple[int, str], Time] = {}
        self.sent: dict[tuple[int, str, int], Time] = {}  # when the sender was done with its side
        self.arrival: dict[tuple[int, str, int], Time] = {}
        others = (axis for axis in group.step.structure.links if axis not in _USUAL)
        names = ("compute", *(f"exposed_{axis}" for axis in (*_USUAL, *others)), "bubble", "optimizer", "other")
        self.charges: list[dict[str, Time]] = [dict.fromkeys(names, zero) for _ in range(group.num_ranks)]
        self.message = self.times(group.passes.send)
        spans = {(s, k): group.action(s, k) for s in range(group.num_stages) for k in "FB"}
        self.totals = {key: self.times(each.total_ps) for key, each in spans.items()}
        self.reasons = {key: self.reasons_of(each) for key, each in spans.items()} if charging else {}

    def times(self, ps: Ints) -> Time:
        return int(ps[0]) if self.single else ps

    def reasons_of(self, span: Span) -> list[tuple[str, Time]]:
        exposed = [(f"exposed_{axis}", self.times(ps)) for axis, ps in span.exposed_ps.items()]
        return [("compute", self.times(span.compute_ps)), ("other", self.times(span.host_ps)), *exposed]

    def arrays(self, time: Time) -> Ints:
        if self.single and time > _MOST_PS:
            raise ScenarioError(f"the step would take {time / PS_PER_S:.3g} s", remedy="Check the rates and bandwidths of the hardware.")
        return np.array([time], dtype=np.int64) if self.single else np.asarray(time)

    def charge(self, rank: int, name: str, ps: Time) -> None:
        if self.charging:
            self.charges[rank][name] = self.charges[rank][name] + ps

    def run(self) -> Time:
        self.pipeline()
        self.finish()
        return functools.reduce(self.larger, self.ends)

    def pipeline(self) -> None:
        group = self.group
        order = ordered(group.schedule, group.num_ranks, group.chunks, group.num_micro_batches)
        last = {action.stage: action for action in order.overall if action.kind == "B"}
        overlap = group.step.structure.gradient_overlap and not group.step.structure.per_pass
        for action in order.overall:
            rank = rank_of(action.stage, group.num_ranks)
            self.receive(action, rank)
            if overlap and action is last[action.stage] and action.kind == "B":
                self.reduce_beside(action.stage, rank)
            self.ends[rank] = self.ends[rank] + self.totals[action.stage, action.kind]
            if self.charging:
                for name, ps in self.reasons[action.stage, action.kind]:
                    self.charge(rank, name, ps)
            self.send(action, rank)

    def receive(self, action: Action, rank: int) -> None:
        """Wait for the neighbour's message: what was on its way is communication, what was not yet sent is bubble."""
        stage, kind, m = action
        source = (stage - 1 if kind == "F" else stage + 1, kind, m)
        arrival = self.arrival.pop(source, None)
        if arrival is None:
            return
        end = self.ends[rank]
        start = self.ends[rank] = self.larger(end, arrival)
        if self.charging:
            flying = self.larger(start - self.larger(end, self.sent.pop(source)), self.zero)
            self.charge(rank, "exposed_pp", flying)
            self.charge(rank, "bubble", start - end - flying)

    def send(self, action: Action, rank: int) -> None:
        """Eager: the message leaves on the rank's own stream in that direction, and compute goes on."""
        stage, kind, _ = action
        if stage == (self.group.num_stages - 1 if kind == "F" else 0):
            return
        end = self.sent[action] = self.ends[rank]
        arrival = self.larger(end, self.sending.get((rank, kind), self.zero)) + self.message
        self.arrival[action] = self.sending[rank, kind] = arrival

    def reduce_beside(self, stage: int, rank: int) -> None:
        """The last backward of a stage: each segment's gradients are summed over dp beside the segments that follow."""
        group = self.group
        start = self.arrays(self.ends[rank]) + (group.passes.gather if stage < group.num_stages - 1 else 0)
        state = np.stack([start, self.arrays(self.gradients[rank])], axis=1)
        for segment, copies in reversed(group.parts(stage)):
            own, reduce = group.passes.spans[segment.name, "B"].total_ps, group.passes.reduce[segment.name]
            step = maxplus.matrix([[own, None], [own + reduce, reduce]], group.sizes.num_plans)
            state = maxplus.apply(maxplus.power(step, copies), state)
        self.gradients[rank] = self.times(state[:, 1])

    def finish(self) -> None:
        """The end of the step: gradients, their norm, the update."""
        group = self.group
        for rank in range(group.num_ranks):
            self.wait_until(rank, self.gradients[rank], "exposed_dp")
        holdings = [group.holding(rank) for rank in range(group.num_ranks)]
        for work in group.step.finish:
            prices = [self.times(finish_ps(group.step, work, group.sizes, held, group.market)) for held in holdings]
            if work.axis == "pp":
                members = [0, group.num_ranks - 1] if work.bucket == "tied" else list(range(group.num_ranks))
                start = functools.reduce(self.larger, [self.ends[r] for r in members])
                for rank in members:
                    self.wait_until(rank, start, "bubble")
                    self.spend(rank, prices[members[-1]], "exposed_pp")
                continue
            for rank in range(group.num_ranks):
                self.spend(rank, prices[rank], f"exposed_{work.axis}" if work.operation else "optimizer")

    def wait_until(self, rank: int, time: Time, name: str) -> None:
        later = self.larger(self.ends[rank], time)
        self.charge(rank, name, later - self.ends[rank])
        self.ends[rank] = later

    def spend(self, rank: int, ps: Time, name: str) -> None:
        self.charge(rank, name, ps)
        self.ends[rank] = self.ends[rank] + ps
