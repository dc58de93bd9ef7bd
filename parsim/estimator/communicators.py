"""Which communicators a rank of a plan has, from the collectives and messages of its step, and what their buffers hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from parsim.cluster import nccl
from parsim.cost.sizes import Ints
from parsim.cost.timing import distance
from parsim.estimator.passes import Stages
from parsim.parallel.dimensions import EXPERT, axes_of, view_of
from parsim.parallel.group import Group
from parsim.parallel.plan import ALL_TO_ALL, PER_NODE
from parsim.step.step import Step
from parsim.step.task import Collective
from parsim.units import parse

# What one holds where nobody knows better.  Source: NVIDIA/nccl issue 964: 688 MB for a group of more than two of four A100.
_OTHERS_BYTES: Final = parse("688 MB", "bytes")
_OVER_MESSAGES: Final = {"all_to_all": nccl.CarriedTraffic(everybody=True), "shift": nccl.CarriedTraffic(neighbours=1)}


def communicator_bytes(stages: Stages) -> Ints:
    """Buffers of all communicators of a rank, one value a plan, on the kind of device that needs most; none where a stack says nothing.

    What the stack states is of one for each axis that is on, as is what is assumed of what stands in for NCCL on other devices.
    """
    w = stages.workload
    model, sizes, num_axes = w.model, w.sizes, len(w.step.structure.axes)
    stated, settings = model.stack.communicator_bytes, model.stack.nccl
    if stated is not None or not (settings and all(map(nccl.runs_on, model.cluster.kinds))):
        each = (_OTHERS_BYTES if settings else 0) if stated is None else stated
        return sizes.zero + int(each * num_axes)
    found = sizes.zero
    for group, use in communicators_of(w.step, model.stack.dispatch).items():
        ranks, stride = sizes.num_ranks(group), distance(group, sizes, model)
        found = found + np.max([nccl.buffer_bytes(each, use, ranks, stride, settings) for each in model.cluster.kinds], axis=0)
    return found


def communicators_of(step: Step, dispatch: str = ALL_TO_ALL) -> Mapping[Group, nccl.CarriedTraffic]:
    """The groups of a step, each with what its communicator carries; tokens that go by DeepEP or HybridEP (per_node) are not NCCL's.

    One of all ranks is there whatever the step does: a barrier before it makes that of torch.distributed's default group.

    Source: NVIDIA/Megatron-LM@d98e8a64, megatron/core/parallel_state.py, a process group for each of them, and
    megatron/training/initialize.py (torch.distributed.barrier).
    """
    structure = step.structure
    everybody = Group(tuple(axis for axis in structure.axes if axis not in axes_of(EXPERT)))
    found = {everybody: nccl.CarriedTraffic(frozenset({"all_reduce"}))} if everybody.axes else {}
    for group, use in _uses(step):
        if group.axes and not (use.everybody and dispatch == PER_NODE and view_of(group.axes) == EXPERT):
            before = found.get(group, nccl.CarriedTraffic())
            neighbours, every = max(before.neighbours, use.neighbours), before.everybody or use.everybody
            found[group] = nccl.CarriedTraffic(before.operations | use.operations, neighbours, every)
    return found


def _uses(step: Step) -> Iterator[tuple[Group, nccl.CarriedTraffic]]:
    structure = step.structure
    sums = nccl.CarriedTraffic(frozenset({"all_gather", "reduce_scatter"} if structure.zero_stage else {"all_reduce"}))
    if "pp" in structure.axes:
        yield Group(("pp",)), nccl.CarriedTraffic(neighbours=2)
    for segment in step.segments.values():
        yield from ((weight.group, sums) for weight in segment.trained_weights)
        for task in (task for tasks in segment.phases.values() for task in tasks if isinstance(task, Collective)):
            yield task.group, _of(task)
    yield from ((task.group, _of(task)) for task in step.finish if isinstance(task, Collective))


def _of(task: Collective) -> nccl.CarriedTraffic:
    return _OVER_MESSAGES.get(task.operation, nccl.CarriedTraffic(frozenset({task.operation})))
