"""How long devices run kernels in a step, which no schedule changes: what their energy depends on beside the step."""

from __future__ import annotations

import numpy as np

from parsim.cost.shape import StageKind
from parsim.cost.sizes import Ints
from parsim.estimator.passes import Stages
from parsim.estimator.together import charged_more
from parsim.schedules.phase import Phase
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
    kernels = stages.table(lambda kind, phase: _kernels_ps(stages, kind, phase)).sum(axis=0)
    return np.asarray(w.shape.own @ kernels + charged_more(stages, "compute") + _finish_ps(stages))


def _kernels_ps(stages: Stages, kind: StageKind, phase: Phase) -> Ints:
    """Of a phase of a stage in a step, one value a member."""
    plans = stages.members[kind].plans
    each = ((stages.charges(kind, phase, closes=closes), times[plans]) for closes, times in stages.turns(phase))
    return sum((charges.get("compute", times * 0) * times for charges, times in each), start=plans * 0)


def _finish_ps(stages: Stages) -> Ints:
    """Of the end of the step, [rank, plan]; of replicas that train apart, of one in which they do not come together."""
    w = stages.workload
    kernels = [task for task in (w.step.quiet or w.step).finish if isinstance(task, Compute) and task.stream == COMPUTE_STREAM]
    return sum(map(stages.finish_ps, kernels), start=np.zeros((w.num_ranks, len(w.rows)), np.int64))
