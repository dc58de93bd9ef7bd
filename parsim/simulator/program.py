"""One plan as the simulator runs it: which pass each action of the schedule is, the items of passes and of a step's end, and FLOPs.

An action folds to one span: what nobody else can hold up runs ahead in plain integers, as if from 0.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from parsim import schedules
from parsim.cluster.scalars import Ints
from parsim.cost.count import flops
from parsim.cost.sizes import Sizes
from parsim.cost.workload import Workload
from parsim.step.pairs import StagePair
from parsim.step.program import Pass, Run, send_stream
from parsim.step.stages import Copies
from parsim.step.task import COMPUTE_STREAM, HOST, Collective, Compute, Hold, Launches, Send, Task, Wait, reads, writes

_NOTHING: Final = StagePair(())


class StreamItem(NamedTuple):
    """What a stream does at a time: one task, or several kernels that follow one another on the compute stream."""

    task: Task  # the first
    stream: str
    ps: int
    after: tuple[str, ...]  # the buffers made on other streams that it waits for
    makes: tuple[str, ...]  # the buffers that others may wait for


class Walks(NamedTuple):
    """What the streams of a rank do in its actions."""

    lists: Sequence[Sequence[tuple[Sequence[StreamItem], str]]]  # items of an action, each list of them with the name of its segment
    of: Ints  # which of these each action does, [row]


class Beside(NamedTuple):
    """What an action leaves running on another stream."""

    stream: str
    ready_ps: int  # when it can start, but for what is before it on its stream, from the start of the action
    ps: int
    task: Task


class FoldedAction(NamedTuple):
    """One action: picoseconds of its compute from the arrival of its message on, and what it leaves running."""

    ps: int
    beside: tuple[Beside, ...]
    messages: tuple[Beside, ...]  # the last that it does
    inside: tuple[tuple[Collective, int], ...] = ()  # collectives that end within it, each with its start


class RankCourse:
    """The streams of a rank: what they do starts as soon as it can, since nobody else holds it up."""

    def __init__(self, now: int = 0, ends: Mapping[str, int] | None = None) -> None:
        self.now, self.ends = now, dict(ends or {})  # of compute, and of what was issued on each other stream
        self._made: dict[str, int] = {}  # when each buffer is there that another stream makes

    def ready(self, item: StreamItem) -> int:
        """When an item can start, but for what is before it on its stream."""
        return max((self.now, *(self._made[name] for name in item.after if name in self._made)))

    def run(self, item: StreamItem) -> int:
        """The start of the next item, which then is done; a message is left to who knows what was sent before."""
        streams = item.task.streams if isinstance(item.task, Wait) else (item.stream,)
        start = max((self.ready(item), *(self.ends[each] for each in streams if each in self.ends)))
        if item.stream == COMPUTE_STREAM:
            self.now = start + item.ps
        elif not isinstance(item.task, Send):
            self.ends[item.stream] = start + item.ps
            self._made.update(dict.fromkeys(item.makes, start + item.ps))
        return start


def items(tasks: Iterable[Task], ps_of_each: Iterable[int]) -> Iterator[StreamItem]:
    """A task an item, in issue order; what takes no time and waits for nothing is left out."""
    beside: set[str] = set()
    for task, ps in zip(tasks, ps_of_each, strict=True):
        stream = getattr(task, "stream", COMPUTE_STREAM)  # what only waits is compute's
        if isinstance(task, Hold) or (isinstance(task, Launches) and not ps):
            continue
        # A Wait is for what other lists made, too.
        after = tuple(name for name in reads(task) if name in beside or isinstance(task, Wait))
        makes = writes(task) if stream != COMPUTE_STREAM else ()
        beside |= set(makes)
        yield StreamItem(task, stream, ps, after, makes)


def fold_kernels(each: Iterable[StreamItem]) -> tuple[StreamItem, ...]:
    """The same, a run of kernels that wait for nobody in between as one item."""
    found: list[StreamItem] = []
    follows = False  # whether the item before is a kernel, which nobody else can hold up
    for item in each:
        is_kernel = item.stream == COMPUTE_STREAM and isinstance(item.task, Compute)
        if follows and is_kernel and not item.after:
            found[-1] = found[-1]._replace(ps=found[-1].ps + item.ps)
        else:
            found.append(item)
        follows = is_kernel
    return tuple(found)


def fold(items: Iterable[StreamItem]) -> FoldedAction:
    """The items of an action, walked once.

    A pass waits for nothing that an earlier one left running: what is beside it then changes no time of its own.
    """
    course, messages = RankCourse(), list[Beside]()
    inside: list[tuple[Task, int]] = []
    left: dict[str, list[tuple[Beside, int]]] = {}
    for item in items:
        ready, start = course.ready(item), course.run(item)
        if isinstance(item.task, Send):
            messages.append(Beside(item.stream, start, item.ps, item.task))
        elif item.stream != COMPUTE_STREAM:
            left.setdefault(item.stream, []).append((Beside(item.stream, ready, item.ps, item.task), start))
        elif isinstance(item.task, Wait):
            inside += [(each.task, at) for stream in item.task.streams for each, at in left.pop(stream, ())]
        else:
            inside.append((item.task, start))
    beside = tuple(each for running in left.values() for each, _ in running)
    return FoldedAction(course.now, beside, tuple(messages), tuple((task, start) for task, start in inside if isinstance(task, Collective)))


class Program:
    """One plan, ready to simulate: its actions, rank by rank, and the different `passes` that they run.

    `shared`: tasks take what they take alone, and events say what those that meet cost one another.  Whatever is asked for twice is
    worked out once.
    """

    def __init__(self, workload: Workload, *, shared: bool = False) -> None:
        self.workload, self.shared, num_ranks = workload, shared, workload.num_ranks
        self.columns = c = schedules.columns(workload.schedule, num_ranks, workload.chunks, workload.num_micro_batches)
        # The pass of each action; how often each pipeline rank runs each pass [rank, pass], and holds each segment.
        begins = c.ends != np.arange(len(c.ends))
        with_forward = np.roll(np.where(begins, 1 + c.stage, 0), 1)  # a pair runs where its backward begins
        self.pairs = frozenset((np.flatnonzero(begins) + 1).tolist())  # there
        keys = np.stack([c.stage, c.phase, c.closes, c.paired, with_forward])
        _, rows, self.pass_index = np.unique(keys, axis=1, return_index=True, return_inverse=True)
        self.pass_index = self.pass_index.ravel()
        self.passes = tuple(map(self._pass_of, rows.tolist()))
        index = c.rank * len(self.passes) + self.pass_index
        self.counts = np.bincount(index, minlength=num_ranks * len(self.passes)).reshape(num_ranks, -1)
        alike: dict[tuple[tuple[str, int], ...], dict[str, Copies]] = {}
        found = map(workload.copies_on, range(num_ranks))
        self.held = tuple(alike.setdefault(tuple((name, one(copies)) for name, copies in each.items()), each) for each in found)
        self.nodes = [workload.node_of(rank) for rank in c.rank[rows].tolist()]  # of each pass
        self._together = {id(task): self._homes(task) for task in workload.step.finish}
        # by the identities of tasks and of what is before them, which a pass keeps, and the kind of node
        self._items: dict[tuple[int, int, int], tuple[StreamItem, ...]] = {}
        self._far_ps: dict[tuple[int, int, int], tuple[int, int]] = {}  # by the identity of a task, its stage and phase
        self._finish_ps: dict[tuple[int, int, tuple[int, ...]], int] = {}  # the same, and nodes

    @functools.cached_property
    def sends(self) -> list[bool]:
        """Whether the result of each action goes to another rank."""
        found: list[bool] = self.columns.sends.tolist()
        return found

    def _pass_of(self, row: int) -> Pass | StagePair:
        """What an action runs: of a pair all where its backward begins, and nothing where it waits for the forward's message."""
        c, w = self.columns, self.workload
        if not c.paired[row]:
            return w.pass_of(int(c.stage[row]), w.phases[c.phase[row]], closes=bool(c.closes[row]))
        return w.pair_of(int(c.stage[row - 1]), int(c.stage[row])) if row in self.pairs else _NOTHING

    def sender(self, row: int, task: Send) -> int:
        """The action whose message it is: of a pair, the row before its backward's has the forward's."""
        return row - 1 if row in self.pairs and task.stream == send_stream(self.workload.phases[0]) else row

    def far_ps(self, row: int, task: Send) -> tuple[int, int]:
        """How much later the message of an action to another site, or kind of node, has left, and how long it is on its way."""
        cluster = self.workload.model.cluster
        if cluster.num_sites == 1 and not cluster.groups:
            return 0, 0
        w, sender = self.workload, self.sender(row, task)
        stage, phase = int(self.columns.stage[sender]), int(self.columns.phase[sender])
        if (key := (id(task), stage, phase)) not in self._far_ps:
            where = stage, w.phases[phase]
            self._far_ps[key] = one(w.longer_ps(task, *where)), one(w.on_its_way_ps(*where))
        return self._far_ps[key]

    def members(self, task: Task, rank: int) -> tuple[int, ...]:
        """The pipeline ranks that start a task of the step's end together, where one of them is asked; none: the ranks of each stage."""
        if isinstance(task, Collective) and task.group.mirrors:
            return tuple(sorted((rank, self.workload.num_ranks - 1 - rank)))
        return self._together.get(id(task), ())

    def takes_part(self, task: Task, rank: int) -> bool:
        """Whether a pipeline rank has a part in a task of the step's end."""
        members = self.members(task, rank)
        return not members or rank in members

    def _homes(self, task: Task) -> tuple[int, ...]:
        if not isinstance(task, Collective) or "pp" not in task.group.axes:
            return ()
        homes = task.group.homes
        return tuple(rank for rank, held in enumerate(self.held) if not homes or any(home in held for home in homes))

    def items(self, run: Run, node: int) -> tuple[StreamItem, ...]:
        """The items of a list of a pass on a kind of node."""
        key = id(run.tasks), id(run.before), node
        if key not in self._items:
            ps = [self.workload.ps(task, node) for task in run.tasks] if self.shared else self.workload.ps_of(run, node)
            self._items[key] = fold_kernels(items(run.tasks, map(one, ps)))
        return self._items[key]

    def pass_items(self, index: int) -> Iterator[StreamItem]:
        """All items of a pass, in issue order."""
        for run in self.passes[index].lists:
            for _ in range(one(run.copies)):
                yield from self.items(run, self.nodes[index])

    @functools.cached_property
    def folds(self) -> list[FoldedAction]:
        """Each pass folded."""
        alike = {(id(each), node): index for index, (each, node) in enumerate(zip(self.passes, self.nodes, strict=True))}
        found = {key: fold(self.pass_items(index)) for key, index in alike.items()}
        return [found[id(each), node] for each, node in zip(self.passes, self.nodes, strict=True)]

    def walks(self) -> Walks:
        """All that streams do, list by list."""
        parts = zip(self.passes, self.nodes, strict=True)
        named = [[(self.items(run, node), run.segment.name, one(run.copies)) for run in each.lists] for each, node in parts]
        return Walks([[(own, name) for own, name, copies in lists for _ in range(copies)] for lists in named], self.pass_index)

    @functools.cached_property
    def flops(self) -> tuple[int, ...]:
        """FLOPs of each pipeline rank, of the first of its replicas; where no rank has most of all layers, of that with most."""
        sizes, of_ranks = self.workload.sizes, self.sizes_of_ranks
        nothing = of_ranks.zero.astype(object)
        lists = {id(run.tasks): run.tasks for each in self.passes for run in each.lists}
        of_list = {key: sum((flops(task, of_ranks).astype(object) for task in tasks), start=nothing) for key, tasks in lists.items()}
        of_pass = np.array([sum((one(run.copies) * of_list[id(run.tasks)] for run in each.lists), start=nothing) for each in self.passes])
        finish = [task for task in self.workload.step.finish if getattr(task, "stream", "") != HOST]
        alike = {id(each): each for each in self.held}
        of_finish = {key: sum(one(flops(task, sizes, held)) for task in finish) for key, held in alike.items()}
        return tuple(max(total) + of_finish[id(held)] for total, held in zip(self.counts @ of_pass, self.held, strict=True))

    @functools.cached_property
    def sizes_of_ranks(self) -> Sizes:
        """Those of the representative; where no rank has most of all layers, of all that may have, a row each."""
        sizes = self.workload.sizes
        return sizes.of_all_ranks(sizes.torn)[0] if sizes.torn else sizes

    def held_by_payer(self, task: Task, rank: int) -> dict[str, Copies]:
        """The holding at which a task of the step's end is priced: the rank's, or of several that start it together that of the last."""
        return self.held[max(self.members(task, rank), default=rank)]

    def finish(self, rank: int) -> list[tuple[StreamItem, tuple[int, ...]]]:
        """The end of a step on a rank, task by task, each with its `members`."""
        tasks = [task for task in self.workload.step.finish if self.takes_part(task, rank)]
        found = items(tasks, (self._ps(task, self.held_by_payer(task, rank), self.members(task, rank) or (rank,)) for task in tasks))
        return [(item, self.members(item.task, rank)) for item in found]

    def _ps(self, task: Task, held: dict[str, Copies], ranks: Sequence[int]) -> int:
        if (key := (id(task), id(held), tuple(map(self.workload.node_of, ranks)))) not in self._finish_ps:
            self._finish_ps[key] = one(self.workload.finish_ps(task, held, ranks))
        return self._finish_ps[key]

    def num_events(self, walks: Walks | None = None) -> int:
        """About how many events a step will run: an action and a message are one each, or all that streams do."""
        if walks is None:
            return len(self.pass_index) + int(self.columns.sends.sum())
        weights = [sum(1 + (item.stream != COMPUTE_STREAM) for items, _ in lists for item in items) for lists in walks.lists]
        return int(np.array(weights)[walks.of].sum())


def one(values: Copies) -> int:
    """The value of the only plan."""
    return int(values[0]) if isinstance(values, np.ndarray) else int(values)
