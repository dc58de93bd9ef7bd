"""The high-water mark of a rank: its whole step in issue order, allocation by allocation; each different pass is walked once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from parsim.cost.buckets import Role, lasting_parts, num_bytes, weight_elements
from parsim.cost.workload import Workload
from parsim.model.dims import COMPUTE, GRADIENT
from parsim.simulator.program import Program, one
from parsim.step.finish import NORM
from parsim.step.optimizer import OPTIMIZERS
from parsim.step.program import Pass
from parsim.step.step import Segment
from parsim.step.task import Bucket, Operand, Task, Value, allocates


class Rise(NamedTuple):
    """Bytes that some tasks leave behind, and the most that they reach, both counted from their start."""

    net: int
    highest: int

    def then(self, other: Rise) -> Rise:
        """One after the other."""
        return Rise(self.net + other.net, max(self.highest, self.net + other.highest))

    def times(self, copies: int) -> Rise:
        """So many of them, one after the other."""
        return Rise(copies * self.net, max(0, (copies - 1) * self.net) + self.highest)


def peak_bytes(program: Program) -> tuple[int, ...]:
    """Most bytes alive at once on each pipeline rank, without the stack's overheads."""
    walk = _Walk(program.workload)
    rises = np.array([walk.of_pass(each) for each in program.passes], dtype=np.int64)
    net, highest = rises[program.pass_index].T
    live = np.cumsum(net) - net  # a rank ends as it began, so that one sum over all ranks does
    starts = np.searchsorted(program.columns.rank, np.arange(program.workload.num_ranks))
    segments = {name: lasting_bytes(program.workload, name) for name in program.workload.step.segments}
    most = np.maximum.reduceat(live + highest, starts)
    lasting = [sum(one(copies) * segments[name] for name, copies in held.items()) for held in program.held]
    return tuple(_size(NORM, program.workload) + each + max(0, int(rise)) for each, rise in zip(lasting, most, strict=True))


def lasting_bytes(workload: Workload, name: str) -> int:
    """Weights, gradients, optimizer state and scalars of one copy of a segment."""
    structure, sizes, segment = workload.step.structure, workload.sizes, workload.step.segments[name]
    itemsize: dict[Role, int] = {
        "parameters": sizes.itemsize_bytes[COMPUTE],
        "gradients": sizes.itemsize_bytes[GRADIENT],
        "optimizer": OPTIMIZERS[structure.optimizer].kept_bytes(master_weights=structure.master_weights, offload=structure.offload),
    }
    parts = lasting_parts(structure.zero_stage)
    own = (size * one(weight_elements(weight, parts[role], sizes)) for weight in segment.own_weights for role, size in itemsize.items())
    return sum(own) + sum(_size(each, workload) for each in segment.totals)


class _Walk:
    """The rises of lists of tasks, each walked once."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.walked: dict[int, Rise] = {}  # by the identity of a list, which its pass keeps
        self.sizes: dict[int, int] = {}  # by the identity of a buffer, which its task keeps

    def of_pass(self, each: Pass) -> Rise:
        """A pass."""
        found = self.of_tasks(each.prologue)
        for run in each.runs:
            found = found.then(self.of_tasks(run.tasks, run.segment).times(one(run.copies)))
        return found.then(self.of_tasks(each.epilogue, each.runs[-1].segment))

    def of_tasks(self, tasks: tuple[Task, ...], segment: Segment | None = None) -> Rise:
        """Tasks of a segment, or of what surrounds those of a pass."""
        if id(tasks) not in self.walked:
            self.walked[id(tasks)] = self._rise(tasks, _buffers(segment) if segment else {})
        return self.walked[id(tasks)]

    def _rise(self, tasks: tuple[Task, ...], known: Mapping[str, Operand]) -> Rise:
        live, highest = 0, 0
        made: dict[str, int] = {}
        for task in tasks:
            for value in allocates(task):
                made[value.name] = self.size(value)
                live += made[value.name]
            highest = max(highest, live)
            for dying in task.frees:
                if isinstance(dying, Bucket):
                    live -= self.size(dying)
                else:
                    live -= made.pop(dying) if dying in made else self.size(known[dying])
        return Rise(live, highest)

    def size(self, value: Value) -> int:
        """Bytes of a buffer."""
        if id(value) not in self.sizes:
            self.sizes[id(value)] = _size(value, self.workload)
        return self.sizes[id(value)]


def _buffers(segment: Segment) -> dict[str, Operand]:
    """The buffers of a segment that are alive between its phases, or that it takes from its neighbours and hands on."""
    kept = [operand for operands in segment.kept.values() for operand in operands]
    ends = [operand for each in (segment.entering, segment.leaving) for operand in each.values() if operand]
    return {operand.name: operand for operand in (*ends, *kept)}


def _size(value: Value, workload: Workload) -> int:
    return one(num_bytes(value, workload.sizes))
