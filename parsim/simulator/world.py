"""What the pipeline ranks of a simulated step share: messages, meetings across the pipeline, links, and what was seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import simpy

from parsim.cost.timing import task_price
from parsim.parallel.group import Group
from parsim.simulator.demand import Placement
from parsim.simulator.network import Events, Leg, SharedLinks
from parsim.simulator.program import Program
from parsim.simulator.trace import Span
from parsim.step.task import Task


@dataclass(eq=False)
class World:
    """The state that all ranks see."""

    program: Program
    env: simpy.Environment
    network: SharedLinks | None = None  # with contention
    spans: list[Span] = field(default_factory=list)
    end_ps: int = 0  # of the last rank; a timer that nobody waits for any more may come later
    num_events: int = 0
    _arrivals: dict[int, int] = field(default_factory=dict)  # of messages that nobody has waited for yet
    _receivers: dict[int, simpy.Event] = field(default_factory=dict)  # those that wait for messages not sent yet
    _meetings: dict[str, list[simpy.Event]] = field(default_factory=dict)
    _legs: dict[tuple[int, int, int | None], tuple[Leg, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        workload = self.program.workload
        degrees, stride = workload.sizes.degrees, workload.sizes.stride(Group(("pp",)))
        used_devices = prod(int(degree[0]) for degree in degrees.values())
        self.placement = Placement(workload.model.cluster, workload.num_ranks, int(stride[0]), used_devices)

    def send(self, row: int, arrival_ps: int) -> None:
        """The message of an action comes at this time."""
        if (receiver := self._receivers.pop(row, None)) is None:
            self._arrivals[row] = arrival_ps
        else:
            receiver.succeed(arrival_ps)

    def arrival(self, row: int) -> int | simpy.Event:
        """When the message of an action comes or has come; of one that is not sent yet, an event whose value will say so."""
        arrival_ps = self._arrivals.pop(row, None)
        if arrival_ps is not None:
            return arrival_ps
        self._receivers[row] = self.env.event()
        self.num_events += 1
        return self._receivers[row]

    def legs(self, task: Task, rank: int, to: int | None, *, ends: bool) -> tuple[Leg, ...]:
        """How a communication of a rank loads links; `ends`: it is of the step's end, and reaches over all that the rank holds."""
        key = (id(task), rank, to)
        if key not in self._legs:
            workload = self.program.workload
            held = self.program.held[self.program.payer(task, rank)] if ends else None
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
