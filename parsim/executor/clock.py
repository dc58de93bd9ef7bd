"""Virtual clocks: every rank keeps integer picoseconds for its streams while it executes the real program.

A message carries its sender's clock; a collective starts when every member has come, and all leave together.
All ranks run, so the agreement with simulate, which runs one rank a stage, also proves
that folding ranks is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
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
        self.compute = (self.after(names) if self.ready else self.compute) + ps

    def post(self, direction: str, ps: int) -> int:
        """An eager message; its time of arrival."""
        self.sending[direction] = max(self.compute, self.sending.get(direction, 0)) + ps
        return self.sending[direction]

    def come(self, name: str, stream: str) -> int:
        """When this rank is ready for a collective on a buffer."""
        if stream == "gradients":
            return max(self.compute, self.gradients)
        return max(self.after([name]), self.beside) if stream == "beside" else self.after([name])

    def leave(self, end: int, stream: str, target: str) -> None:
        """The end of a collective whose result is `target`."""
        if stream == "gradients":
            self.gradients = end
        elif stream == "beside":
            self.beside = self.ready[target] = end
        else:
            self.compute = end

    def join(self, start: int, floor_ps: int) -> None:
        """The end of a segment: its collectives have ended too, and the host has launched it all."""
        self.compute = max(self.compute, self.beside, start + floor_ps)
        self.ready.clear()
