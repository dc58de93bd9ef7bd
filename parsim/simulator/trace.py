"""What a simulation saw: spans on streams, the memory of each rank, and what each link carried and cost."""

from __future__ import annotations

from typing import NamedTuple

from parsim.asynchrony.simulation import ServedRun
from parsim.plain import Plain
from parsim.units import PS_PER_S


class Span(NamedTuple):
    """One event on a stream of a rank."""

    start_ps: int
    end_ps: int
    rank: int
    stream: str  # compute, a group of axes, send_F, send_B, host ...
    name: str


class LinkUse(NamedTuple):
    """How long a link carried something, of one flow or several."""

    link: str
    place: str  # the node, pipeline rank or leaf it belongs to, and the direction
    busy_ps: int


class Loss(NamedTuple):
    """What the flows of a task on one stream lost because flows of another stream were on the link that binds them."""

    link: str
    place: str
    stream: str
    task: str
    other: str  # the other stream
    lost_ps: float


class Trace(Plain, frozen=True):
    """A simulated step: one pipeline rank stands for all its data- and tensor-parallel copies.

    Of replicas that train apart the last of a period, in which they come together.
    """

    step_ps: int
    spans: tuple[Span, ...]  # with contention, or where they were asked for
    num_events: int
    peak_bytes: tuple[int, ...]  # by rank: the high-water mark in issue order, without the stack's overheads
    host_bytes: tuple[int, ...]  # by rank: what it keeps on its host
    flops: tuple[int, ...]  # by rank: the sum over what ran
    links: tuple[LinkUse, ...] = ()  # with contention only
    losses: tuple[Loss, ...] = ()
    quiet_ps: int = 0  # of a step in which they do not
    num_steps: int = 1  # of a period
    served: ServedRun | None = None  # of a plan of parameter servers

    def records(self) -> list[dict[str, object]]:
        """A row a pipeline rank."""
        ranks = zip(self.flops, self.peak_bytes, self.host_bytes, strict=True)
        names = ("step_s", "flops", "peak_bytes", "host_bytes")
        return [{"rank": rank} | dict(zip(names, (self.step_s, *each), strict=True)) for rank, each in enumerate(ranks)]

    @property
    def step_s(self) -> float:
        """Seconds of the step, on average over a period."""
        return self.period_ps / self.num_steps / PS_PER_S

    @property
    def period_ps(self) -> int:
        """Picoseconds of all steps of a period."""
        return self.step_ps + (self.num_steps - 1) * self.quiet_ps

    def lost_s(self, task: str | None = None) -> dict[tuple[str, str, str], float]:
        """Seconds that flows (of a task) lost to sharing, all ranks together, by (link, stream, other stream); the largest first."""
        found: dict[tuple[str, str, str], float] = {}
        for loss in self.losses:
            if task in (None, loss.task):
                key = (loss.link, loss.stream, loss.other)
                found[key] = found.get(key, 0.0) + loss.lost_ps / PS_PER_S
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def busy_s(self) -> dict[str, float]:
        """Seconds in which a link carried something, by its name: of the busiest one."""
        names = dict.fromkeys(use.link for use in self.links)
        return {name: max(use.busy_ps for use in self.links if use.link == name) / PS_PER_S for name in names}
