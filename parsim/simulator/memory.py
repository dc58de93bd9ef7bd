"""The high-water mark of a rank: its whole step in issue order, allocation by allocation; each different pass is walked once."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from parsim.cost.buckets import Held, Role, lasting_elements, lasting_parts, lasting_weights, num_bytes, weight_elements
from parsim.cost.count import host_gradient_bytes, host_state_bytes, state_bytes
from parsim.cost.sizes import Ints, Sizes
from parsim.cost.workload import Workload
from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT, PACKED, QUANTISED
from parsim.simulator.program import Program, one
from parsim.step.finish import NORM
from parsim.step.step import Segment
from parsim.step.task import Bucket, Task, Value, allocates


class Rise(NamedTuple):
    """Bytes that some tasks leave behind, and the most that they reach, both counted from their start, [rank of a stage]."""

    net: Ints
    highest: Ints

    def then(self, other: Rise) -> Rise:
        """One after the other."""
        return Rise(self.net + other.net, np.maximum(self.highest, self.net + other.highest))

    def times(self, copies: int) -> Rise:
        """So many of them, one after the other."""
        return Rise(copies * self.net, np.maximum(0, (copies - 1) * self.net) + self.highest)


def peak_bytes(program: Program) -> tuple[int, ...]:
    """Most bytes alive at once on each pipeline rank, without the stack's overheads."""
    sizes = program.sizes_of_ranks
    lists = {id(run.tasks): run for each in program.passes for run in each.lists}
    of_list = {key: _rise(run.tasks, run.segment, sizes) for key, run in lists.items()}
    chains = ([of_list[id(run.tasks)].times(one(run.copies)) for run in each.lists] for each in program.passes)
    rises = np.array([functools.reduce(Rise.then, each, Rise(sizes.zero, sizes.zero)) for each in chains])
    net, highest = rises[program.pass_index].swapaxes(0, 1)  # [action, rank of a stage]
    starts = np.searchsorted(program.columns.rank, np.arange(program.workload.num_ranks))
    left = np.add.reduceat(net, starts)  # by passes for the step's end: gradients that do not last
    live = np.cumsum(net, axis=0) - net - (np.cumsum(left, axis=0) - left)[program.columns.rank]
    segments = {name: lasting_bytes(program.workload, name) for name in program.workload.step.segments}
    most = np.maximum.reduceat(live + highest, starts)
    lasting = [sum(one(copies) * segments[name] for name, copies in held.items()) for held in program.held]
    updates = [_finish_bytes(program.workload, held, live) for held, live in zip(program.held, left, strict=True)]
    peaks = (each + int(np.maximum(rise, end).max()) for each, rise, end in zip(lasting, most, updates, strict=True))
    return tuple(_size(NORM, program.workload) + each for each in peaks)


def _finish_bytes(workload: Workload, held: Held, live: Ints) -> Ints:
    """The most that is alive in a step's end, of what passes have left and its tasks bring to life."""
    highest = live
    for task in workload.step.finish:
        live = live + sum(one(num_bytes(value, workload.sizes, held)) for value in allocates(task))
        highest = np.maximum(highest, live)
        live = live - sum(one(num_bytes(value, workload.sizes, held)) for value in task.frees if isinstance(value, Bucket))
    return highest


def host_bytes(program: Program) -> tuple[int, ...]:
    """What each pipeline rank keeps on its host."""
    w = program.workload
    part = lasting_parts(w.step.structure)["optimizer"]
    each = host_state_bytes(w.step.structure, w.sizes) + host_gradient_bytes(w.step.structure, w.sizes)
    weights = {name: segment.trained_weights for name, segment in w.step.segments.items()}
    own = {name: each * sum(one(weight_elements(weight, part, w.sizes)) for weight in found) for name, found in weights.items()}
    return tuple(sum(one(copies) * own[name] for name, copies in held.items()) for held in program.held)


def num_trained(workload: Workload) -> int:
    """Elements of the weights that a device trains which has a whole model."""
    weights = {name: segment.trained_weights for name, segment in workload.step.segments.items()}
    own = {name: sum(one(weight_elements(each, "whole", workload.sizes)) for each in found) for name, found in weights.items()}
    return sum(one(copies) * own[name] for name, copies in workload.copies_on(0).items())


def lasting_bytes(workload: Workload, name: str) -> int:
    """Weights, gradients, optimizer state and scalars of one copy of a segment."""
    structure, sizes, segment = workload.step.structure, workload.sizes, workload.step.segments[name]
    itemsize: dict[Role, int] = {
        "parameters": sizes.itemsize_bytes[structure.parameter_role],
        "gradients": sizes.itemsize_bytes[GRADIENT],
        "narrow_gradients": sizes.itemsize_bytes[COMPUTE],
        "optimizer": state_bytes(structure, sizes),
        "packed": sizes.itemsize_bytes.get(PACKED, 0),
        "quantised": sizes.itemsize_bytes.get(QUANTISED, 0),
        "scales": sizes.itemsize_bytes[FLOAT32],
    }
    parts = lasting_parts(structure).items()
    layouts: dict[Role, int] = {"quantised": len(structure.lasting_layouts)}
    held = ((role, part, weight) for role, part in parts for weight in lasting_weights(segment.own_weights, role, structure))
    own = (layouts.get(role, 1) * (itemsize[role] * one(lasting_elements(weight, part, sizes))) for role, part, weight in held)
    return sum(own) + sum(_size(each, workload) for each in segment.sums)


def _rise(tasks: tuple[Task, ...], segment: Segment, sizes: Sizes) -> Rise:
    """Tasks of a segment in issue order; buffers may be alive before: from its other phases, its neighbours, or for them."""
    live = highest = sizes.zero
    made: dict[str, Value] = {value.name: value for value in segment.known}
    for task in tasks:
        new = allocates(task)
        made.update((value.name, value) for value in new)
        for value in new:
            live = live + num_bytes(value, sizes)
        highest = np.maximum(highest, live)
        for dying in task.frees:
            live = live - num_bytes(dying if isinstance(dying, Bucket) else made[dying], sizes)
    return Rise(live, highest)


def _size(value: Value, workload: Workload) -> int:
    return one(num_bytes(value, workload.sizes))
