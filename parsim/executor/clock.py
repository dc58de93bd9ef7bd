"""Virtual clocks: every rank keeps integer picoseconds for its streams while it executes the real program.

A message carries its sender's clock.  All ranks run, so the agreement with simulate, which runs one rank a stage, also proves
that folding ranks is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Clock:
    """The streams of one rank."""

    compute: int = 0
    beside: int = 0  # tensor-parallel collectives that run beside compute
    gradients: int = 0  # gradient sums, and what ZeRO gathers and scatters, beside compute
    sending: dict[str, int] = field(default_factory=dict)  # by direction
    ready: dict[str, int] = field(default_factory=dict)  # when an asynchronous result may be read

    def after(self, names: Iterable[str]) -> int:
        """When compute may start on these buffers."""
        return max([self.compute, *(self.ready[n] for n in names if n in self.ready)])

    def run(self, names: Iterable[str], ps: int) -> None:
        """A kernel that reads these buffers."""
        self.compute = self.after(names) + ps

    def post(self, direction: str, ps: int) -> int:
        """An eager message; its time of arrival."""
        self.sending[direction] = max(self.compute, self.sending.get(direction, 0)) + ps
        return self.sending[direction]

    def join(self, start: int, floor_ps: int) -> None:
        """The end of a segment: its collectives have ended too, and the host has launched it all."""
        self.compute = max(self.compute, self.beside, start + floor_ps)
        self.ready.clear()


def meet(clocks: Sequence[Clock], names: Sequence[str], ps: int, stream: str, target: str) -> None:
    """A collective: it starts when every member has come, and all leave together."""
    if stream == "compute":
        end = max(clock.after([name]) for clock, name in zip(clocks, names, strict=True)) + ps
        for clock in clocks:
            clock.compute = end
    elif stream == "beside":
        end = max(max(clock.after([name]), clock.beside) for clock, name in zip(clocks, names, strict=True)) + ps
        for clock in clocks:
            clock.beside = clock.ready[target] = end
    else:
        end = max(max(clock.compute, clock.gradients) for clock in clocks) + ps
        for clock in clocks:
            clock.gradients = end
