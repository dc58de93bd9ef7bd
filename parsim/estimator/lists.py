"""What a list of tasks takes and holds: a max-plus map over the streams that cross lists, and the bytes it keeps and needs at most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from parsim.cost.buckets import num_bytes
from parsim.cost.sizes import Ints, Sizes
from parsim.cost.workload import Prices
from parsim.estimator.maxplus import NEVER
from parsim.estimator.streams import Streams, exposure
from parsim.step.program import Run
from parsim.step.task import COMPUTE_STREAM, LAUNCH, Bucket, Collective, Launches, Operand, Send, Task, Value, Wait, allocates, reads

Tasks = Sequence[Task]


class Crossing(NamedTuple):
    """What is known between lists beside the end of compute: streams that a list leaves busy, and what they write for others to read."""

    streams: tuple[str, ...]
    buffers: tuple[str, ...]

    @property
    def num_entries(self) -> int:
        """Of a state, compute included."""
        return 1 + len(self.streams) + len(self.buffers)


class Course(NamedTuple):
    """How the ends of a state follow from its starts, and what compute did from rest, that is with nothing under way before."""

    ends: Ints  # [plan, end, start]
    charges: Mapping[str, Ints]


class Lives(NamedTuple):
    """Memory of a list, relative to what is alive when it starts; one value per plan."""

    net_bytes: Ints
    peak_bytes: Ints


class Launched(NamedTuple):
    """Between a launch of the host and the wait for it, one value per plan."""

    kernels: Ints  # picoseconds
    wait: Ints  # by how much launches end after all else; below 0: before


class _Traffic(NamedTuple):
    """Who reads and writes buffers in a list, and which streams it leaves busy."""

    busy: tuple[str, ...]
    writers: dict[str, str]  # stream by buffer
    readers: dict[str, set[str]]  # streams by buffer


class Measures(Struct, frozen=True, eq=False):
    """Courses and lives of the lists of one Step, for all plans that share it; each is taken once."""

    prices: Prices
    _courses: dict[object, tuple[Run, Course]] = field(default_factory=dict)  # by the identity of a list, which is kept
    _lives: dict[object, tuple[Tasks, Lives]] = field(default_factory=dict)
    _traffics: dict[object, tuple[Tasks, _Traffic]] = field(default_factory=dict)
    _least: dict[object, tuple[Tasks, Ints]] = field(default_factory=dict)
    _on: dict[int, Measures] = field(default_factory=dict)

    def on(self, node: int) -> Measures:
        """The same on a kind of node that the cluster has."""
        prices = self.prices.on(node)
        return self if prices is self.prices else self._on.setdefault(node, Measures(prices))

    def course(self, run: Run, state: Crossing) -> Course:
        """A list walked once from each entry of the state alone, and from rest."""
        key = id(run.tasks), id(run.before), state
        if key not in self._courses:
            self._courses[key] = run, self._course(run, state)
        return self._courses[key][1]

    def _course(self, run: Run, state: Crossing) -> Course:
        count = state.num_entries
        starts = np.full((count, count + 1, self.prices.sizes.num_plans), NEVER)[:, count == 1 :]  # from compute alone is from rest
        starts[range(count), range(count)] = 0
        starts[:, -1] = 0
        streams = Streams(starts[0], "compute")
        for name, start in zip(state.streams, starts[1:], strict=False):
            streams.begin(name, start)
        for name, start in zip(state.buffers, starts[1 + len(state.streams) :], strict=True):
            streams.ready[name] = exposure(state.streams[0]), start
        for task, ps in zip(run.tasks, self.prices.of_run(run), strict=True):
            streams.issue(task, ps)
        ends = [streams.compute, *(streams.ends[name] for name in state.streams), *(streams.ready[name][1] for name in state.buffers)]
        reached = np.stack([np.where(end < NEVER // 2, NEVER, end)[:count] for end in ends])
        charges = {name: np.broadcast_to(ps, starts[0].shape)[-1] for name, ps in streams.charges.items()}
        return Course(np.moveaxis(reached, -1, 0), charges)

    def launches(self, run: Run) -> list[Launched]:
        """What of a list waits for the host, or might with faster kernels: each from rest."""
        found, streams = list[Launched](), Streams(self.prices.sizes.zero, "compute")
        for task, ps in zip(run.tasks, self.prices.of_run(run), strict=True):
            if isinstance(task, Launches) and LAUNCH not in streams.pending:
                streams = Streams(self.prices.sizes.zero, "compute")
            if isinstance(task, Wait) and LAUNCH in task.streams and LAUNCH in streams.pending:
                streams.issue(replace(task, streams=tuple(each for each in task.streams if each != LAUNCH)), ps)
                found.append(Launched(streams.charges.pop("compute", streams.compute * 0), streams.ends[LAUNCH] - streams.compute))
            streams.issue(task, ps)
        return found

    def least_ps(self, tasks: Tasks) -> Ints:
        """Picoseconds that a list takes at least: from rest, and if nothing beside compute made it longer."""
        key = id(tasks)
        if key not in self._least:
            streams = Streams(self.prices.sizes.zero, "compute")
            for task in tasks:
                streams.issue(task, self.prices.of(task))
            self._least[key] = tasks, streams.compute
        return self._least[key][1]

    def crossing(self, lists: Iterable[Tasks]) -> Crossing:
        """What must be known between these lists."""
        found = [*map(self._traffic_of, lists)]
        streams = tuple(dict.fromkeys(stream for each in found for stream in each.busy))
        writers = {name: stream for each in found if streams for name, stream in each.writers.items() if stream in streams}
        read = (name for name, stream in writers.items() if any(each.readers.get(name, set()) - {stream} for each in found))
        return Crossing(streams, tuple(read))

    def _traffic_of(self, tasks: Tasks) -> _Traffic:
        key = id(tasks)
        if key not in self._traffics:
            self._traffics[key] = tasks, _traffic(tasks)
        return self._traffics[key][1]

    def lives(self, run: Run) -> Lives:
        """The memory of a list."""
        key = id(run.tasks)
        if key not in self._lives:
            self._lives[key] = run.tasks, _lives(run.tasks, run.segment.known, self.prices.sizes)
        return self._lives[key][1]


def _traffic(tasks: Tasks) -> _Traffic:
    busy: dict[str, None] = {}
    writers: dict[str, str] = {}
    readers: dict[str, set[str]] = {}
    for task in tasks:
        own: str = getattr(task, "stream", COMPUTE_STREAM)
        for name in reads(task):
            readers.setdefault(name, set()).add(own)
        if isinstance(task, Wait):
            busy = {stream: None for stream in busy if stream not in task.streams}
        elif own != COMPUTE_STREAM and not isinstance(task, Send):
            busy[own] = None
            writers |= {task.target.name: own} if isinstance(task, Collective) else {}
    return _Traffic(tuple(busy), writers, readers)


def _lives(tasks: Tasks, known: Iterable[Operand], sizes: Sizes) -> Lives:
    """Live bytes folded in issue order, as a caching allocator sees a stream: outputs come before inputs go.

    `known`: buffers that may be alive when it starts.
    """
    held: dict[str, Value] = {operand.name: operand for operand in known}
    live = peak = sizes.zero
    for task in tasks:
        for value in allocates(task):
            held[value.name] = value
            live = live + num_bytes(value, sizes)
        peak = np.maximum(peak, live)
        for freed in task.frees:
            live = live - num_bytes(freed if isinstance(freed, Bucket) else held[freed], sizes)
    return Lives(live, peak)
