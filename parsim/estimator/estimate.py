"""`estimate` for one plan with its reasons, `estimates` for arrays of plans: the same fold, the same arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from parsim.cost.cost_model import CostModel
from parsim.cost.sizes import Ints
from parsim.cost.workload import Workload, workloads_of
from parsim.estimator.host import host_memory
from parsim.estimator.lists import Measures
from parsim.estimator.memory import rank_memory
from parsim.estimator.passes import Stages
from parsim.estimator.pipeline import lower_bound, step_ps, timeline
from parsim.estimator.result import Estimate, Estimates
from parsim.estimator.totals import Totals, device_totals
from parsim.model.dims import MATMUL
from parsim.model.parameters import model_flops_per_token
from parsim.parallel.plan import Plan
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import Scenario


def stages_of(scenario: Scenario, plan: Plan) -> Stages:
    """The stages of one plan, as arrays of length 1."""
    ((workload, _),) = _workloads(scenario, [plan])
    return Stages.of(workload, Measures(workload.prices))


def _workloads(scenario: Scenario, plans: Sequence[Plan]) -> list[tuple[Workload, list[int]]]:
    model = CostModel(scenario.cluster, scenario.stack, scenario.batch)
    return workloads_of(scenario.model, model, plans, scenario.itemsize_bytes)


def estimate(scenario: Scenario, plan: Plan | str) -> Estimate:
    """The predicted step time, memory and their reasons of one plan.

    Raises:
        ScenarioError: the scenario has no plan of that name.
    """
    name = plan if isinstance(plan, str) else "plan"
    chosen = scenario.plan(plan) if isinstance(plan, str) else plan
    stages = stages_of(scenario, chosen)
    line = timeline(stages)
    step_s = line.step_ps / PS_PER_S
    totals = device_totals(stages)
    tokens = scenario.batch.global_batch * scenario.batch.sequence_length
    multiplied_in = stages.workload.model.multiplies_in(MATMUL)
    peak = scenario.cluster.node.accelerator.peak(multiplied_in) * chosen.num_devices * step_s
    useful = model_flops_per_token(scenario.model, scenario.batch.sequence_length)
    return Estimate(
        name=name,
        plan=chosen,
        step_s=step_s,
        tokens_per_s=tokens / step_s,
        tokens_per_s_per_device=tokens / step_s / chosen.num_devices,
        mfu=useful[0] * tokens / peak,
        mfu_causal=useful[1] * tokens / peak,
        hfu=(useful[0] * tokens + _again_flops(stages, totals, chosen.num_devices)) / peak,
        breakdown_s={key: ps / PS_PER_S for key, ps in line.charges.items()},
        critical_rank=line.critical_rank,
        memory_bytes=rank_memory(stages).of_plan(0),
        capacity_bytes=scenario.cluster.node.accelerator.hbm_capacity_bytes,
        host_memory_bytes=host_memory(stages).of_plan(0) if stages.workload.step.structure.uses_host else {},
        host_capacity_bytes=scenario.cluster.node.host_memory_bytes,
        flops=tuple(each.flops for each in totals),
        hbm_bytes=tuple(each.hbm_bytes for each in totals),
        sent_bytes=tuple(each.sent_bytes for each in totals),
        layers=tuple(int(n[0]) for n in stages.workload.layers),
        num_micro_batches=stages.workload.num_micro_batches,
    )


def _again_flops(stages: Stages, totals: Sequence[Totals], num_devices: int) -> int:
    """Recomputed FLOPs of all devices; where a table deals out unevenly, those of all its places."""
    sizes = stages.workload.sizes
    axes = sorted({axis for _, axis in sizes.tables})
    if axes:
        places = product(*(range(int(sizes.degrees[axis][0])) for axis in axes))
        totals = [each for place in places for each in device_totals(stages, dict(zip(axes, place, strict=True)))]
    return num_devices // len(totals) * sum(each.again_flops for each in totals)


def estimates(scenario: Scenario, plans: Sequence[Plan]) -> Estimates:
    """Step time and peak memory of many plans; each equals `estimate` of that plan alone."""
    return _evaluate(scenario, plans, step_ps)


def bounds(scenario: Scenario, plans: Sequence[Plan]) -> Estimates:
    """As `estimates`, with a lower bound of the step time that needs no walk through the schedule, for a search to prune by."""
    return _evaluate(scenario, plans, lower_bound)


def _evaluate(scenario: Scenario, plans: Sequence[Plan], fold: Callable[[Stages], Ints]) -> Estimates:
    step_s, (peak_bytes, host_bytes) = np.zeros(len(plans)), np.zeros((2, len(plans)), dtype=np.int64)
    measures: dict[int, Measures] = {}  # by identity of the prices, which they hold
    for workload, indices in _workloads(scenario, plans):
        stages = Stages.of(workload, measures.setdefault(id(workload.prices), Measures(workload.prices)))
        step_s[indices] = fold(stages) / PS_PER_S
        peak_bytes[indices] = rank_memory(stages).total.max(axis=0)
        if workload.step.structure.uses_host:
            host_bytes[indices] = host_memory(stages).total
    node = scenario.cluster.node
    return Estimates(tuple(plans), step_s, peak_bytes, node.accelerator.hbm_capacity_bytes, host_bytes, node.host_memory_bytes)
