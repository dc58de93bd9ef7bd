"""A counter between two processes: the cheapest way to say "the n-th of these has happened"."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import simpy

    Events = Generator[simpy.Event, Any, None]


class Gate:
    """A counter that one process advances and one waits on."""

    __slots__ = ("count", "env", "event", "target")

    def __init__(self, env: simpy.Environment) -> None:
        self.env, self.count, self.target = env, 0, 0
        self.event: simpy.Event | None = None

    def open(self) -> None:
        """Advance the counter, and wake who waits for it."""
        self.count += 1
        if self.event is not None and self.count >= self.target:
            event, self.event = self.event, None
            event.succeed()

    def until(self, target: int) -> Events:
        """Wait until the counter has come to `target`."""
        if self.count < target:
            self.target, self.event = target, self.env.event()
            yield self.event
