"""Precision as an axis: plans of several rank in one table, each as the batch that trains in it alone would have it."""

from __future__ import annotations

from functools import cache

import pytest
from msgspec.structs import replace

import parsim
from parsim import estimate, execute, simulate
from parsim.errors import PlanError
from parsim.estimator.result import Estimate
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.planner import size
from parsim.planner.space import candidates
from parsim.report.results import cannot_run
from parsim.scenario import PlanSpace, Scenario
from support import CLUSTER, GPT, NODE, STACK, scenario

PEAKS = {"bf16": 2e9, "fp8": 5e9, "mxfp8": 3e9}  # FLOP/s: slow enough for matmuls to count
DEVICE = replace(NODE.accelerator, peak_flops_per_s=PEAKS)
TRAINS_LOW = replace(STACK, fp8="fp8_delayed", precisions=("fp8_delayed", "fp8_current", "fp8_blockwise", "mxfp8"))
NAMES = ("bf16", "fp8_current", "mxfp8")
AXES = PlanSpace("a", {"precision": NAMES, "tensor_parallel": ("auto",), "micro_batch": (1, 2)})


def toy(stack: Stack = TRAINS_LOW, dtype: str = "bf16") -> Scenario:
    cluster = replace(CLUSTER, num_nodes=2, node=replace(NODE, accelerator=DEVICE))
    return scenario(model=GPT, batch=Batch(16, 8, dtype), cluster=cluster, stack=stack)


def in_batch(chosen: Scenario, plan: Plan) -> tuple[Scenario, Plan]:
    """The same without a plan that states a precision."""
    batch = chosen.batch if plan.precision is None else replace(chosen.batch, dtype=plan.precision)
    return replace(chosen, batch=batch), replace(plan, precision=None)


@cache
def every() -> dict[Plan, Estimate]:
    """All plans, each priced by the batch of its precision; no mutant below changes an estimate of a plan that states none."""
    chosen = toy()
    return {each: estimate(*in_batch(chosen, each)) for each in candidates(chosen, AXES).plans}


def faults_of_a_ranking(objective: str) -> list[str]:
    """What differs from pricing every plan by the batch of its precision."""
    chosen = toy()
    found = parsim.plan(chosen, space=AXES, top=None, objective=objective, contention=False)
    key = {"step_time": lambda each: each.step_s, "mfu": lambda each: -each.mfu}[objective]
    best = [key(each) for each in sorted(every().values(), key=key)]
    alone = [replace(every()[row.plan], name=row.name, plan=row.plan) for row in found.rows]
    wrong = {"order": [key(row) for row in found.rows] != best, "figures": [*found.rows] != alone}
    return [name for name, is_wrong in wrong.items() if is_wrong]


@pytest.mark.parametrize("objective", ["step_time", "mfu"])
def test_the_ranking_of_several_precisions_is_that_of_pricing_each_alone(objective: str) -> None:
    assert not faults_of_a_ranking(objective)


def test_plans_that_all_train_in_the_precision_of_the_batch_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scenario, "trained_by", lambda scenario, plan: scenario)
    assert faults_of_a_ranking("step_time") == ["order", "figures"]


def test_mfu_of_two_precisions_by_the_step_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parsim.planner.objectives.peak_beside", lambda scenario, precision: 1.0)
    assert faults_of_a_ranking("mfu") == ["order"]


@pytest.mark.parametrize("plan", [Plan(precision="fp8_current", tensor_parallel=2), Plan(precision="mxfp8", data_parallel=2, zero_stage=1)])
def test_a_plan_in_a_precision_runs_as_a_batch_in_it(plan: Plan) -> None:
    chosen = toy()
    chosen = replace(chosen, batch=replace(chosen.batch, global_batch=4))
    other, bare = in_batch(chosen, plan)
    assert simulate(chosen, plan).step_ps == simulate(other, bare).step_ps != simulate(chosen, bare).step_ps
    assert execute(chosen, plan).losses == execute(other, bare).losses != execute(chosen, bare).losses


def test_auto_is_what_stack_and_accelerator_can_and_nothing_is_varied_unasked() -> None:
    chosen = toy()
    auto = candidates(chosen, PlanSpace("a", {"precision": ("auto",)})).plans
    assert {each.precision for each in auto} == {"bf16", "fp8_delayed", "fp8_current", "mxfp8"}  # no peak for fp8_block
    assert {each.precision for each in candidates(toy(STACK), PlanSpace("a", {"precision": ("auto",)})).plans} == {"bf16"}
    assert {each.precision for each in candidates(chosen).plans} == {None}


def test_fp8_is_what_the_stack_means_and_the_batch_own_precision_is_the_same_plan() -> None:
    found = candidates(toy(), PlanSpace("a", {"precision": ("bf16", "fp8", "fp8_delayed")})).plans
    assert [each.precision for each in found] == ["bf16", "fp8_delayed"]
    assert len(candidates(replace(toy(), plans={"mine": Plan(data_parallel=8)}), PlanSpace("a", {"precision": ("bf16",)})).plans) == 1


def test_what_the_accelerator_or_the_stack_cannot_is_said() -> None:
    chosen = toy()
    with pytest.raises(PlanError, match=r"precision = nvfp4 multiplies nvfp4, for which the accelerator has no peak\. Legal: bf16"):
        candidates(chosen, PlanSpace("a", {"precision": ("nvfp4",)}))
    with pytest.raises(PlanError, match="unknown dtype 'fp9'; known: fp32"):
        parsim.plan(chosen, space={"precision": ["fp9"]})
    only = replace(chosen, stack=replace(TRAINS_LOW, name="mine", precisions=("mxfp8",)))
    assert cannot_run(only, Plan(precision="fp8_current")) == "mine does not train in fp8_current, but in mxfp8"
    assert not cannot_run(chosen, Plan(precision="fp8_current"))


def test_layers_that_all_stay_wide_have_the_mfu_of_their_own_peak() -> None:
    chosen, plan = toy(dtype="fp8_current"), Plan(data_parallel=8)
    wide = replace(chosen, batch=replace(chosen.batch, num_layers_at_start_in_bf16=GPT.num_layers))
    one = replace(wide, batch=replace(wide.batch, num_layers_at_start_in_bf16=1))
    useful = [each.mfu * each.step_s for each in (estimate(case, plan) for case in (wide, toy(), one, chosen))]
    ratio = PEAKS["fp8"] / PEAKS["bf16"]  # of the same FLOPs
    assert useful == pytest.approx([useful[0], useful[0], useful[0] / ratio, useful[0] / ratio], rel=1e-12)


def test_fewer_devices_are_looked_at_where_a_faster_precision_may_be() -> None:
    asked = replace(toy(), total_tokens=16 * 8 * 100)
    slow = size(asked, within="1 h", space={"precision": "bf16"}, most_devices=32)
    both = size(asked, within="1 h", space={"precision": ["bf16", "fp8_current"]}, most_devices=32)
    assert both.rows[0].num_devices <= slow.rows[0].num_devices
