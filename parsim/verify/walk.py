"""What the tasks of a rank's step say by themselves: the bytes that each kernel moves, and buffers that are freed behind their last use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from msgspec.structs import replace

from parsim.cost import count
from parsim.cost.workload import Workload
from parsim.schedules.phase import Phase
from parsim.step.program import Run
from parsim.step.task import COMPUTE_STREAM, Bucket, Compute, Hold, Operand, reads, writes


def moved_bytes(workload: Workload, at: Mapping[str, int]) -> Counter[str]:
    """HBM bytes by kernel of the rank at a place, in a step in which nothing is fused; numbers that are drawn are no kernel's."""
    total, sizes, held = Counter[str](), workload.sizes.at(at), workload.copies_on(at["pp"])
    for _, run, repeats in _lists(workload, at["pp"]):
        for task in run.tasks:
            if isinstance(task, Compute) and task.kernel != "draw":
                total[task.kernel] += repeats * int(count.hbm_bytes(replace(task, fused=False), sizes)[0])
    for task in workload.step.finish:
        alone = getattr(task, "alone", None)
        if isinstance(task, Compute) and task.stream == COMPUTE_STREAM and not (alone and any(at[axis] for axis in alone.axes)):
            total[task.kernel] += int(count.hbm_bytes(task, sizes, held)[0])
            # Each weight's call also reads the norm of all, or adds to it.
            scalars = [each for each in (*task.inputs, *task.outputs * (1 + task.accumulate)) if isinstance(each, Operand)]
            calls = sum(int(np.ravel(held.get(segment, 0))[0]) for segment, _ in _bucket(task).weights)
            total[task.kernel] += calls * sum(int(sizes.num_bytes(each)[0]) for each in scalars)
    return total


def late_frees(workload: Workload, rank: int) -> list[str]:
    """Frees by a task that does not use the buffer, so that an earlier one was the last to; and of parameters behind their own segment."""
    found = []
    for phase, run, _ in _lists(workload, rank):
        for task in run.tasks:
            used = {*reads(task), *writes(task)}
            for freed in task.frees:
                behind = isinstance(freed, Bucket) and any(name != run.segment.name for name, _ in freed.weights)
                is_late = (
                    behind and freed != getattr(task, "source", None)
                    if isinstance(freed, Bucket)
                    else freed not in used and not isinstance(task, Hold)
                )
                found += [f"{task.name} in {run.segment.name} {phase} frees {getattr(freed, 'name', freed)}"] * is_late
    return found


def _lists(workload: Workload, rank: int) -> Iterator[tuple[Phase, Run, int]]:
    """The task lists of a pipeline rank, each with its phase and how often a step walks it."""
    for stage in workload.stages(rank):
        for phase in workload.phases:
            for closes in (False, True) if phase.accumulates else (False,):
                times = 1 if closes else workload.num_micro_batches - phase.accumulates
                for run in workload.pass_of(stage, phase, closes=closes).lists:
                    yield phase, run, times * int(run.copies)


def _bucket(task: Compute) -> Bucket:
    bucket = count.bucket_of(task)
    assert bucket
    return bucket
