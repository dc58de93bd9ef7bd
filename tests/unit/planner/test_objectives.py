"""The ranking by each objective and within each limit is that of pricing every plan; a bound or a busy time that is wrong is found."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from msgspec.structs import replace

from parsim import estimate, plan
from parsim.cluster import Rent, Storage
from parsim.errors import PlanError
from parsim.estimator.estimate import Priced
from parsim.estimator.result import Estimate
from parsim.estimator.whole import step_joules
from parsim.goodput import columns
from parsim.goodput.long_run import in_a_run, whole_of_run
from parsim.goodput.predict import goodput_of, predict_goodput
from parsim.parallel.plan import Batch
from parsim.parallel.plans import Plans
from parsim.planner import bounded, objectives
from parsim.planner.constraints import Cut
from parsim.planner.objectives import OBJECTIVES
from parsim.planner.space import candidates
from parsim.scenario import PlanSpace, Scenario
from parsim.scenario.feeding import Input
from parsim.scenario.reliability import Checkpoint, FailureRates, Failures
from support import CLUSTER, GPT, STACK, scenario

AUTO = ("auto",)
AXES: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("tensor_parallel", "pipeline_parallel", "virtual_pipeline", "sequence_parallel"), AUTO),
    "micro_batch": (1,),
    "recompute": ("none", "full"),
}


FEW = PlanSpace("few", {**AXES, "recompute": ("none",), "sequence_parallel": (False,), "virtual_pipeline": (1,)})
# A device fails in 100 s; the first replica writes at what its nodes can, so that goodput depends on the plan.
FAILURES = Failures(FailureRates("toy", device_mtbf_s=100.0), restart_s=0.2, repair_s=20.0, spare_nodes=2)
STORAGE = Storage(name="toy", source="made up", write_bytes_per_s=1e6, read_bytes_per_s=1e6, node_write_bytes_per_s=2e5)


def toy(**others: object) -> Scenario:
    """Eight devices that draw and cost something, and fail; a training of 100 steps."""
    node = replace(CLUSTER.node, accelerator=replace(CLUSTER.node.accelerator, tdp_w=400.0))
    cluster = replace(CLUSTER, node=node, num_nodes=2, rent=Rent("stated", 2.0))
    chosen = scenario(model=replace(GPT, num_layers=8), batch=Batch(16, 8), cluster=cluster, stack=replace(STACK, gradient_overlap=True))
    kept = {"failures": FAILURES, "checkpoint": Checkpoint(writers="first"), "storage": STORAGE}
    return replace(chosen, spaces={"a": PlanSpace("a", AXES)}, total_tokens=12_800, **{**kept, **others})


@cache
def every() -> tuple[Estimate, ...]:
    """All plans of the toy, priced one by one; no mutant below changes an estimate."""
    return tuple(estimate(toy(), each) for each in candidates(toy(), toy().spaces["a"]).plans)


def figure(chosen: Scenario, objective: str) -> Callable[[Estimate], float]:
    """What an objective makes least."""

    def value(found: Estimate) -> float:
        whole = whole_of_run(chosen, found)
        assert whole is not None
        figures = {"step_time": found.step_s, "time_to_tokens": whole.time_s, "device_hours": whole.device_hours, "cost": whole.cost_usd}
        figures |= {"tokens_per_s": -found.tokens_per_s, "tokens_per_s_per_device": -found.tokens_per_s_per_device, "mfu": -found.mfu}
        return float((figures | {"energy": step_joules(chosen, found)})[objective] or 0)

    return value


@pytest.mark.parametrize("objective", [each for each in OBJECTIVES if each != "goodput"])
def test_the_ranking_by_an_objective_is_that_of_pricing_every_plan(objective: str) -> None:
    chosen = toy()
    value = figure(chosen, objective)
    ranking = plan(chosen, top=7, objective=objective)
    expected = sorted(map(value, every()))[:7]
    assert [*map(value, ranking.rows)] == pytest.approx(expected, rel=1e-12) and len(ranking.rows) == 7


def _idle_devices(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(objectives, "busy_ps", lambda stages: stages.workload.rows * 0)


def _bound_above_the_step(patch: pytest.MonkeyPatch) -> None:
    right = bounded.lower_bound
    patch.setattr(bounded, "lower_bound", lambda stages: right(stages) + 10**12 * (stages.workload.micro_batches % 3))


@pytest.mark.parametrize("mutant", [_idle_devices, _bound_above_the_step])
def test_a_wrong_busy_time_or_bound_changes_the_ranking_by_energy(mutant: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        test_the_ranking_by_an_objective_is_that_of_pricing_every_plan("energy")


def test_the_ranking_by_goodput_is_that_of_predicting_every_plan() -> None:
    chosen, value = toy(), lambda row: -goodput_of(toy(), row).tokens_per_s
    found = [*map(value, (estimate(chosen, each) for each in candidates(chosen, FEW).plans))]
    ranking = plan(chosen, space=FEW, top=5, objective="goodput", contention=False)
    assert len({round(each, 6) for each in found}) > 5
    assert [*map(value, ranking.rows)] == pytest.approx(sorted(found)[:5], rel=1e-12)


@pytest.mark.slow
def test_goodput_with_checkpoints_of_other_writers_ranks_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    right = columns.checkpoint_bytes
    monkeypatch.setattr(columns, "checkpoint_bytes", lambda stages, writers: right(stages, "all"))
    with pytest.raises(AssertionError):
        test_the_ranking_by_goodput_is_that_of_predicting_every_plan()


def test_the_time_of_a_step_that_counts_is_that_of_the_plan_alone() -> None:
    chosen = toy()
    few = [*candidates(chosen, FEW).plans][:4]
    priced = Priced(chosen, Plans.of(few))
    whole = columns.seconds_a_step(priced)(priced.steps(), np.arange(len(few)))
    alone = [found.step_s * 1e12 / found.goodput for found in (predict_goodput(chosen, each) for each in few)]
    assert whole.tolist() == pytest.approx(alone, rel=1e-12)


def test_energy_orders_plans_otherwise_than_time() -> None:
    chosen = toy()
    by_energy, by_time = ([row.plan for row in plan(chosen, top=7, objective=each).rows] for each in ("energy", "step_time"))
    assert by_energy != by_time


def test_goodput_orders_plans_otherwise_than_time() -> None:
    by_goodput, by_time = (plan(toy(), space=FEW, objective=each, contention=False) for each in ("goodput", "step_time"))
    assert [row.plan for row in by_goodput.rows] != [row.plan for row in by_time.rows]


@pytest.mark.parametrize("objective", ["step_time", "energy"])
def test_limits_act_before_ranking_and_count_whom_they_keep_out(objective: str) -> None:
    chosen = toy()
    found = every()
    middle = float(np.median([each.step_s for each in found]))
    full = max(each.fill for each in found)
    headroom = 1 - 0.6 * full
    ranking = plan(chosen, top=1000, objective=objective, constraints={"memory_headroom": headroom, "step_time": middle}, contention=False)
    roomy = [each for each in found if each.fill <= 1 - headroom]
    kept = sorted((each for each in roomy if each.step_s <= middle), key=figure(chosen, objective))
    assert [row.step_s for row in ranking.rows] == pytest.approx([each.step_s for each in kept]) and 0 < len(kept) < len(roomy) < len(found)
    assert [(cut.count, cut.whole) for cut in ranking.cuts] == [(len(found) - len(roomy), True), (len(roomy) - len(kept), True)]


def test_of_a_long_list_a_limit_tells_at_least_whom_it_keeps_out() -> None:
    middle = float(np.median([each.step_s for each in every()]))
    (cut,) = plan(toy(), top=1, constraints={"step_time": middle}).cuts
    assert not cut.whole and 0 < cut.count <= sum(each.step_s > middle for each in every())


@pytest.mark.parametrize(
    ("limit", "of"),
    [
        ("within", lambda step_s: f"{100 * step_s} s"),  # 100 steps
        ("budget", lambda step_s: 100 * step_s * 8 / 3600 * 2),  # on 8 devices at 2 USD
        ("step_time", lambda step_s: f"< {step_s} s"),
    ],
)
def test_time_and_budget_are_most_steps(limit: str, of: Callable[[float], object]) -> None:
    steps = sorted(each.step_s for each in every())
    border = (steps[2] + steps[3]) / 2
    assert steps[2] < steps[3]
    calm = toy(failures=None, checkpoint=None)
    assert [row.step_s for row in plan(calm, constraints={limit: of(border)}).rows] == steps[:3]


SLOW_INPUT = Input(name="words", source="made up", per="token", size_bytes=4.0, device_size_bytes=8.0, tokenize_per_s=1.0)


def feeding(slowest_s: float) -> Scenario:
    """The toy, whose two readers of tensor-parallel plans take so long for their tokens, those of others less."""
    return toy(failures=None, checkpoint=None, input=replace(SLOW_INPUT, tokenize_per_s=16 * 8 / 2 / slowest_s))


@pytest.mark.parametrize(
    ("limit", "of"),
    [("within", lambda whole: whole.time_s), ("budget", lambda whole: whole.cost_usd)],
)
@pytest.mark.parametrize("chosen", [toy(), feeding(0.01), feeding(1.0)], ids=["failing", "fed in time", "starved"])
def test_time_and_budget_count_failures_spare_nodes_and_waiting_for_input(limit: str, of: Callable[..., float], chosen: Scenario) -> None:
    found = [estimate(chosen, each) for each in candidates(chosen, FEW).plans]
    figures = sorted(of(whole_of_run(chosen, in_a_run(chosen, each))) for each in found)
    middle = len(figures) // 2
    border = (figures[middle] + figures[middle + 1]) / 2
    ranking = plan(chosen, space=FEW, top=None, constraints={limit: border}, contention=False)
    expected = [each for each in figures if each <= border]
    assert sorted(of(whole_of_run(chosen, in_a_run(chosen, row))) for row in ranking.rows) == pytest.approx(expected, rel=1e-9)


def test_where_limits_leave_none_the_best_beyond_them_is_told() -> None:
    ranking = plan(toy(), constraints={"devices": 4})
    assert ranking.rows == () and ranking.nearest is None and ranking.num_fit > 0
    assert ranking.cuts == (Cut("devices 4", ranking.num_fit, True),)
    assert ranking.beyond is not None and ranking.beyond.step_s == plan(toy(), top=1).rows[0].step_s


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "speed"}, "unknown objective 'speed'"),
        ({"objective": "enrgy"}, "did you mean 'energy'"),
        ({"constraints": {"step_tme": 1}}, "unknown limit 'step_tme' .did you mean 'step_time'"),
        ({"constraints": {"step_time": "20"}}, "^limit step_time: '20' is no time: 20 has no unit"),
        ({"constraints": {"step_time": "fast"}}, "'fast' is no time"),
        ({"constraints": {"within": -3}}, "'-3' is no time above 0"),
        ({"constraints": {"devices": "many"}}, "'many' is no number of devices"),
        ({"constraints": {"memory_headroom": 1.5}}, "memory_headroom = 1.5 is no share of a memory"),
        ({"constraints": {"memory_headroom": "ten"}}, "is no share of a memory"),
    ],
)
def test_what_is_no_objective_or_limit_is_told(options: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        plan(toy(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lacks", "objective", "said"),
    [
        ({"total_tokens": None}, "cost", "nobody states the tokens of the whole training\n"),
        (
            {"total_tokens": None, "cluster": replace(CLUSTER, num_nodes=2)},
            "cost",
            "whole training; no price of a device",
        ),
        ({"cluster": replace(CLUSTER, num_nodes=2)}, "cost", "no price of a device of node"),
        ({"cluster": replace(CLUSTER, num_nodes=2)}, "energy", "no design power"),
        ({"checkpoint": None}, "goodput", "nobody says what is kept against failures"),
        ({"failures": replace(FAILURES, elastic=True)}, "goodput", "not built for elastic runs"),
    ],
)
def test_an_objective_says_what_it_needs(lacks: dict[str, object], objective: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        plan(replace(toy(), **lacks), objective=objective)  # type: ignore[arg-type]
