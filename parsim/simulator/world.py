"""What the pipeline ranks of a simulated step share: messages, meetings across the pipeline, links, and what was seen."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import simpy

from parsim.cost.timing import task_price
from parsim.parallel.group import Group
from parsim.simulator.demand import Placement
from parsim.simulator.network import Leg, Network
from parsim.simulator.program import Program
from parsim.simulator.trace import Span
from parsim.step.task import Task

Events = Generator[simpy.Event, Any, None]


class Arrival(simpy.Event):
    """A message; the receiver may wait for it before it is sent."""

    def after(self, ps: int) -> None:
        """It comes so many picoseconds from now."""
        self._ok, self._value = True, None
        self.env.schedule(self, delay=ps)


@dataclass(eq=False)
class World:
    """The state that all ranks see."""

    program: Program
    env: simpy.Environment
    network: Network | None  # with contention
    spans: list[Span] = field(default_factory=list)
    end_ps: int = 0  # of the last rank; a timer that nobody waits for any more may come later
    num_events: int = 0
    _arrivals: dict[int, Arrival] = field(default_factory=dict)
    _meetings: dict[str, list[simpy.Event]] = field(default_factory=dict)
    _legs: dict[tuple[int, int, int | None], tuple[Leg, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        workload = self.program.workload
        degrees, stride = workload.sizes.degrees, workload.sizes.stride(Group(("pp",)))
        used_devices = prod(int(degree[0]) for degree in degrees.values())
        self.placement = Placement(workload.model.cluster, workload.num_ranks, int(stride[0]), used_devices)

    def arrival(self, row: int) -> Arrival:
        """The message that an action sends."""
        found = self._arrivals.get(row)
        if found is None:
            found = self._arrivals[row] = Arrival(self.env)
        return found

    def legs(self, task: Task, rank: int, to: int | None, *, ends: bool) -> tuple[Leg, ...]:
        """How a communication of a rank loads links; `ends`: it is of the step's end, and reaches over all that the rank holds."""
        key = (id(task), rank, to)
        if key not in self._legs:
            workload = self.program.workload
            held = workload.held(self.program.payer(task, rank)) if ends else None
            self._legs[key] = self.placement.legs(rank, to, task_price(task, workload.sizes, workload.model, held))
        return self._legs[key]

    def meet(self, name: str, num_members: int) -> Events:
        """Wait until all members have come; they go on in the order in which they came."""
        present = self._meetings.setdefault(name, [])
        event = self.env.event()
        present.append(event)
        if len(present) == num_members:
            for each in present:
                each.succeed()
        yield event
