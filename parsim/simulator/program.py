"""One plan as the simulator runs it: which pass each action of the schedule is, the items of passes and of a step's end, and FLOPs."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from parsim import schedules
from parsim.cost.count import flops
from parsim.cost.workload import Workload
from parsim.simulator.fold import StreamItem, fold_kernels, items
from parsim.step.program import Pass
from parsim.step.stages import Copies
from parsim.step.task import COMPUTE_STREAM, HOST, Collective, Task


class Program:
    """One plan, ready to simulate: its actions, rank by rank, and the different `passes` that they run.

    Whatever is asked for twice is worked out once.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload, num_ranks = workload, workload.num_ranks
        self.columns = c = schedules.columns(workload.schedule, num_ranks, workload.chunks, workload.num_micro_batches)
        # The pass of each action; how often each pipeline rank runs each pass [rank, pass], and holds each segment.
        keys = (c.stage * len(workload.phases) + c.phase) * 2 + c.closes
        _, rows, self.pass_index = np.unique(keys, return_index=True, return_inverse=True)
        kinds = zip(*(each[rows].tolist() for each in (c.stage, c.phase, c.closes)), strict=True)
        self.passes = tuple(workload.pass_of(stage, workload.phases[phase], closes=closes) for stage, phase, closes in kinds)
        index = c.rank * len(self.passes) + self.pass_index
        self.counts = np.bincount(index, minlength=num_ranks * len(self.passes)).reshape(num_ranks, -1)
        alike: dict[tuple[tuple[str, int], ...], dict[str, Copies]] = {}
        found = map(workload.copies_on, range(num_ranks))
        self.held = tuple(alike.setdefault(tuple((name, one(copies)) for name, copies in each.items()), each) for each in found)
        # The pipeline ranks that start a task of the step's end together, by its identity; none: the ranks of each stage.
        self.members = {id(task): self._members(task) for task in workload.step.finish}
        self._items: dict[int, tuple[StreamItem, ...]] = {}  # by the identity of a list, which its pass keeps
        self._finish_ps: dict[tuple[int, int], int] = {}  # by the identities of a task and of what a rank holds

    def _members(self, task: Task) -> tuple[int, ...]:
        if not isinstance(task, Collective) or "pp" not in task.group.axes:
            return ()
        homes = task.group.homes
        return tuple(rank for rank, held in enumerate(self.held) if not homes or any(home in held for home in homes))

    def items(self, tasks: tuple[Task, ...]) -> tuple[StreamItem, ...]:
        """The items of a list of a pass."""
        if id(tasks) not in self._items:
            self._items[id(tasks)] = fold_kernels(items(tasks, lambda task: one(self.workload.ps(task))))
        return self._items[id(tasks)]

    def pass_items(self, each: Pass) -> Iterator[StreamItem]:
        """All items of a pass, in issue order."""
        for run in each.lists:
            for _ in range(one(run.copies)):
                yield from self.items(run.tasks)

    @functools.cached_property
    def flops(self) -> tuple[int, ...]:
        """FLOPs of each pipeline rank, of the first of its replicas."""
        sizes = self.workload.sizes
        lists = {id(run.tasks): run.tasks for each in self.passes for run in each.lists}
        of_list = {key: sum(one(flops(task, sizes)) for task in tasks) for key, tasks in lists.items()}
        of_pass = np.array([sum(one(run.copies) * of_list[id(run.tasks)] for run in each.lists) for each in self.passes], dtype=object)
        finish = [task for task in self.workload.step.finish if getattr(task, "stream", "") != HOST]
        alike = {id(each): each for each in self.held}
        of_finish = {key: sum(one(flops(task, sizes, held)) for task in finish) for key, held in alike.items()}
        return tuple(total + of_finish[id(held)] for total, held in zip(self.counts @ of_pass, self.held, strict=True))

    def held_by_payer(self, task: Task, rank: int) -> dict[str, Copies]:
        """The holding at which a task of the step's end is priced: the rank's, or of several that start it together that of the last."""
        return self.held[max(self.members[id(task)], default=rank)]

    def finish(self, rank: int) -> list[tuple[StreamItem, tuple[int, ...]]]:
        """The end of a step on a rank, task by task, each with its `members`."""
        tasks = [task for task in self.workload.step.finish if rank in (self.members[id(task)] or (rank,))]
        return [(item, self.members[id(item.task)]) for item in items(tasks, lambda task: self._ps(task, self.held_by_payer(task, rank)))]

    def _ps(self, task: Task, held: dict[str, Copies]) -> int:
        key = (id(task), id(held))
        if key not in self._finish_ps:
            self._finish_ps[key] = one(self.workload.finish_ps(task, held))
        return self._finish_ps[key]

    def num_events(self, *, streams: bool) -> int:
        """About how many events a step will run: an action and a message are one each, or all that the streams do."""
        if not streams:
            return len(self.pass_index) + int(self.columns.sends.sum())
        weights = [sum(1 + (item.stream != COMPUTE_STREAM) for item in self.pass_items(each)) for each in self.passes]
        return int((self.counts @ np.array(weights)).sum())


def one(values: Copies) -> int:
    """The value of the only plan."""
    return int(values) if isinstance(values, int) else int(values[0])
