"""A pipeline rank as simpy processes: its compute, and one for each task that runs beside it, behind those before it on its stream.

`actions` takes an action as one event, since nobody else can delay it; `streams` walks the items of every pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import simpy

from parsim.simulator.fold import FoldedAction
from parsim.simulator.network import Events
from parsim.simulator.program import StreamItem
from parsim.simulator.trace import Span
from parsim.simulator.world import World
from parsim.step.task import COMPUTE_STREAM, Collective, Compute, Receive, Send, Wait


class RankStreams:
    """What one pipeline rank has issued, and its processes."""

    def __init__(self, number: int, world: World, rows: range) -> None:
        self.number, self.world, self.env, self.rows = number, world, world.env, rows
        self.last: dict[str, simpy.Event] = {}  # that was issued on each stream
        self.ready: dict[str, simpy.Event] = {}  # what makes each buffer that was made beside compute

    def actions(self, folds: Sequence[FoldedAction]) -> Events:
        """The whole step, an action an event; a message is another where its receiver waits before it is sent."""
        env, world, columns, ends, now = self.env, self.world, self.world.program.columns, dict[str, int](), 0
        own = slice(self.rows.start, self.rows.stop)
        columns_of = (each[own].tolist() for each in (world.program.pass_index, columns.awaits, columns.sends))
        for row, index, awaits, sends in zip(self.rows, *columns_of, strict=True):
            if awaits >= 0:
                arrival = world.arrival(awaits)
                arrival_ps = arrival if isinstance(arrival, int) else (yield arrival)
                now = arrival_ps if arrival_ps > now else now
            span_ps, beside, sent = folds[index]
            for stream, ready_ps, ps in beside:
                ends[stream] = max(now + ready_ps, ends.get(stream, 0)) + ps
            now += span_ps
            yield env.timeout(now - env.now)
            if sends and sent:
                end = ends[sent.stream] = max(now, ends.get(sent.stream, 0)) + sent.ps
                world.send(row, end)
        world.num_events += len(self.rows)
        self.last = {stream: env.timeout(end - now) for stream, end in ends.items() if end > now}
        yield from self.finish()

    def streams(self) -> Events:
        """The whole step, stream by stream."""
        program = self.world.program
        phases, columns = program.workload.phases, program.columns
        for row in self.rows:
            each = program.passes[program.pass_index[row]]
            label = f"{columns.stage[row]}{phases[columns.phase[row]]}{columns.micro_batch[row]}"
            yield from self.walk(program.items(each.prologue), label, row)
            for run in each.runs:
                for _ in range(int(run.copies[0])):
                    yield from self.walk(program.items(run.tasks), f"{label} {run.segment.name}", row)
            yield from self.walk(program.items(each.epilogue), label, row)
        yield from self.finish()

    def finish(self) -> Events:
        """The end of the step."""
        for item, members in self.world.program.finish(self.number):
            name = item.task.name
            if members:
                yield from self.world.meet(name, len(members))
            yield from self.walk((item,), name)
            if members and self.world.network is not None:  # shared links may hold up one of the members
                yield from self.world.meet(f"{name} ends", len(members))
        self.world.end_ps = max(self.world.end_ps, int(self.env.now))

    def walk(self, items: Iterable[StreamItem], label: str, row: int | None = None) -> Events:
        """Items in issue order: compute waits for its own, and does not for what it starts on other streams; row: of an action."""
        columns = self.world.program.columns
        for item in items:
            task, stream = item.task, item.stream
            before = [self.ready[name] for name in item.after if name in self.ready]
            if isinstance(task, Receive) and row is not None and columns.awaits[row] >= 0:
                arrival = self.world.arrival(int(columns.awaits[row]))
                before += [] if isinstance(arrival, int) else [arrival]
            if isinstance(task, Wait):
                before += [self.last[each] for each in task.streams if each in self.last]
            if isinstance(task, Send) and row is not None and not columns.sends[row]:
                continue  # the next stage lies on this rank
            if stream != COMPUTE_STREAM:
                before += [self.last[stream]] if stream in self.last else []
                self.last[stream] = self.env.process(self.beside(item, before, label, row))
                self.ready.update(dict.fromkeys(item.makes, self.last[stream]))
                continue
            yield from _all(before)
            if item.ps:
                yield from self.spend(item, label, row)

    def beside(self, item: StreamItem, before: Iterable[simpy.Event], label: str, row: int | None) -> Events:
        """One item on a stream of its own, when all before it has ended."""
        yield from _all(before)
        yield from self.spend(item, label, row)
        if isinstance(item.task, Send) and row is not None:
            self.world.send(row, int(self.env.now))

    def spend(self, item: StreamItem, label: str, row: int | None) -> Events:
        """The time of an item, stretched while others are on the links of a communication, and its span."""
        task, start, name = item.task, int(self.env.now), item.task.name
        network, stream = self.world.network, item.stream
        if isinstance(task, Collective) and stream == COMPUTE_STREAM:
            stream = task.group.name
        if network is not None and isinstance(task, Collective | Send):
            to = self.receiver(row) if isinstance(task, Send) else None
            yield from network.carry(self.world.legs(task, self.number, to, ends=row is None), stream, name)
        else:
            yield self.env.timeout(item.ps)
        if stream != item.stream:
            name = f"{stream}:{name}"
        elif isinstance(task, Compute | Send):
            name = label
        self.world.num_events += 1
        self.world.spans.append(Span(start, int(self.env.now), self.number, item.stream, name))

    def receiver(self, row: int | None) -> int:
        """The pipeline rank to which an action's message goes."""
        assert row is not None
        workload, columns = self.world.program.workload, self.world.program.columns
        to = workload.neighbour(int(columns.stage[row]), workload.phases[columns.phase[row]])
        assert to is not None
        return workload.rank_of(to)


def _all(events: Iterable[simpy.Event]) -> Events:
    for each in events:  # noqa: UP028  # an iterator of events takes no value that simpy sends
        yield each
