"""How long devices run kernels: as events have it, whatever the schedule, and what is charged to kernels in a breakdown."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from parsim import estimate
from parsim.estimator.busy import busy_ps
from parsim.estimator.estimate import Priced
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.plans import Plans
from parsim.scenario import Scenario
from parsim.simulator.run import simulate
from support import CLUSTER, GPT, MOE, NODE, STACK, scenario

PLANS = {
    "replicas": Plan(data_parallel=8),
    "pipeline": Plan(data_parallel=2, pipeline_parallel=4),
    "chunks": Plan(data_parallel=2, pipeline_parallel=4, virtual_pipeline=2, schedule="interleaved_1f1b"),
    "tensor": Plan(data_parallel=2, pipeline_parallel=2, tensor_parallel=2, sequence_parallel=True, recompute="full"),
    "sharded": Plan(data_parallel=4, pipeline_parallel=2, zero_stage=1),
    "uneven": Plan(data_parallel=2, pipeline_parallel=4, layers_per_stage=(1, 2, 3, 2)),
}


def toy(overlap: bool) -> Scenario:
    stack = replace(STACK, tensor_overlap=overlap, gradient_overlap=overlap)
    return scenario(model=replace(GPT, num_layers=8), batch=Batch(16, 8), cluster=replace(CLUSTER, num_nodes=2), stack=stack)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_devices_are_busy_as_long_as_the_kernels_of_a_simulation_run(name: str, overlap: bool) -> None:
    trace = simulate(toy(overlap), PLANS[name], spans=True)
    kernels = [0] * PLANS[name].pipeline_parallel
    for span in trace.spans:
        if span.stream == "compute" and ":" not in span.name:  # a collective that compute waits for is GROUP:NAME
            kernels[span.rank] += span.end_ps - span.start_ps
    found = estimate(toy(overlap), PLANS[name])
    assert [round(each * 1e12) for each in found.busy_s] == kernels
    charged = found.breakdown_s["compute"] + found.breakdown_s["optimizer"]
    assert found.busy_s[found.critical_rank] == pytest.approx(charged, rel=1e-12)


def test_of_many_plans_it_is_that_of_each_alone() -> None:
    chosen = toy(overlap=True)
    many = Priced(chosen, Plans.of([*PLANS.values()])).figures(busy_ps)[0]
    alone = [sum(estimate(chosen, each).busy_s) * 1e12 for each in PLANS.values()]
    assert many.tolist() == pytest.approx(alone, rel=1e-12)


def test_no_schedule_changes_it() -> None:
    chosen = toy(overlap=False)
    plans = [replace(PLANS["pipeline"], schedule=name) for name in ("1f1b", "gpipe")]
    assert len(set(Priced(chosen, Plans.of(plans)).figures(busy_ps)[0].tolist())) == 1
    steps = [estimate(chosen, each) for each in plans]
    assert np.ptp([each.busy_s[0] for each in steps]) == 0


def test_the_critical_rank_computes_or_communicates_longest() -> None:
    """Behind a stage that computes more, one waits longer for exchanges of its experts: it is busy, and the other waits for it."""
    model = replace(MOE, ffn_hidden_size=128, vocab_size=8)
    slow = replace(CLUSTER, node=replace(NODE, law=replace(NODE.law, ring_bytes_per_s=1e5)))
    chosen = scenario(model=model, batch=Batch(128, 8), cluster=slow)
    plan = Plan(data_parallel=2, pipeline_parallel=2, expert_parallel=2)
    found, trace = estimate(chosen, plan), simulate(chosen, plan, spans=True)
    own = [[span for span in trace.spans if span.rank == rank and span.stream == "compute"] for rank in (0, 1)]
    busy = [sum(span.end_ps - span.start_ps for span in spans if not span.name.startswith("pp:")) for spans in own]
    computes = [sum(span.end_ps - span.start_ps for span in spans if ":" not in span.name) for spans in own]
    assert computes[0] > computes[1] and busy[0] < busy[1]
    assert found.critical_rank == 1 and sum(found.breakdown_s.values()) == pytest.approx(found.step_s, rel=1e-12)
    idle = found.breakdown_s["bubble"] + found.breakdown_s["exposed_pp"]
    assert idle == pytest.approx(found.step_s - busy[1] / 1e12, rel=1e-9)
