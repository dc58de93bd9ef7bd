"""The host launches a kernel for each expert of a rank, and where it waits for their loads, kernels wait for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parsim.estimator.estimate import estimate, stages_of
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import Phase
from parsim.step.program import section
from parsim.step.task import COMPUTE_STREAM, Launches
from parsim.verify import verify_plan
from support import MOE, STACK, scenario

HOST_S = 1e-6
WAITS = replace(STACK, waits_for_loads=True, host_launch_s=HOST_S)
SPREAD = Plan(data_parallel=2, expert_parallel=2)


def launches(plan: Plan, phase: Phase) -> tuple[Launches, int]:
    """Those of a layer of experts, with their microseconds."""
    workload = stages_of(scenario(model=MOE, batch=Batch(8, 8), stack=WAITS), plan).workload
    (found,) = (task for task in section(workload.step, "expert_layer", phase) if isinstance(task, Launches))
    return found, int(workload.ps(found)[0]) // 10**6


@pytest.mark.parametrize(("phase", "matmuls"), [(Phase.F, 3), (Phase.B, 6)])
def test_each_expert_of_a_rank_is_a_launch_of_each_of_their_matmuls(phase: Phase, matmuls: int) -> None:
    for plan, experts in ((Plan(), 4), (SPREAD, 2)):
        found, microseconds = launches(plan, phase)
        assert found.of_experts == matmuls and found.stream == COMPUTE_STREAM
        assert microseconds == found.count + matmuls * experts


def test_a_layer_takes_as_much_longer_as_its_launches_and_all_readers_agree() -> None:
    """One layer, one micro_batch: ends of the model, which launch beside their kernels, are slow enough to hide it."""
    one = replace(MOE, num_layers=1, num_dense_layers=0)
    prices = [
        estimate(scenario(model=one, batch=Batch(1, 8), stack=replace(WAITS, host_launch_s=host)), Plan()).step_s for host in (0, 1e-9)
    ]
    added = sum(launches(Plan(), phase)[1] for phase in (Phase.F, Phase.B))
    assert prices[1] - prices[0] == pytest.approx(added * 1e-9, rel=1e-6)
    case = scenario(model=MOE, batch=Batch(8, 8), stack=WAITS)
    assert not [str(each) for each in verify_plan(case, replace(SPREAD, zero_stage=1), "toy") if not each.ok]
