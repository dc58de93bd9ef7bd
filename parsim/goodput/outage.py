"""A run with failures as it is simulated, or expected on average: what it needs to know, and where its time goes."""

from __future__ import annotations

from collections.abc import Mapping
from math import expm1
from typing import Final

from msgspec import Struct

from parsim.goodput.renewal import Cycle, missing_shares, seconds_a_cycle, waiting_share

LOSSES: Final[Mapping[str, str]] = {
    "checkpoint": "steps wait for checkpoints that are needed later",
    "rework": "what is done again after a failure, with the checkpoints in it",
    "restart": "from a failure until steps go on: detection, restart, reading the checkpoint; also to take repaired nodes in",
    "waiting": "no spare node is left, and the run waits for a repair",
    "shrunk": "the run goes on with fewer replicas",
}


class SpeedLevel(Struct, frozen=True):
    """How a run goes while so many nodes more are missing than there are spares."""

    speed: float  # in tokens a second, over that of all replicas
    nodes: float  # that are in use, over all: as many times fewer of them fail


class Outage(Struct, frozen=True):
    """What interrupts a run, and what it does then."""

    cycle: Cycle  # its failures are all
    interval_s: float  # of work at full speed
    node_failures_per_s: float = 0.0  # of all failures, those that take a node away
    repair_s: float = 0.0  # until it is back
    spare_nodes: int = 0
    levels: tuple[SpeedLevel, ...] = ()  # with 1, 2 ... nodes too few; with more, and without any, the run waits

    def level(self, missing: int) -> SpeedLevel:
        """How it goes with so many nodes missing, spares too.

        >>> outage = Outage(Cycle(1.0, 0.0, 1.0, 0.1), 10.0, spare_nodes=1, levels=(SpeedLevel(0.5, 0.5),))
        >>> [outage.level(missing).speed for missing in range(4)]
        [1.0, 1.0, 0.5, 0.0]
        """
        short = missing - self.spare_nodes
        if short <= 0:
            return SpeedLevel(1.0, 1.0)
        return self.levels[short - 1] if short <= len(self.levels) else SpeedLevel(0.0, 0.0)


class Lived(Struct, frozen=True):
    """What a simulated run has gone through."""

    time_s: float
    work_s: float  # of steps at full speed that counted
    num_failures: int
    lost_s: dict[str, float]  # by LOSSES; with work_s they sum to time_s

    @property
    def goodput(self) -> float:
        """Work over time."""
        return self.work_s / self.time_s


def shares_of_time(outage: Outage) -> dict[str, float]:
    """The mean shares of time by LOSSES, and of steps that count under "goodput"; they sum to 1.

    Exact without levels: failures strike the run at random while it does not wait, so that the wait and the rest do not depend on one
    another.  With levels each lasts long beside an interval; what it costs to take repaired nodes in is to first order.
    """
    if outage.levels:
        return _with_levels(outage)
    load = outage.node_failures_per_s * outage.repair_s
    waiting = float(waiting_share(outage.spare_nodes + 1, load)) if load else 0.0
    return {name: (1 - waiting) * share for name, share in _shares_at_work(outage.cycle, outage.interval_s).items()} | {"waiting": waiting}


def _shares_at_work(cycle: Cycle, interval_s: float) -> dict[str, float]:
    """The same of a run that never waits; each failure begins a restart, which the next may cut short: 1 - e^(-R / M) of the time."""
    whole = float(seconds_a_cycle(cycle, interval_s))
    restart = -expm1(-float(cycle.failures_per_s) * float(cycle.restart_s))
    found = {"goodput": interval_s / whole, "checkpoint": float(cycle.stalls_s(interval_s)) / whole, "restart": restart}
    return {**found, "rework": max(0.0, 1 - sum(found.values())), "waiting": 0.0, "shrunk": 0.0}


def _with_levels(outage: Outage) -> dict[str, float]:
    """By how many nodes are missing: failures come as many are in use, and a run that is smaller does work more slowly, not less often."""
    most = outage.spare_nodes + len(outage.levels)
    own = [outage.level(missing) for missing in range(most + 2)]
    others, restart_s = float(outage.cycle.failures_per_s) - outage.node_failures_per_s, float(outage.cycle.restart_s)
    loads = [outage.node_failures_per_s * each.nodes * outage.repair_s for each in own[:-1]]
    found = dict.fromkeys(("goodput", *LOSSES), 0.0)
    for missing, share in enumerate(missing_shares(loads)):
        level = own[missing]
        if not share:  # as of most of very many spares
            continue
        if not level.speed:
            found["waiting"] += share
            continue
        grows = missing > 0 and own[missing - 1].speed > level.speed
        planned = min(1.0, grows * missing / outage.repair_s * restart_s)
        rate = others + outage.node_failures_per_s * level.nodes
        cycle = Cycle(outage.cycle.stall_s, outage.cycle.hidden_s, restart_s, rate)
        running = _shares_at_work(cycle, outage.interval_s / level.speed)
        found["restart"] += share * planned
        for name, each in running.items():
            found[name] += share * (1 - planned) * each * (level.speed if name == "goodput" else 1)
        found["shrunk"] += share * (1 - planned) * running["goodput"] * (1 - level.speed)
    return found
