"""A plan too large to execute is verified by a small one in which every axis that was on is on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from made_up import registered
from parsim.errors import ParsimError
from parsim.parallel.dimensions import degrees
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import Scenario
from parsim.verify import shrink, verify_plan
from support import GPT, MOE, scenario


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with registered(tmp_path, monkeypatch) as name:
        yield name


def likeness(chosen: Scenario, plan: Plan) -> Plan:
    small = shrink.shrunk(chosen, plan)
    of = small.scenario
    assert small.was_shrunk
    assert not faults(small.plan, of.model, of.batch, small.plan.num_devices, stack=of.stack)
    on, still = ({axis for axis, degree in degrees(each).items() if degree > 1} for each in (plan, small.plan))
    assert on <= still
    return small.plan


def test_hsdp_keeps_two_groups_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    large, plan = scenario(batch=Batch(64, 8)), Plan(data_parallel=64, zero_stage=3, zero_group=8)
    assert likeness(large, plan) == replace(plan, data_parallel=4, zero_group=2)
    monkeypatch.setattr(shrink, "_replicas", lambda plan, most: {"data_parallel": 2})  # the mutant: the groups stay
    with pytest.raises(ParsimError):
        likeness(large, plan)


@pytest.mark.parametrize("stages", [1, 4])
def test_layers_in_bf16_are_kept_at_either_end_beside_one_of_lower_precision(stages: int) -> None:
    batch = Batch(64, 8, "fp8_current", num_layers_at_start_in_bf16=3, num_layers_at_end_in_bf16=3)
    large = scenario(model=replace(GPT, num_layers=32), batch=batch)
    likeness(large, plan := Plan(data_parallel=64, pipeline_parallel=stages))
    small = shrink.shrunk(large, plan).scenario
    assert [name for name, _ in small.batch.layout(small.model)] == ["embedding", "wide_layer", "layer", "wide_layer", "head"]


BOTH = {"expert_parallel": 8, "expert_tensor_parallel": 2}
MANY = replace(MOE, num_experts=64)
EXPERTS = {  # a plan, and the replicas and tensor-parallel ranks of its likeness
    "some of many replicas": (Plan(data_parallel=64, expert_parallel=8), 4, 1),
    "all of two replicas": (Plan(data_parallel=64, expert_parallel=64), 2, 1),
    "both ways": (Plan(data_parallel=64, zero_stage=3, **BOTH), 8, 1),
    "all of a stage": (Plan(data_parallel=16, tensor_parallel=4, expert_parallel=64), 2, 2),
    "some of a stage": (Plan(data_parallel=16, tensor_parallel=4, expert_parallel=16), 2, 2),
    "no replicas": (Plan(tensor_parallel=32, **BOTH), 1, 8),
    "too few replicas": (Plan(data_parallel=2, tensor_parallel=16, **BOTH), 2, 4),
    "three replicas": (Plan(data_parallel=3, tensor_parallel=16, **BOTH), 2, 4),
}


@pytest.mark.parametrize(("plan", "replicas", "tensor_parallel"), EXPERTS.values(), ids=EXPERTS)
def test_experts_get_the_ranks_that_they_need(plan: Plan, replicas: int, tensor_parallel: int) -> None:
    small = likeness(scenario(model=MANY, batch=Batch(96, 8)), plan)
    assert (small.data_parallel, small.tensor_parallel) == (replicas, tensor_parallel)
    assert (small.expert_parallel, small.expert_tensor_parallel) == (2, min(plan.expert_tensor_parallel, 2))


def test_a_likeness_of_experts_is_executed_as_predicted() -> None:
    plan, _, _ = EXPERTS["some of many replicas"]
    small = shrink.shrunk(scenario(model=MANY, batch=Batch(64, 8)), plan)
    assert small.scenario.model.layout == (("embedding", 1), ("expert_layer", 1), ("head", 1))
    assert not [check for check in verify_plan(small.scenario, small.plan, "small") if not check.ok]


def test_what_a_dimension_of_ones_own_cuts_is_wide_enough() -> None:
    plan = Plan(data_parallel=2, tensor_parallel=4, dimensions=(("ffn_parallel", 4), ("sample_parallel", 4)))
    assert likeness(scenario(batch=Batch(64, 8)), plan) == replace(
        plan, tensor_parallel=2, dimensions=(("ffn_parallel", 2), ("sample_parallel", 2))
    )


def test_a_mutant_that_leaves_experts_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(data_parallel=64, expert_parallel=8)
    right = replace
    monkeypatch.setattr(shrink, "replace", lambda of, **new: right(of, **{key: new[key] for key in new if key != "expert_parallel"}))
    with pytest.raises(AssertionError):
        likeness(scenario(model=MANY, batch=Batch(64, 8)), plan)
