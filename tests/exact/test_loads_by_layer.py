"""Layers whose experts have loads of their own keep the contract, and each rank is told what it does in all of them together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim.cost.sizes import Sizes
from parsim.estimator import totals
from parsim.estimator.estimate import estimate, estimates, stages_of
from parsim.estimator.memory import counted_peak_bytes
from parsim.executor.run import Execution, execute
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan
from parsim.planner.space import candidates
from parsim.scenario import PlanSpace, Scenario
from parsim.simulator import simulate
from parsim.step import loads, lower
from parsim.verify import shrink, verify_plan
from support import CLUSTER, MOE, STACKS, forget_steps, scenario, tiered

ROWS = ((40.0, 20.0, 10.0, 10.0), (1.0, 2.0, 3.0, 10.0), (10.0, 1.0, 1.0, 4.0))  # the first two ranks of four lead in one layer each
MODEL = replace(MOE, num_layers=4, load_shares=ROWS)  # a dense layer, and three with experts
TWICE = replace(MODEL, num_layers=8, num_dense_layers=0, load_shares=(*ROWS, *ROWS[::-1], ROWS[0], ROWS[0]))
EP = {"data_parallel": 2, "expert_parallel": 2}
MODELS: dict[str, TransformerSpec] = {
    "three loads": MODEL,
    "every second layer": replace(MODEL, num_layers=6, num_dense_layers=0, expert_layer_every=2),
    "loads twice": TWICE,
    "drawn": replace(MODEL, load_shares=(), load_skew=0.8, load_seed=3),
    "one is even": replace(MODEL, load_shares=((1.0, 1.0, 1.0, 1.0), *ROWS[1:])),
    "dropped": replace(MODEL, capacity_factor=1.0, balance_coefficient=0.01),
    "padded": replace(MODEL, capacity_factor=1.25, pad_to_capacity=True, drop_policy="probs"),
    "steered": replace(MODEL, steer_rate=0.1),
    "groups": replace(MODEL, expert_groups=2, groups_per_token=1),
    "biases": replace(MODEL, bias=True, shared_ffn_hidden_size=0),
    "a later token": replace(MODEL, mtp_layers=1, tied_embedding=False),
}
PLANS: dict[str, dict[str, object]] = {
    "ep": EP,
    "ep 4": {"data_parallel": 4, "expert_parallel": 4},
    "etp": {"micro_batch": 2, "data_parallel": 2, "tensor_parallel": 2, "expert_parallel": 2, "expert_tensor_parallel": 2},
    "pp": {**EP, "pipeline_parallel": 2},
    "uneven": {**EP, "pipeline_parallel": 2, "layers_per_stage": (3, 1)},
    "vpp": {**EP, "pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": "interleaved_1f1b"},
    "zbh1": {**EP, "pipeline_parallel": 2, "schedule": "zero_bubble_h1"},
    "dual_pipe": {**EP, "pipeline_parallel": 2, "schedule": "dual_pipe"},
    "dual_pipe_v": {**EP, "pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": "dual_pipe_v"},
    "pairs": {**EP, "schedule": "combined_1f1b"},
    "full": {**EP, "recompute": "full"},
    "every second": {**EP, "pipeline_parallel": 2, "recompute": "full", "recompute_every": 2},
    "moe": {**EP, "recompute_modules": ("moe", "layernorm")},
    "zero1": {**EP, "zero_stage": 1},
    "zero3": {"data_parallel": 4, "expert_parallel": 2, "zero_stage": 3},
    "one": {},
}
QUICK = (("three loads", "pp"), ("dropped", "ep"), ("a later token", "dual_pipe"))
SLOW = (
    *(("three loads", plan) for plan in PLANS if plan != "pp"),
    *((model, plan) for model in MODELS for plan in ("ep", "pp") if (model, plan) not in QUICK and model != "three loads"),
    *(("loads twice", plan) for plan in ("ep 4", "vpp", "dual_pipe_v", "every second")),
    *(("drawn", plan) for plan in ("ep 4", "etp", "zero1")),
)


def toy(model: TransformerSpec, plan: Plan, dtype: str = "bf16") -> Scenario:
    stack = STACKS[2 if model.mtp_layers else 0]
    return scenario(model=model, batch=Batch(max(4 * plan.num_copies, 2 * plan.num_stages, 2 * plan.data_parallel), 8, dtype), stack=stack)


def red(model: TransformerSpec, plan: Plan, dtype: str = "bf16") -> list[str]:
    return [check.quantity for check in verify_plan(toy(model, plan, dtype), plan, "toy") if not check.ok]


def most(run: Execution, figure: str) -> tuple[int, ...]:
    """Of the ranks of each pipeline rank."""
    found: dict[int, int] = {}
    for rank, ledger in enumerate(run.ledgers):
        place = run.job.mesh.coordinates(rank)["pp"]
        found[place] = max(found.get(place, 0), getattr(ledger, figure))
    return tuple(found[place] for place in sorted(found))


@pytest.mark.parametrize("case", [tiered(each, " ".join(each), slow=each not in QUICK) for each in (*QUICK, *SLOW)])
def test_layers_of_several_loads_keep_the_contract_and_the_rank_that_has_most_of_all_is_told(case: tuple[str, str]) -> None:
    model, plan = MODELS[case[0]], Plan(**PLANS[case[1]])  # type: ignore[arg-type]
    chosen = toy(model, plan)
    assert not red(model, plan)
    predicted, trace, run = estimate(chosen, plan), simulate(chosen, plan), execute(chosen, plan)
    assert predicted.flops == trace.flops == most(run, "flops")
    assert tuple(counted_peak_bytes(stages_of(chosen, plan))[:, 0].tolist()) == trace.peak_bytes == most(run, "peak_bytes")
    assert predicted.step_s == trace.step_s
    (figures,) = estimates(chosen, [plan]).records()
    assert (figures["step_s"], figures["peak_bytes"]) == (predicted.step_s, predicted.peak_bytes)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp8_current", "fp8_rowwise"])
def test_narrow_layers_of_several_loads_keep_the_contract(dtype: str) -> None:
    assert not red(MODEL, Plan(**EP, pipeline_parallel=2), dtype)  # type: ignore[arg-type]


def test_a_rank_computes_the_slots_of_its_experts_layer_by_layer() -> None:
    """Of 16 slots of a run of 8 tokens two ranks have 12 and 4, 4 and 12, 9 and 7, since no expert has a token twice: 25 and 23."""
    model, plan = replace(MODEL, num_layers=3, num_dense_layers=0, shared_ffn_hidden_size=0), Plan(**EP)  # type: ignore[arg-type]
    assert [model.expert_loads(8, row) for row in model.load_rows] == [(8, 4, 2, 2), (1, 3, 4, 8), (8, 1, 1, 6)]
    ledgers = execute(toy(model, plan), plan).ledgers
    first, last = (ledger.flops for ledger in ledgers)
    matmuls, pointwise = 3 * 3 * 2 * 12 * 8, 8 * (4 + 1 + 1 + 9 + 1 + 1 + 1 + 2)  # of a slot: see test_experts
    assert first - last == (25 - 23) * 4 * (matmuls + pointwise)
    told = estimate(toy(model, plan), plan)
    assert told.flops == (first,) and told.sent_bytes[0]["ep"] == ledgers[0].sent_bytes["ep"]


def test_losses_do_not_depend_on_how_layers_of_several_loads_are_split() -> None:
    losses = [execute(toy(MODEL, Plan(**PLANS[name])), Plan(**PLANS[name])).loss for name in ("one", "ep", "pp")]  # type: ignore[arg-type]
    assert np.allclose(losses, losses[0], rtol=1e-12, atol=0)
    others = replace(MODEL, load_shares=ROWS[::-1])
    assert execute(toy(others, Plan()), Plan()).loss != losses[0]


def test_lists_that_are_all_the_same_are_one_list() -> None:
    alike, plan = replace(MODEL, load_shares=ROWS[:1] * 3), Plan(**EP)  # type: ignore[arg-type]
    assert alike.layout == replace(MODEL, load_shares=ROWS[0]).layout
    assert estimate(toy(alike, plan), plan) == estimate(toy(replace(MODEL, load_shares=ROWS[0]), plan), plan)


def test_a_seed_draws_for_each_layer_which_experts_are_favoured_and_none_for_all_alike() -> None:
    drawn, alike = MODELS["drawn"], replace(MODELS["drawn"], load_seed=0)
    found = [drawn.expert_loads(8, row) for row in drawn.load_rows]
    assert drawn.load_rows == (0, 1, 2) and alike.load_rows == (0,)
    assert {tuple(sorted(each)) for each in found} == {tuple(sorted(alike.expert_loads(8)))} and len(set(found)) > 1
    assert [replace(drawn, load_seed=4).expert_loads(8, row) for row in (0, 1, 2)] != found


def test_the_planner_finds_what_all_estimates_of_layers_of_several_loads_say() -> None:
    space = PlanSpace("a", {"pipeline_parallel": (1, 2), "expert_parallel": ("auto",), "recompute": ("none", "full")})
    asked = replace(scenario(model=MODEL, batch=Batch(8, 8), cluster=replace(CLUSTER, num_nodes=1)), spaces={"a": space})
    every = [estimate(asked, each) for each in candidates(asked, space).plans]
    best = sorted(every, key=lambda each: (each.step_s, each.peak_bytes))[:3]
    assert [(row.step_s, row.peak_bytes) for row in parsim.plan(asked, top=3, contention=False).rows] == [
        (each.step_s, each.peak_bytes) for each in best
    ]
    columns = estimates(asked, candidates(asked, space).plans)
    assert columns.peak_bytes.tolist() == [each.peak_bytes for each in every]


def test_a_likeness_has_layers_of_several_loads_where_its_model_has() -> None:
    large = replace(TWICE, num_experts=8, load_shares=tuple(each * 2 for each in TWICE.load_shares))  # type: ignore[operator]
    small = large.small(4, 1)
    assert small.load_shares == tuple(tuple(2 * share for share in row) for row in (*ROWS, ROWS[0])) and not small.misfits()
    plan = Plan(pipeline_parallel=4, data_parallel=8, expert_parallel=8)
    assert len(shrink.shrunk(scenario(model=large, batch=Batch(64, 64)), plan).scenario.model.load_rows) == 2  # type: ignore[attr-defined]


Patch = Callable[[pytest.MonkeyPatch], None]


def _counted_as_in_the_first(patch: pytest.MonkeyPatch) -> None:
    right = totals.flops
    patch.setattr(totals, "flops", lambda task, *rest: right(loads._task(task, 0), *rest))


def _lowered_as_the_first(patch: pytest.MonkeyPatch) -> None:
    right = loads.with_loads
    patch.setattr(lower, "with_loads", lambda segment, name, _: right(segment, name, 0))


@pytest.mark.parametrize(
    ("break_it", "quantity"), [(_counted_as_in_the_first, "FLOPs"), (_lowered_as_the_first, "weight gradients, by hand")]
)
def test_mutant_loads_of_the_first_layer_for_all_are_caught(break_it: Patch, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = replace(MODEL, num_layers=2, num_dense_layers=0, load_shares=ROWS[:2]), Plan(**EP)  # type: ignore[arg-type]
    break_it(monkeypatch)
    forget_steps()
    found = red(model, plan)
    monkeypatch.undo()
    forget_steps()
    assert quantity in found


def test_mutant_a_sum_of_what_different_ranks_have_most_of_is_no_rank_s(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(**EP)  # type: ignore[arg-type]
    chosen = toy(MODEL, plan)
    right = estimate(chosen, plan)
    monkeypatch.setattr(Sizes, "torn", ())
    wrong = estimate(chosen, plan)
    assert wrong.peak_bytes > right.peak_bytes and wrong.step_s == right.step_s
