"""How long devices run kernels in a step, which no schedule changes: what their energy depends on beside the step."""

from __future__ import annotations

import numpy as np

from parsim.cost.sizes import Ints
from parsim.estimator.passes import Stages
from parsim.step.task import COMPUTE_STREAM, Compute


def busy_ps(stages: Stages) -> Ints:
    """Picoseconds in which the devices of a pipeline, one a rank, run kernels, all ranks together; one value a plan."""
    shape_of = stages.workload.shape_of
    found = np.zeros(len(shape_of), dtype=np.int64)
    for shape in range(len(stages.workload.shapes)):
        own = np.flatnonzero(shape_of == shape)
        found[own] = rank_busy_ps(stages.take(own)).sum(axis=0)
    return found


def rank_busy_ps(stages: Stages) -> Ints:
    """The same of plans with one pipeline, [rank, plan]."""
    w = stages.workload
    kernels = stages.table(lambda kind, phase: stages.charges(kind, phase).get("compute", stages.members[kind].plans * 0)).sum(axis=0)
    return np.asarray(w.shape.own @ kernels * w.micro_batches + _finish_ps(stages))


def _finish_ps(stages: Stages) -> Ints:
    """Of the end of the step, [rank, plan]."""
    w = stages.workload
    kernels = [task for task in w.step.finish if isinstance(task, Compute) and task.stream == COMPUTE_STREAM]
    return sum(map(stages.finish_ps, kernels), start=np.zeros((w.num_ranks, len(w.rows)), np.int64))
