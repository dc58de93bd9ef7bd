"""A run with failures, by events: a simpy process that works, stalls and is interrupted, one that fails it, and one for each repair.

Times are whole picoseconds, of which Python's integers have enough for years; random numbers come from a seed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Final

import numpy as np
import simpy
from msgspec import Struct

from parsim.goodput.outage import LOSSES, Lived, Outage
from parsim.units import PS_PER_S

Doing = Generator[simpy.Event, Any, None]
_AT_ONCE: Final = 1024  # random numbers that are drawn together


def live(outage: Outage, work_s: float, seed: int) -> Lived:
    """The run until so much work is kept.

    >>> from parsim.goodput.renewal import Cycle
    >>> calm = live(Outage(Cycle(1.0, 0.0, 5.0, 1e-12), 9.0), 90.0, seed=0)
    >>> calm.time_s, calm.lost_s["checkpoint"], calm.num_failures
    (100.0, 10.0, 0)
    """
    run = _LivedRun(outage, _ps(work_s), seed)
    run.env.run(until=run.process)
    lost = {name: ps / PS_PER_S for name, ps in run.lost.items()}
    time_s, counted = run.env.now / PS_PER_S, run.saved / PS_PER_S
    return Lived(time_s, counted, run.num_failures, lost | {"rework": time_s - counted - sum(lost.values())})


def _ps(seconds: float) -> int:
    return round(seconds * PS_PER_S)


class _Kept(Struct, frozen=True):
    """Work that a checkpoint holds, and what it cost since the one before."""

    work: int  # in all
    stalled: int
    slower: int  # beyond what it would have taken at full speed
    safe_at: int  # when it is written


class _LivedRun:
    """One run; all times in picoseconds."""

    def __init__(self, outage: Outage, goal: int, seed: int) -> None:
        self.outage, self.goal = outage, goal
        self.env = simpy.Environment()
        self.lost = dict.fromkeys((name for name in LOSSES if name != "rework"), 0)
        self.saved = self.done = self.missing = self.num_failures = 0
        self.level, self.newest = outage.level(0), _Kept(0, 0, 0, 0)
        self.returned: simpy.Event | None = None  # what the run waits for
        self.draws = self._draws(np.random.default_rng(seed))
        self.process = self.env.process(self._work())
        self.env.process(self._fail())

    @property
    def now(self) -> int:
        """Since the run began."""
        return int(self.env.now)

    def _draws(self, random: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Seconds until the next failure, and a number that says what it is."""
        mean_s = 1 / float(self.outage.cycle.failures_per_s)
        while True:
            yield from zip(random.exponential(mean_s, _AT_ONCE).tolist(), random.random(_AT_ONCE).tolist(), strict=True)

    def _work(self) -> Doing:
        """Intervals of work, each with its checkpoint, until the goal is reached."""
        while self.done < self.goal:
            try:
                if self.outage.level(self.missing).speed > self.level.speed:
                    yield from self._restart()
                yield from self._interval()
            except simpy.Interrupt:
                self._fall_back()
                yield from self._recover()
        self._keep()

    def _interval(self) -> Doing:
        work = min(_ps(self.outage.interval_s), self.goal - self.done)
        took = round(work / self.level.speed)
        yield self.env.timeout(took)
        began = self.now
        yield self.env.timeout(max(0, self.newest.safe_at - began) + _ps(float(self.outage.cycle.stall_s)))
        self._keep()
        self.done += work
        now = self.now
        self.newest = _Kept(self.done, now - began, took - work, now + _ps(float(self.outage.cycle.hidden_s)))

    def _keep(self) -> None:
        """Count what the newest checkpoint holds; the next one begins only when it is safe."""
        if self.newest.work > self.saved:
            self.saved = self.newest.work
            self.lost["checkpoint"] += self.newest.stalled
            self.lost["shrunk"] += self.newest.slower

    def _fall_back(self) -> None:
        """Go on from the newest checkpoint that is safe."""
        if self.now >= self.newest.safe_at:
            self._keep()
        self.done = self.saved
        self.newest = _Kept(self.done, 0, 0, 0)

    def _recover(self) -> Doing:
        """Wait for a node where none is left, and restart; a failure meanwhile begins that anew."""
        while True:
            try:
                if not self.outage.level(self.missing).speed:
                    began, returned = self.now, self.env.event()
                    self.returned = returned
                    yield returned
                    self.lost["waiting"] += self.now - began
                yield from self._restart()
                return
            except simpy.Interrupt:
                continue

    def _restart(self) -> Doing:
        began = self.now
        try:
            yield self.env.timeout(_ps(float(self.outage.cycle.restart_s)))
        finally:
            self.lost["restart"] += self.now - began
        self.level = self.outage.level(self.missing)

    def _fail(self) -> Doing:
        """Failures at random, of which those find nothing to strike that would come while the run waits, or of nodes that are not used."""
        node = self.outage.node_failures_per_s / float(self.outage.cycle.failures_per_s)
        for wait_s, which in self.draws:
            yield self.env.timeout(_ps(wait_s))
            if not self.process.is_alive:
                return
            if self.returned is not None or node * self.level.nodes <= which < node:
                continue
            self.num_failures += 1
            if which < node and self.outage.repair_s:
                self.missing += 1
                self.env.process(self._repair())
            self.process.interrupt()

    def _repair(self) -> Doing:
        yield self.env.timeout(_ps(self.outage.repair_s))
        self.missing -= 1
        if self.returned is not None and self.outage.level(self.missing).speed:
            self.returned.succeed()
            self.returned = None
