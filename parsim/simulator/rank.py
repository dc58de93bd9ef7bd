"""Pipeline ranks as simpy processes, and what they share: messages, meetings across the pipeline, links, and what was seen.

`actions` takes an action as one event, since nobody else can delay it; `streams` walks the items of every pass: its compute, and a
process for each task that runs beside it, behind those before it on its stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import simpy
from msgspec import Struct, field

from parsim.schedules import Action
from parsim.simulator.demand import Legs
from parsim.simulator.network import Events, SharedLinks
from parsim.simulator.program import FoldedAction, Program, StreamItem, Walks
from parsim.simulator.trace import Span
from parsim.step.task import COMPUTE_STREAM, Collective, Compute, Receive, Send, Wait


class World(Struct, eq=False, dict=True):
    """The state that all ranks see."""

    program: Program
    env: simpy.Environment
    legs: Legs
    walks: Walks | None = None  # where streams are walked
    network: SharedLinks | None = None  # with contention
    noted: bool = True  # whether spans are
    spans: list[Span] = field(default_factory=list)
    end_ps: int = 0  # of the last rank; a timer that nobody waits for any more may come later
    num_events: int = 0
    _arrivals: dict[int, int] = field(default_factory=dict)  # of messages that nobody has waited for yet
    _receivers: dict[int, simpy.Event] = field(default_factory=dict)  # those that wait for messages not sent yet
    _meetings: dict[str, list[simpy.Event]] = field(default_factory=dict)

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

    def label(self, row: int) -> str:
        """An action as schedules print it."""
        columns, phases = self.program.columns, self.program.workload.phases
        return str(Action(int(columns.stage[row]), phases[columns.phase[row]], int(columns.micro_batch[row])))

    def meet(self, name: str, num_members: int) -> Events:
        """Wait until all members have come; they go on in the order in which they came."""
        present = self._meetings.setdefault(name, [])
        present.append(event := self.env.event())
        if len(present) == num_members:
            for each in present:
                each.succeed()
        yield event


class RankStreams:
    """What one pipeline rank has issued, and its processes."""

    def __init__(self, number: int, world: World, rows: range) -> None:
        self.number, self.world, self.env, self.rows = number, world, world.env, rows
        self.last: dict[str, simpy.Event] = {}  # that was issued on each stream
        self.ready: dict[str, simpy.Event] = {}  # what makes each buffer that was made beside compute

    def actions(self, folds: Sequence[FoldedAction]) -> Events:
        """The whole step, an action an event; a message is another where its receiver waits before it is sent."""
        env, world, program, ends, now = self.env, self.world, self.world.program, dict[str, int](), 0
        own = slice(self.rows.start, self.rows.stop)
        columns_of = (each[own].tolist() for each in (program.pass_index, program.columns.awaits))
        for row, index, awaits in zip(self.rows, *columns_of, strict=True):
            if awaits >= 0:
                arrival = world.arrival(awaits)
                arrival_ps = arrival if isinstance(arrival, int) else (yield arrival)
                now = arrival_ps if arrival_ps > now else now
            span_ps, beside, messages, _ = folds[index]
            for stream, ready_ps, ps, _ in beside:
                ends[stream] = max(now + ready_ps, ends.get(stream, 0)) + ps
            now += span_ps
            yield env.timeout(now - env.now)
            for stream, _, ps, task in messages:
                sender = program.sender(row, task) if isinstance(task, Send) else row
                if program.sends[sender]:
                    longer_ps, on_its_way_ps = program.far_ps(row, task) if isinstance(task, Send) else (0, 0)
                    end = ends[stream] = max(now, ends.get(stream, 0)) + ps + longer_ps
                    world.send(sender, end + on_its_way_ps)
        world.num_events += len(self.rows)
        self.last = {stream: env.timeout(end - now) for stream, end in ends.items() if end > now}
        yield from self.finish()

    def streams(self) -> Events:
        """The whole step, stream by stream."""
        walks = self.world.walks
        assert walks is not None
        for row, index in zip(self.rows, walks.of[self.rows.start : self.rows.stop].tolist(), strict=True):
            if row + 1 in self.world.program.pairs and (awaited := int(self.world.program.columns.awaits[row])) >= 0:
                arrival = self.world.arrival(awaited)
                yield from _all(() if isinstance(arrival, int) else (arrival,))
            for items, segment in walks.lists[index]:
                yield from self.walk(items, row, segment)
        yield from self.finish()

    def finish(self) -> Events:
        """The end of the step."""
        for item, members in self.world.program.finish(self.number):
            name = f"{item.task.name} of {members}"
            if members:
                yield from self.world.meet(name, len(members))
            yield from self.walk((item,))
            if members and self.world.network is not None:  # shared links may hold up one of the members
                yield from self.world.meet(f"{name} ends", len(members))
        self.world.end_ps = max(self.world.end_ps, int(self.env.now))

    def walk(self, items: Iterable[StreamItem], row: int | None = None, segment: str = "") -> Events:
        """Items in issue order: compute waits for its own, and does not for what it starts on other streams; row: of an action."""
        columns = self.world.program.columns
        for item in items:
            task, stream = item.task, item.stream
            before = [self.ready[name] for name in item.after if name in self.ready]
            if isinstance(task, Receive) and row is not None and columns.awaits[row] >= 0:
                arrival = self.world.arrival(int(columns.awaits[row]))
                before += [] if isinstance(arrival, int) else [arrival]
            if isinstance(task, Send) and row is not None and not self.world.program.sends[self.world.program.sender(row, task)]:
                continue  # the next stage lies on this rank
            if isinstance(task, Send) and row is not None:
                item = item._replace(ps=item.ps + self.world.program.far_ps(row, task)[0])
            awaited = task.streams if isinstance(task, Wait) else (stream,)  # nothing of compute's own is in `last`
            before += [self.last[each] for each in awaited if each in self.last]
            if stream != COMPUTE_STREAM:
                self.last[stream] = self.env.process(self.beside(item, before, row))
                self.ready.update(dict.fromkeys(item.makes, self.last[stream]))
                continue
            yield from _all(before)
            if item.ps:
                yield from self.spend(item, row, segment)

    def beside(self, item: StreamItem, before: Iterable[simpy.Event], row: int | None) -> Events:
        """One item on a stream of its own, when all before it has ended."""
        yield from _all(before)
        yield from self.spend(item, row)
        if isinstance(item.task, Send) and row is not None:
            on_its_way = self.on_its_way(item.task, row)
            if self.world.program.far_ps(row, item.task)[1]:
                self.env.process(on_its_way)  # others may follow it
            else:
                yield from on_its_way

    def on_its_way(self, task: Send, row: int) -> Events:
        """A message that has left, until it is there."""
        if ps := self.world.program.far_ps(row, task)[1]:
            yield self.env.timeout(ps)
        self.world.send(self.world.program.sender(row, task), int(self.env.now))

    def spend(self, item: StreamItem, row: int | None, segment: str = "") -> Events:
        """The time of an item, stretched while others are on the links of a communication, and its span."""
        task, start, name, stream = item.task, int(self.env.now), item.task.name, item.stream
        if isinstance(task, Collective) and stream == COMPUTE_STREAM:
            stream = task.group.name
        if self.world.network is not None and self.world.legs.may_meet(item):
            if leg := self.world.legs.of(item, self.number, row):
                yield from self.world.network.carry(leg, stream, name)
        else:
            yield self.env.timeout(item.ps)
        self.world.num_events += 1
        if not self.world.noted:
            return
        if stream != item.stream:
            name = f"{stream}:{name}"
        elif row is not None and isinstance(task, Compute | Send):
            name = f"{self.world.label(row)} {segment}".rstrip()
        self.world.spans.append(Span(start, int(self.env.now), self.number, item.stream, name))


def _all(events: Iterable[simpy.Event]) -> Events:
    for each in events:  # noqa: UP028  # an iterator of events takes no value that simpy sends
        yield each
