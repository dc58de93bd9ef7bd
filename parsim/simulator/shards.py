"""The stream of ZeRO 2 and 3: parameters gathered before a segment runs, gradients scattered after it, in order of issue."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parsim.schedules import Action
from parsim.simulator.gate import Gate
from parsim.simulator.program import Program
from parsim.step.task import Segment

if TYPE_CHECKING:
    import simpy

    from parsim.simulator.run import _Rank

    Events = Generator[simpy.Event, Any, None]


@dataclass(slots=True)
class Shards:
    """What was issued on the stream of one rank, and how much of it has ended."""

    program: Program
    issued: Gate
    ended: Gate
    queue: list[tuple[int, str]] = field(default_factory=list)

    def issue(self, ps: int, name: str) -> int:
        """Put one collective on the stream; its number, counted from 1."""
        self.queue.append((ps, name))
        self.issued.open()
        return len(self.queue)

    def beside(self, rank: _Rank) -> Events:
        """The stream itself."""
        for number in range(1, self.total(rank) + 1):
            yield from self.issued.until(number)
            yield from rank.spend(*self.queue[number - 1][:1], "dp", self.queue[number - 1][1])
            self.ended.open()

    def total(self, rank: _Rank) -> int:
        """How many collectives the rank will issue in the step."""
        gathers = self.program.step.structure.gathers
        return sum(len(self.program.segments(a.stage, a.phase)) * (gathers(a.phase) + (a.phase == "B")) for a in rank.actions)

    def action(self, rank: _Rank, action: Action, segments: Sequence[Segment], done: int) -> Generator[simpy.Event, Any, int]:
        """One action: gather, run and scatter segment by segment, beside compute where the stack overlaps them."""
        structure, prices = self.program.step.structure, self.program.prices
        gathers, overlap = structure.gathers(action.phase), structure.gradient_overlap
        gather = [int(prices.gather_weights[s.name][0]) for s in segments]
        coming = self.issue(gather[0], segments[0].name) if gathers and overlap else 0
        for index, segment in enumerate(segments):
            if gathers and overlap:
                yield from self.ended.until(coming)
                if index + 1 < len(segments):
                    coming = self.issue(gather[index + 1], segments[index + 1].name)
            elif gathers:
                yield from rank.spend(gather[index], "compute", f"dp:{segment.name}")
            done = yield from rank.one_pass(segment.name, action, done)
            reduce = int(prices.reduce[segment.name][0])
            if action.phase == "B" and overlap:
                self.issue(reduce, segment.name)
            elif action.phase == "B":
                yield from rank.spend(reduce, "compute", f"dp:{segment.name}")
        yield from self.ended.until(len(self.queue))
        return done
