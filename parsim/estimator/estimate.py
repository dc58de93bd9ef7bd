"""`estimate` for one plan with its reasons, `estimates` for arrays of plans: the same fold, the same arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from parsim.estimator.group import Group, groups_of
from parsim.estimator.memory import rank_memory
from parsim.estimator.pipeline import lower_bound, step_ps, timeline
from parsim.estimator.result import Estimate, Estimates
from parsim.estimator.totals import rank_flops, rank_hbm_bytes, rank_sent_bytes
from parsim.model.parameters import model_flops_per_token
from parsim.parallel.plan import Plan
from parsim.step.sizes import Ints
from parsim.step.timing import Market

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_PS_PER_S = 1e12


def group_of(scenario: Scenario, plan: Plan) -> Group:
    """One plan as arrays of length 1."""
    return _groups(scenario, [plan])[0][0]


def _groups(scenario: Scenario, plans: Sequence[Plan]) -> list[tuple[Group, list[int]]]:
    market = Market(scenario.cluster, scenario.stack, scenario.batch)
    return groups_of(scenario.model, market, plans, scenario.itemsize_bytes)


def estimate(scenario: Scenario, plan: Plan | str) -> Estimate:
    """The predicted step time, memory and their reasons of one plan.

    Raises:
        ScenarioError: the scenario has no plan of that name.
    """
    name = plan if isinstance(plan, str) else "plan"
    chosen = scenario.plan(plan) if isinstance(plan, str) else plan
    group = group_of(scenario, chosen)
    line = timeline(group)
    step_s = float(line.step_ps[0]) / _PS_PER_S
    ranks = range(group.num_ranks)
    critical = max(ranks, key=lambda r: (int(line.charges[r]["compute"][0]), -r))
    memory = [rank_memory(group, rank).parts() for rank in ranks]
    flops = tuple(rank_flops(group, rank) for rank in ranks)
    tokens = scenario.batch.global_batch * scenario.batch.sequence_length
    peak = scenario.cluster.node.accelerator.peak(scenario.batch.dtype) * chosen.num_devices * step_s
    useful = model_flops_per_token(scenario.model, scenario.batch.sequence_length)
    replicas = int(group.sizes.degrees["dp"][0])
    alike = chosen.num_devices // (group.num_ranks * replicas)
    first, other = (sum(rank_flops(group, rank, dp) for rank in ranks) for dp in (0, 1))  # with a master, the first alone updates
    executed = alike * (first + (replicas - 1) * other)
    return Estimate(
        name=name,
        plan=chosen,
        step_s=step_s,
        tokens_per_s=tokens / step_s,
        tokens_per_s_per_device=tokens / step_s / chosen.num_devices,
        mfu=useful[0] * tokens / peak,
        mfu_causal=useful[1] * tokens / peak,
        hfu=executed / peak,
        breakdown_s={key: float(ps[0]) / _PS_PER_S for key, ps in line.charges[critical].items()},
        critical_rank=critical,
        memory_bytes=tuple({part: int(value[0]) for part, value in parts.items()} for parts in memory),
        capacity_bytes=scenario.cluster.node.accelerator.hbm_capacity_bytes,
        flops=flops,
        hbm_bytes=tuple(rank_hbm_bytes(group, rank) for rank in ranks),
        sent_bytes=tuple(rank_sent_bytes(group, {**dict.fromkeys(group.sizes.degrees, 0), "pp": rank}) for rank in ranks),
        layers=tuple(int(n[0]) for n in group.layers),
        num_micro_batches=group.num_micro_batches,
    )


def estimates(scenario: Scenario, plans: Sequence[Plan]) -> Estimates:
    """Step time and peak memory of many plans; each equals `estimate` of that plan alone."""
    return _priced(scenario, plans, step_ps)


def bounds(scenario: Scenario, plans: Sequence[Plan]) -> Estimates:
    """As `estimates`, with a lower bound of the step time that needs no walk through the schedule, for a search to prune by."""
    return _priced(scenario, plans, lower_bound)


def _priced(scenario: Scenario, plans: Sequence[Plan], fold: Callable[[Group], Ints]) -> Estimates:
    step_s, peak_bytes = np.zeros(len(plans)), np.zeros(len(plans), dtype=np.int64)
    for group, indices in _groups(scenario, plans):
        step_s[indices] = fold(group) / _PS_PER_S
        peak_bytes[indices] = np.max([rank_memory(group, rank).total for rank in range(group.num_ranks)], axis=0)
    return Estimates(tuple(plans), step_s, peak_bytes, scenario.cluster.node.accelerator.hbm_capacity_bytes)
