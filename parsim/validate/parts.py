"""What a predicted step is made of, its compute by family of kernels: where to look when a prediction is far off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from parsim.cost.timing import task_price, task_ps
from parsim.cost.workload import Workload
from parsim.estimator.estimate import stages_of
from parsim.estimator.result import Estimate
from parsim.model.op_kinds import COSTS
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario
from parsim.step.program import section
from parsim.step.task import COMPUTE_STREAM, HOST, Compute, Launches, Task
from parsim.units import PS_PER_S

COMPUTED, REST = "compute", "other"  # the parts of a breakdown that are split
LAUNCHES: Final = "launches"


def step_parts(scenario: Scenario, plan: Plan, estimate: Estimate) -> dict[str, float]:
    """Seconds of the step by part, largest first; compute by gemm, attention, scan and elementwise, of the rest what waits for launches.

    Compute is split as the kernels of the critical rank take it one after another, so that what runs beside is in proportion.
    """
    workload = stages_of(scenario, plan).workload
    copies = workload.copies_on(estimate.critical_rank)
    sums: dict[str, float] = {}
    for segment in workload.step.segments:
        for name, seconds in _by_family(workload, estimate, segment):
            sums[name] = sums.get(name, 0.0) + seconds * int(copies.get(segment, 0))
    parts, waits = dict(estimate.breakdown_s), sums.pop(LAUNCHES, 0.0)
    if whole := sum(sums.values()):
        per_copy = parts.pop(COMPUTED, 0.0) / whole  # micro_batches, and what of kernels is hidden
        parts |= {name: per_copy * seconds for name, seconds in sums.items()}
        parts[LAUNCHES] = min(per_copy * waits, parts[REST])
        parts[REST] -= parts[LAUNCHES]
    return dict(sorted(parts.items(), key=lambda each: -each[1]))


def _by_family(workload: Workload, estimate: Estimate, segment: str) -> Iterator[tuple[str, float]]:
    """Seconds of kernels of a copy of a segment, and of launches beyond these, phase by phase."""
    for phase in workload.phases:
        tasks = section(workload.step, segment, phase)
        kernels = [task for task in tasks if isinstance(task, Compute) and task.stream != HOST]
        own = [(COSTS[task.kernel].family, _seconds(workload, estimate, task)) for task in kernels]
        yield from own
        for task in (each for each in tasks if isinstance(each, Launches)):
            beside = sum(seconds for _, seconds in own) if task.stream != COMPUTE_STREAM else 0.0  # kernels wait for the others
            yield LAUNCHES, max(0.0, _seconds(workload, estimate, task) - beside)


def _seconds(workload: Workload, estimate: Estimate, task: Task) -> float:
    model = workload.model.on(workload.node_of(estimate.critical_rank))
    if isinstance(task, Launches):
        return float(task_ps(task, workload.sizes, model)[0]) / PS_PER_S
    return float(task_price(task, workload.sizes, model).seconds[0])
