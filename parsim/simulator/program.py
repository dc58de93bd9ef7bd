"""One plan as its streams see it: the items of each pass and of the end of a step, and which pass each action of the schedule runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from parsim import schedules
from parsim.cost.count import flops
from parsim.cost.sizes import Ints
from parsim.cost.workload import Workload
from parsim.schedules import Columns
from parsim.step.program import Pass
from parsim.step.stages import Copies
from parsim.step.task import COMPUTE_STREAM, HOST, Collective, Compute, Hold, Launches, Receive, Task, reads, writes


class StreamItem(NamedTuple):
    """What a stream does at a time: one task, or several kernels that follow one another on the compute stream."""

    task: Task  # the first
    stream: str
    ps: int
    after: tuple[str, ...]  # the buffers made on other streams that it waits for
    makes: tuple[str, ...]  # the buffers that others may wait for


def stream_of(task: Task) -> str:
    """The stream on which a task runs; what only waits is compute's."""
    return COMPUTE_STREAM if isinstance(task, Receive) else getattr(task, "stream", COMPUTE_STREAM)


def items(tasks: Iterable[Task], ps_of: Callable[[Task], int]) -> Iterator[StreamItem]:
    """A task an item, in issue order; what takes no time and waits for nothing is left out."""
    beside: set[str] = set()
    for task in tasks:
        stream, ps = stream_of(task), ps_of(task)
        if isinstance(task, Hold) or (isinstance(task, Launches) and not ps):
            continue
        waits = getattr(task, "buffers", ())  # a Wait waits for what other lists have made, too
        after = (*waits, *(name for name in reads(task) if name in beside and name not in waits))
        makes = writes(task) if stream != COMPUTE_STREAM else ()
        beside |= set(makes)
        yield StreamItem(task, stream, ps, after, makes)


def is_kernel(item: StreamItem) -> bool:
    """Whether nobody else can hold it up: a kernel on the compute stream."""
    return item.stream == COMPUTE_STREAM and isinstance(item.task, Compute)


def fold_kernels(each: Iterable[StreamItem]) -> tuple[StreamItem, ...]:
    """The same, a run of kernels that wait for nobody in between as one item."""
    found: list[StreamItem] = []
    for item in each:
        if found and is_kernel(item) and is_kernel(found[-1]) and not item.after:
            found[-1] = found[-1]._replace(ps=found[-1].ps + item.ps)
        else:
            found.append(item)
    return tuple(found)


