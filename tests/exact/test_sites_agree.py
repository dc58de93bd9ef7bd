"""Plans over sites: all readers agree, and a step across a sea takes as much longer as its messages are on their way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim.cluster import Link
from parsim.estimator import pipeline
from parsim.parallel.plan import Batch, Plan
from parsim.verify import verify_plan
from support import CLUSTER, MOE, STACK, STACKS, enough, forget_steps, scenario, tiered

SEA = Link("sea", 2e6, 3e-4)
OVER_SITES = replace(CLUSTER, num_sites=16, site_link=SEA)  # of 4 devices each
ACROSS = {
    "dp": {"data_parallel": 8},
    "pp": {"pipeline_parallel": 4, "tensor_parallel": 2},
    "straddling": {"pipeline_parallel": 3, "data_parallel": 2, "layers_per_stage": (1, 2, 1)},
    "vpp": {"pipeline_parallel": 2, "virtual_pipeline": 2, "data_parallel": 4, "schedule": "interleaved_1f1b"},
    "hsdp": {"data_parallel": 8, "zero_group": 4, "zero_stage": 1},
    "dual": {"pipeline_parallel": 2, "virtual_pipeline": 2, "data_parallel": 4, "schedule": "dual_pipe_v"},
    "cp": {"context_parallel": 2, "tensor_parallel": 4, "context_kind": "ring", "rank_order": "tp-dp-pp"},
    "zb": {"pipeline_parallel": 4, "data_parallel": 2, "schedule": "zero_bubble_h2"},
}


def over(name: str, **others: Any) -> tuple[parsim.Scenario, Plan]:
    plan = Plan(**ACROSS[name])  # type: ignore[arg-type]
    return scenario(batch=enough(plan), cluster=OVER_SITES, **others), plan


@pytest.mark.parametrize("name", [tiered(name, name, slow=name not in ("dp", "pp")) for name in ACROSS])
def test_readers_agree_on_a_plan_over_sites(name: str) -> None:
    stack = STACKS[2 if name == "cp" else 1]  # a ring needs flash attention
    assert [check for check in verify_plan(*over(name, stack=stack), name) if not check.ok] == []


@pytest.mark.slow
def test_readers_agree_on_experts_over_sites() -> None:
    plan = Plan(data_parallel=8, expert_parallel=4, expert_tensor_parallel=2)
    for dispatch in ("all_to_all", "per_node"):
        chosen = scenario(model=MOE, batch=enough(plan), cluster=OVER_SITES, stack=replace(STACK, dispatch=dispatch))
        assert [check for check in verify_plan(chosen, plan, "experts") if not check.ok] == []


def test_a_step_of_one_micro_batch_waits_for_the_sea_as_often_as_messages_follow_one_another_over_it() -> None:
    plan = Plan(pipeline_parallel=4, tensor_parallel=2)  # of 8 devices: stages 1 and 2 lie in different sites

    def step_ps(latency_s: float) -> int:
        cluster = replace(OVER_SITES, site_link=replace(SEA, latency_s=latency_s))
        return parsim.simulate(scenario(batch=Batch(1, 8), cluster=cluster), plan).step_ps

    # Forward and backward; the sum of the tied embedding's gradients, there and back; that of the norm.
    assert step_ps(0.75) - step_ps(0.25) == (2 + 2 + 2) * 500_000_000_000


def test_messages_that_do_not_know_of_sites_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()
    monkeypatch.setattr(
        pipeline,
        "stages_that_leave_sites",
        lambda cluster, shape, phases, sizes: np.zeros((len(phases), shape.num_stages, 1), dtype=np.int64),
    )
    red = {check.quantity for check in verify_plan(*over("pp"), "wrong") if not check.ok}
    forget_steps()
    assert "picoseconds, estimate and simulate" in red
