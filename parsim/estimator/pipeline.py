"""The step's longest path: actions in schedule order on each rank, messages between them, gradient sums, and the step's end.

Integer picoseconds over arrays of plans, and nothing rounded here: `simulate` runs the same step through events and must agree
to the picosecond.  Every gap of a rank's compute is charged to what it waited for, so a breakdown sums to the step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parsim.estimator import maxplus
from parsim.estimator.group import Group
from parsim.schedules import Action, ordered, rank_of
from parsim.step.sizes import Ints
from parsim.step.timing import finish_ps

CHARGES = ("compute", "exposed_tp", "exposed_pp", "exposed_dp", "bubble", "optimizer", "other")


@dataclass(frozen=True, slots=True)
class Timeline:
    """The step and, for each pipeline rank, what its compute stream did or waited for."""

    step_ps: Ints
    charges: tuple[dict[str, Ints], ...]  # by rank, then by name in CHARGES


def timeline(group: Group) -> Timeline:
    """Fold the whole step."""
    fold = _Fold(group)
    fold.pipeline()
    fold.finish()
    step = np.max(fold.ends, axis=0)
    for rank in range(group.num_ranks):
        fold.charge(rank, "bubble", step - fold.ends[rank])
    return Timeline(step, tuple(fold.charges))


class _Fold:
    """Ends of streams so far: compute of each rank, its two sending streams, its gradient stream."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.ends: list[Ints] = [group.zero] * group.num_ranks
        self.gradients: list[Ints] = [group.zero] * group.num_ranks
        self.sending: dict[tuple[int, str], Ints] = {}
        self.sent: dict[Action, Ints] = {}  # when the sender was done with its side
        self.arrival: dict[Action, Ints] = {}
        self.charges: list[dict[str, Ints]] = [dict.fromkeys(CHARGES, group.zero) for _ in range(group.num_ranks)]
        self.spans = {(s, k): group.action(s, k) for s in range(group.num_stages) for k in "FB"}

    def charge(self, rank: int, name: str, ps: Ints) -> None:
        self.charges[rank][name] = self.charges[rank][name] + ps

    def pipeline(self) -> None:
        group = self.group
        order = ordered(group.schedule, group.num_ranks, group.chunks, group.num_micro_batches)
        counts: dict[int, int] = {}
        for action in order.overall:
            rank = rank_of(action.stage, group.num_ranks)
            self.receive(action, rank)
            span = self.spans[action.stage, action.kind]
            if action.kind == "B":
                counts[action.stage] = counts.get(action.stage, 0) + 1
            if group.step.structure.gradient_overlap and counts.get(action.stage) == group.num_micro_batches and action.kind == "B":
                self.reduce_beside(action.stage, rank)
            self.ends[rank] = self.ends[rank] + span.total_ps
            self.charge(rank, "compute", span.compute_ps)
            self.charge(rank, "other", span.host_ps)
            self.charge(rank, "exposed_tp", span.exposed_ps)
            self.send(action, rank)

    def receive(self, action: Action, rank: int) -> None:
        """Wait for the neighbour's message: what was on its way is communication, what was not yet sent is bubble."""
        source = action._replace(stage=action.stage + (-1 if action.kind == "F" else 1))
        if source not in self.arrival:
            return
        end = self.ends[rank]
        start = np.maximum(end, self.arrival[source])
        flying = np.maximum(start - np.maximum(end, self.sent[source]), 0)
        self.charge(rank, "exposed_pp", flying)
        self.charge(rank, "bubble", start - end - flying)
        self.ends[rank] = start

    def send(self, action: Action, rank: int) -> None:
        """Eager: the message leaves on the rank's own stream in that direction, and compute goes on."""
        group = self.group
        last = group.num_stages - 1 if action.kind == "F" else 0
        if action.stage == last:
            return
        end = self.ends[rank]
        free = self.sending.get((rank, action.kind), group.zero)
        self.sent[action] = end
        self.arrival[action] = self.sending[rank, action.kind] = np.maximum(end, free) + group.prices.send

    def reduce_beside(self, stage: int, rank: int) -> None:
        """The last backward of a stage: each segment's gradients are summed over dp beside the segments that follow."""
        group = self.group
        start = self.ends[rank] + (group.prices.gather if stage < group.num_stages - 1 else 0)
        state = np.stack([start, self.gradients[rank]], axis=1)
        for segment, copies in reversed(group.parts(stage)):
            own, reduce = group.span(segment, "B").total_ps, group.prices.reduce[segment.name]
            step = maxplus.matrix([[own, None], [own + reduce, reduce]], group.sizes.num_plans)
            state = maxplus.apply(maxplus.power(step, copies), state)
        self.gradients[rank] = state[:, 1]

    def finish(self) -> None:
        """The end of the step: gradients, their norm, the update."""
        group = self.group
        for rank in range(group.num_ranks):
            self.wait_until(rank, self.gradients[rank], "exposed_dp")
        for work in group.step.finish:
            prices = [finish_ps(group.step, work, group.sizes, group.holding(r), group.market) for r in range(group.num_ranks)]
            if work.axis == "pp":
                members = [0, group.num_ranks - 1] if work.bucket == "tied" else list(range(group.num_ranks))
                start = np.max([self.ends[r] for r in members], axis=0)
                for rank in members:
                    self.wait_until(rank, start, "bubble")
                    self.spend(rank, prices[members[-1]], "exposed_pp")
                continue
            for rank in range(group.num_ranks):
                self.spend(rank, prices[rank], f"exposed_{work.axis}" if work.operation else "optimizer")

    def wait_until(self, rank: int, time: Ints, name: str) -> None:
        later = np.maximum(self.ends[rank], time)
        self.charge(rank, name, later - self.ends[rank])
        self.ends[rank] = later

    def spend(self, rank: int, ps: Ints, name: str) -> None:
        self.charge(rank, name, ps)
        self.ends[rank] = self.ends[rank] + ps