@dataclass(eq=False)
class Program:
    """One plan, ready to simulate; whatever is asked for twice is worked out once."""

    workload: Workload

    @functools.cached_property
    def columns(self) -> Columns:
        """The actions of all ranks, rank by rank."""
        each = self.workload
        return schedules.columns(each.schedule, each.num_ranks, each.chunks, each.num_micro_batches)

    @functools.cached_property
    def _kinds(self) -> tuple[Ints, Ints]:
        """Stage, phase and closing of the different passes as one number each, and for each action the index of its pass."""
        c = self.columns
        distinct, index = np.unique((c.stage * len(self.workload.phases) + c.phase) * 2 + c.closes, return_inverse=True)
        return distinct, index

    @property
    def pass_index(self) -> Ints:
        """For each action, the index of its pass."""
        return self._kinds[1]

    @functools.cached_property
    def passes(self) -> tuple[Pass, ...]:
        """The different passes."""
        phases, found = self.workload.phases, []
        for number in self._kinds[0].tolist():
            stage, phase = divmod(number // 2, len(phases))
            found.append(self.workload.pass_of(stage, phases[phase], closes=bool(number % 2)))
        return tuple(found)

    @functools.cached_property
    def counts(self) -> Ints:
        """How often a pipeline rank runs each pass [rank, pass]."""
        num_passes, num_ranks = len(self.passes), self.workload.num_ranks
        return np.bincount(self.columns.rank * num_passes + self.pass_index, minlength=num_ranks * num_passes).reshape(num_ranks, -1)

    @functools.cached_property
    def _items(self) -> dict[int, tuple[StreamItem, ...]]:
        return {}  # by the identity of a list, which its pass keeps

    def items(self, tasks: tuple[Task, ...]) -> tuple[StreamItem, ...]:
        """The items of a list of a pass."""
        if id(tasks) not in self._items:
            self._items[id(tasks)] = fold_kernels(items(tasks, lambda task: one(self.workload.ps(task))))
        return self._items[id(tasks)]

    def pass_items(self, each: Pass) -> Iterator[StreamItem]:
        """All items of a pass, in issue order."""
        yield from self.items(each.prologue)
        for run in each.runs:
            for _ in range(one(run.copies)):
                yield from self.items(run.tasks)
        yield from self.items(each.epilogue)

    @functools.cached_property
    def flops(self) -> tuple[int, ...]:
        """FLOPs of each pipeline rank, of the first of its replicas."""
        of_task: dict[int, int] = {}

        def each(tasks: tuple[Task, ...]) -> int:
            for task in tasks:
                if id(task) not in of_task:
                    of_task[id(task)] = one(flops(task, self.workload.sizes))
            return sum(of_task[id(task)] for task in tasks)

        of_pass = [sum(one(run.copies) * each(run.tasks) for run in found.runs) for found in self.passes]
        sizes, finish = self.workload.sizes, [task for task in self.workload.step.finish if stream_of(task) != HOST]
        distinct = {id(held): held for held in self.held}
        of_finish = {key: sum(one(flops(task, sizes, held)) for task in finish) for key, held in distinct.items()}
        passes = (sum(count * of_pass[index] for index, count in enumerate(counts) if count) for counts in self.counts.tolist())
        return tuple(total + of_finish[id(held)] for total, held in zip(passes, self.held, strict=True))

    @functools.cached_property
    def held(self) -> tuple[dict[str, Copies], ...]:
        """How often each pipeline rank holds each segment; ranks that hold the same share one."""
        same: dict[tuple[tuple[str, int], ...], dict[str, Copies]] = {}
        found = map(self.workload.copies_on, range(self.workload.num_ranks))
        return tuple(same.setdefault(tuple((name, one(copies)) for name, copies in each.items()), each) for each in found)

    @functools.cached_property
    def members(self) -> dict[int, tuple[int, ...]]:
        """By the identity of each task of the step's end the pipeline ranks that start it together; none: the ranks of each stage."""
        found = {}
        for task in self.workload.step.finish:
            across = isinstance(task, Collective) and "pp" in task.group.axes
            homes = task.group.homes if isinstance(task, Collective) else ()
            ranks = (rank for rank, held in enumerate(self.held) if across and (not homes or any(home in held for home in homes)))
            found[id(task)] = tuple(ranks)
        return found

    def payer(self, task: Task, rank: int) -> int:
        """The rank at whose holding a task of the step's end is priced: of several pipeline ranks, the last."""
        return max(self.members[id(task)], default=rank)

    def finish(self, rank: int) -> list[tuple[StreamItem, tuple[int, ...]]]:
        """The end of a step on a rank, task by task, each with its `members`."""
        members = self.members
        tasks = [task for task in self.workload.step.finish if not members[id(task)] or rank in members[id(task)]]
        return [(item, members[id(item.task)]) for item in items(tasks, lambda task: self.finish_ps(task, self.payer(task, rank)))]

    def finish_ps(self, task: Task, rank: int) -> int:
        """Picoseconds of a task of the step's end at the holding of a rank."""
        held = self.held[rank]
        key = (id(task), id(held))
        if key not in self._finish_ps:
            self._finish_ps[key] = one(self.workload.finish_ps(task, held))
        return self._finish_ps[key]

    @functools.cached_property
    def _finish_ps(self) -> dict[tuple[int, int], int]:
        return {}

    def num_events(self, *, streams: bool) -> int:
        """About how many events a step will run: an action and a message are one each, or all that the streams do."""
        if not streams:
            return len(self.pass_index) + int(self.columns.sends.sum())
        weights = [sum(1 + (item.stream != COMPUTE_STREAM) for item in self.pass_items(each)) for each in self.passes]
        return int((self.counts @ np.array(weights)).sum())


def one(values: Copies) -> int:
    """The value of the only plan."""
    return int(values) if isinstance(values, int) else int(values[0])
