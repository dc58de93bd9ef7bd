"""Links that flows share while they overlap, max-min fair: progressive filling in bytes per second of each sender.

A flow pays its latency first and shares afterwards.  Arrivals and departures of one instant are solved together, for the flows that
the touched links connect; a flow alone on its links takes its price to the picosecond and meets no solver.  demand.py says who loads what.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from math import ceil
from typing import Any, Final, NamedTuple

import simpy
from msgspec import Struct, field

from parsim.simulator.demand import Leg, LinkAt
from parsim.simulator.trace import LinkUse, Loss

Events = Generator[simpy.Event, Any, None]

_ROUNDING: Final = 1e-9  # relative: shares that add up to the whole link but for the last bits leave nobody less
_ROUNDING_PS: Final = 1e-3  # a float that misses an integer of picoseconds by less is that integer


class FairShare(NamedTuple):
    """What a flow gets: a part of its full rate, and the link that keeps it from more (None at the full rate)."""

    rate: float
    bound: LinkAt | None


FULL_RATE: Final = FairShare(1.0, None)
_UNSOLVED: Final = FairShare(0.0, None)


def fair_shares(legs: Sequence[Leg]) -> list[FairShare]:
    """The max-min fair part of its full rate that each of the flows gets: no flow can have more but from one that has less.

    All senders' bytes per second rise together; a flow stops at its full rate, or when a link that it loads is full.

    Source: progressive filling, Bertsekas and Gallager 1992, Data Networks, section 6.5.2.

    >>> wide, narrow = LinkAt("wide", ""), LinkAt("narrow", "")  # 2 and 1 bytes/s
    >>> flows = [Leg(0, 1, 2.0, ((wide, 1.0),)), Leg(0, 1, 1.0, ((wide, 0.5), (narrow, 1.0))), Leg(0, 1, 1.0, ((narrow, 1.0),))]
    >>> [share.rate for share in fair_shares(flows)]
    [0.75, 0.5, 0.5]
    """
    found: dict[int, FairShare] = {}
    links: dict[LinkAt, list[tuple[int, float]]] = {}
    for index, leg in enumerate(legs):
        for wire, load in leg.loads:
            links.setdefault(wire, []).append((index, load))
    while len(found) < len(legs):
        rising = [index for index in range(len(legs)) if index not in found]
        level, full = _first_full(legs, links, found)
        least = min(legs[index].bytes_per_s for index in rising)
        if least <= level * (1.0 + _ROUNDING):
            found.update((index, FULL_RATE) for index in rising if legs[index].bytes_per_s == least)
        else:
            assert full is not None
            stopped = [index for index, _ in links[full] if index not in found]
            found.update((index, FairShare(level / legs[index].bytes_per_s, full)) for index in stopped)
    return [found[index] for index in range(len(legs))]


def device_shares(legs: Sequence[Leg]) -> list[FairShare]:
    """The same, slowed by what runs beside it on its device: kernels by the costs of all collectives, each collective by its own.

    >>> device = LinkAt("device", "")
    >>> [share.rate for share in device_shares([Leg(0, 1, 0.0, (), device), Leg(0, 1, 1.0, (), device, 0.25)])]
    [0.8, 0.8]
    """
    found = []
    for leg, share in zip(legs, fair_shares(legs), strict=True):
        slower = sum(map(leg.costs_beside, legs))
        found.append(FairShare(share.rate / (1.0 + slower), share.bound or (leg.device if slower else None)))
    return found


def _first_full(
    legs: Sequence[Leg], links: dict[LinkAt, list[tuple[int, float]]], found: dict[int, FairShare]
) -> tuple[float, LinkAt | None]:
    """The bytes per second of a sender at which the first link is full, and that link."""
    level, full = float("inf"), None
    for wire, members in links.items():
        growth = sum(load / legs[index].bytes_per_s for index, load in members if index not in found)
        if growth > 0.0:
            left = 1.0 - sum(load * found[index].rate for index, load in members if index in found)
            at = max(left, 0.0) / growth
            if at < level:
                level, full = at, wire
    return level, full


class Flow(Struct, eq=False):
    """A leg under way.  Nobody computes for it until another one comes to a link that it loads: then it has an event of its own."""

    leg: Leg
    stream: str
    task: str
    start_ps: int  # of its transfer
    done: simpy.Event | None = None  # None: it has met no other
    present: bool = False  # its transfer has begun, beside others
    left_ps: float = 0.0  # of the transfer, at its full rate
    since_ps: int = 0
    share: FairShare = _UNSOLVED
    rivals: tuple[tuple[str, float], ...] = ()  # streams on the link that binds, with the part of the loss that each causes
    version: int = 0


def _weight(other: Flow, leg: Leg, bound: LinkAt) -> float:
    """How much of what a leg loses where it is bound is due to another flow there."""
    return leg.costs_beside(other.leg) if bound == leg.device else other.share.rate * dict(other.leg.loads)[bound]


class SharedLinks(Struct):
    """All links, and the flows on them."""

    env: simpy.Environment
    flows: dict[LinkAt, list[Flow]] = field(default_factory=dict)  # in order of issue, those that still pay their latency included
    num_present: Counter[LinkAt] = field(default_factory=Counter)
    busy_since_ps: dict[LinkAt, int] = field(default_factory=dict)
    busy_ps: Counter[LinkAt] = field(default_factory=Counter)
    lost_ps: defaultdict[tuple[LinkAt, str, str, str], float] = field(default_factory=lambda: defaultdict(float))
    touched: dict[LinkAt, None] = field(default_factory=dict)
    num_solved: int = 0

    def carry(self, leg: Leg, stream: str, task: str) -> Events:
        """One communication: it pays its latency, then shares the links it loads."""
        flow = self._issue(leg, stream, task) if leg.transfer_ps else None
        yield self.env.timeout(leg.latency_ps + leg.transfer_ps)  # no flow is earlier
        if flow is not None and flow.done is not None:
            yield flow.done
        elif flow is not None:
            for wire in leg.wires:
                self.flows[wire].remove(flow)
                self.busy_ps[wire] += leg.transfer_ps

    def links(self) -> tuple[LinkUse, ...]:
        """Every link that carried something."""
        return tuple(LinkUse(*wire, ps) for wire, ps in sorted(self.busy_ps.items()))

    def losses(self) -> tuple[Loss, ...]:
        """Picoseconds that sharing took, by link, stream, task and the stream that it was shared with."""
        return tuple(Loss(*wire, stream, task, other, ps) for (wire, stream, task, other), ps in sorted(self.lost_ps.items()))

    def _issue(self, leg: Leg, stream: str, task: str) -> Flow:
        flow = Flow(leg, stream, task, int(self.env.now) + leg.latency_ps, left_ps=float(leg.transfer_ps))
        met = {id(other): other for wire in leg.wires for other in self.flows.get(wire, ())}
        for wire in leg.wires:
            self.flows.setdefault(wire, []).append(flow)
        for each in (*met.values(), *((flow,) if met else ())):
            self._notice(each)
        return flow

    def _notice(self, flow: Flow) -> None:
        """Follow a flow that may meet another from its start on, or from now where that has been."""
        if flow.done is None:
            flow.done = self.env.event()
            wait_ps = flow.start_ps - int(self.env.now)
            if wait_ps > 0:
                self._later(wait_ps, lambda: self._enter(flow))
            else:
                self._enter(flow)

    def _later(self, wait_ps: int, act: Callable[[], None]) -> None:
        """Act when the time has passed, after what has been planned for that instant so far."""
        timer = self.env.timeout(wait_ps)
        timer.callbacks.append(lambda _: act())

    def _enter(self, flow: Flow) -> None:
        flow.present, flow.since_ps = True, flow.start_ps
        wires = flow.leg.wires
        shared = any(self.num_present[wire] for wire in wires)
        self.busy_since_ps |= {wire: flow.start_ps for wire in wires if not self.num_present[wire]}
        self.num_present.update(wires)
        if shared:
            self._touch(flow)
        else:
            flow.share = FULL_RATE
            self._advance(flow, int(self.env.now))
            self._run_at(flow, FULL_RATE)

    def _run_at(self, flow: Flow, share: FairShare) -> None:
        flow.share, flow.version = share, flow.version + 1
        version = flow.version
        self._later(max(0, ceil(flow.left_ps / share.rate - _ROUNDING_PS)), lambda: self._end(flow, version))

    def _end(self, flow: Flow, version: int) -> None:
        if version != flow.version or flow.done is None:
            return  # its rate has changed since
        now = int(self.env.now)
        self._advance(flow, now)
        flow.present = False
        for wire in flow.leg.wires:
            self.flows[wire].remove(flow)
            self.num_present[wire] -= 1
            if not self.num_present[wire]:
                self.busy_ps[wire] += now - self.busy_since_ps[wire]
        self._touch(flow)
        flow.done.succeed()

    def _touch(self, flow: Flow) -> None:
        """Have the links of a flow that comes or goes solved when all else of this instant has happened."""
        waiting = bool(self.touched)
        self.touched.update((wire, None) for wire in flow.leg.wires if self.num_present[wire])
        if self.touched and not waiting:
            self._later(0, self._solve)

    def _solve(self) -> None:
        if self.env.peek() <= self.env.now:  # something else happens in this instant: after it
            self._later(0, self._solve)
            return
        now, flows = int(self.env.now), self._component()
        self.touched.clear()
        self.num_solved += bool(flows)
        for flow in flows:
            self._advance(flow, now)
        for flow, share in zip(flows, device_shares([flow.leg for flow in flows]), strict=True):
            if share.rate != flow.share.rate:
                self._run_at(flow, share)
            flow.share = share
        for flow in flows:
            flow.rivals = self._rivals(flow)

    def _component(self) -> list[Flow]:
        """The flows on the touched links, and those on the links of these, and so on."""
        links, found = list(self.touched), dict[int, Flow]()
        seen = set(links)
        for wire in links:  # grows while it is walked
            for flow in self.flows[wire]:
                if flow.present and id(flow) not in found:
                    found[id(flow)] = flow
                    links.extend(other for other in flow.leg.wires if other not in seen)
                    seen.update(flow.leg.wires)
        return list(found.values())

    def _rivals(self, flow: Flow) -> tuple[tuple[str, float], ...]:
        """Who shares the link that binds a flow, by the part of the link that each takes."""
        if flow.share.bound is None:
            return ()
        bound, parts = flow.share.bound, defaultdict[str, float](float)
        for other in self.flows[bound]:
            if other is not flow and other.present and (part := _weight(other, flow.leg, bound)):
                parts[other.stream] += part
        whole = sum(parts.values())
        return tuple((stream, part / whole) for stream, part in parts.items())

    def _advance(self, flow: Flow, now: int) -> None:
        """Take off what a flow has sent since it was last looked at, and note what sharing cost it."""
        elapsed, flow.since_ps = now - flow.since_ps, now
        flow.left_ps = max(0.0, flow.left_ps - elapsed * flow.share.rate)
        if elapsed and flow.share.bound is not None:
            for stream, part in flow.rivals:
                self.lost_ps[flow.share.bound, flow.stream, flow.task, stream] += elapsed * (1.0 - flow.share.rate) * part
