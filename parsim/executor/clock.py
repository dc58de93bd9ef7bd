"""Virtual clocks: every rank keeps integer picoseconds for its streams while it executes the real program.

A message carries its sender's clock; a collective starts when every member has come, and all leave together.  All ranks run, so the
agreement with simulate, which runs one rank a stage, also proves that folding ranks is exact.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, field

from parsim.step.task import COMPUTE_STREAM


class Clock(Struct):
    """The streams of one rank."""

    compute: int = 0
    ends: dict[str, int] = field(default_factory=dict)  # of the other streams
    ready: dict[str, int] = field(default_factory=dict)  # when what another stream makes may be read

    def start(self, stream: str, reads: Iterable[str]) -> int:
        """When a task on a stream may start that reads these buffers."""
        start = self.compute
        if self.ready:
            start = max([start, *(self.ready[name] for name in reads if name in self.ready)])
        return start if stream == COMPUTE_STREAM else max(start, self.ends.get(stream, 0))

    def end(self, stream: str, end_ps: int, writes: Iterable[str]) -> None:
        """A task on a stream has ended, and left these buffers."""
        if stream == COMPUTE_STREAM:
            self.compute = end_ps
            return
        self.ends[stream] = end_ps
        self.ready.update(dict.fromkeys(writes, end_ps))

    def run(self, stream: str, reads: Iterable[str], writes: Iterable[str], ps: int) -> int:
        """A task that needs nobody else; when it ends."""
        end_ps = self.start(stream, reads) + ps
        self.end(stream, end_ps, writes)
        return end_ps

    def wait(self, streams: Iterable[str], buffers: Iterable[str]) -> None:
        """Compute waits for streams and buffers; what is ready by then is forgotten."""
        self.compute = max([self.start(COMPUTE_STREAM, buffers), *(self.ends.get(stream, 0) for stream in streams)])
        self.ready = {name: ps for name, ps in self.ready.items() if ps > self.compute}
