"""The planner's answer is that of exhaustive enumeration, whatever axis is open, and every figure that it ranks by is exact."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim import estimate, estimates
from parsim.cost import timing, workload, workloads
from parsim.errors import PlanError
from parsim.estimator import memory, pipeline, worst
from parsim.estimator.estimate import Priced, stages_of
from parsim.estimator.lists import Measures
from parsim.estimator.memory import peak_bytes
from parsim.estimator.pipeline import lower_bound
from parsim.estimator.result import Estimate, Estimates
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.plans import Plans
from parsim.planner import bounded
from parsim.planner.bounded import Bounded
from parsim.planner.space import candidates
from parsim.scenario import PlanSpace, Scenario
from parsim.units import PS_PER_S
from support import CLUSTER, GPT, STACK, forget_steps, scenario, tiered

plan = partial(parsim.plan, contention=False)  # what is compared with all estimates
AUTO = ("auto",)
SPLIT = {"tensor_parallel": AUTO, "pipeline_parallel": AUTO}
SPACES: dict[str, dict[str, tuple[object, ...]]] = {
    "degrees": {**SPLIT, "virtual_pipeline": AUTO, "micro_batch": AUTO},
    "sequence": {**SPLIT, "sequence_parallel": AUTO, "recompute": AUTO},
    "zero": {**SPLIT, "zero_stage": AUTO, "zero_group": AUTO, "reshard_after_forward": AUTO},
    "schedule": {**SPLIT, "schedule": ("1f1b", "gpipe", "zero_bubble_h1")},
    "order": {**SPLIT, "rank_order": AUTO},
    "layers": {**SPLIT, "layers_per_stage": AUTO},
    "every": {**SPLIT, "recompute": ("selective", "full"), "recompute_every": AUTO},
    "sync": {**SPLIT, "gradient_sync": AUTO},
    "host": {**SPLIT, "offload_optimizer": AUTO, "zero_stage": (0, 1)},
    "ops": {**SPLIT, "recompute_ops": ((), ("core_attention",))},
    "modules": {"tensor_parallel": (2,), "pipeline_parallel": (1, 4), "recompute_modules": AUTO},
    "schedules": {"pipeline_parallel": AUTO, "tensor_parallel": (1,), "schedule": AUTO, "virtual_pipeline": (1, 2)},
    "optimizer": {**SPLIT, "optimizer": ("adamw", "sgd_momentum")},
    "chunks of 7 layers": {"pipeline_parallel": (2,), "tensor_parallel": (1, 2), "schedule": AUTO, "virtual_pipeline": AUTO},
}
STACKS = {"plain": STACK, "overlap": replace(STACK, tensor_overlap=True, gradient_overlap=True, scatter_gather=True)}


def toy(stack: str = "plain", capacity: float = 1e9) -> Scenario:
    """Eight devices and 16 sequences; layers enough for two chunks on four ranks."""
    node = replace(CLUSTER.node, accelerator=replace(CLUSTER.node.accelerator, hbm_capacity_bytes=int(capacity)))
    cluster = replace(CLUSTER, node=node, num_nodes=2)
    return scenario(model=replace(GPT, num_layers=8), batch=Batch(16, 8), cluster=cluster, stack=STACKS[stack])


def spaced(name: str, **others: object) -> Scenario:
    """The toy with one space."""
    bare = toy(**others)  # type: ignore[arg-type]
    model = replace(GPT, num_layers=7) if "7 layers" in name else bare.model
    return replace(bare, model=model, spaces={name: PlanSpace(name, SPACES[name])})


class Figures(NamedTuple):
    step_s: float
    peak_bytes: int


@cache
def alone(name: str, stack: str) -> tuple[Figures, ...]:
    """All plans of a space, priced one by one."""
    chosen = spaced(name, stack=stack)
    priced = [Priced(chosen, Plans.of([each])) for each in candidates(chosen, chosen.spaces[name]).plans]
    return tuple(Figures(int(each.steps()[0]) / PS_PER_S, int(each.figures(peak_bytes)[0, 0])) for each in priced)


CASES = [
    tiered((name, stack), f"{name}-{stack}", slow=(i + j) % 4 > 0)  # each space meets a stack; the rest is slow
    for i, name in enumerate(SPACES)
    for j, stack in enumerate(STACKS)
]


@pytest.mark.parametrize("case", CASES)
def test_the_ranking_is_that_of_pricing_every_plan(case: tuple[str, str]) -> None:
    name, stack = case
    every = alone(name, stack)
    middle = float(np.median([each.peak_bytes for each in every]))
    tight = spaced(name, stack=stack, capacity=middle)
    ranking = plan(tight, top=5)
    fitting = sorted((each for each in every if each.peak_bytes <= int(middle)), key=lambda each: (each.step_s, each.peak_bytes))
    assert [(row.step_s, row.peak_bytes) for row in ranking.rows] == [(each.step_s, each.peak_bytes) for each in fitting[:5]]
    assert (ranking.num_legal, ranking.num_fit) == (len(every), len(fitting))
    for row in ranking.rows:
        assert row == replace(estimate(tight, row.plan), name=row.name)


@pytest.mark.parametrize("case", CASES)
def test_figures_of_columns_are_those_of_each_plan_alone(case: tuple[str, str]) -> None:
    name, stack = case
    chosen = spaced(name, stack=stack)
    priced = Priced(chosen, candidates(chosen, chosen.spaces[name]).plans)
    steps, (peaks, bounds) = priced.steps(), priced.figures(peak_bytes, lower_bound)
    assert (steps / 1e12).tolist() == [each.step_s for each in alone(name, stack)]
    assert peaks.tolist() == [each.peak_bytes for each in alone(name, stack)]
    assert (bounds <= steps).all()


def test_a_task_is_priced_once_whatever_the_number_of_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    def calls(micro_batches: tuple[int, ...]) -> int:
        chosen, count = toy(), [0]

        def counted(*args: object) -> object:
            count[0] += 1
            return timing.task_ps(*args)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(workload, "task_ps", counted)
            axes = {**SPLIT, "micro_batch": micro_batches, "rank_order": AUTO}
            Priced(chosen, candidates(chosen, PlanSpace("a", axes)).plans).figures(lower_bound)
        return count[0]

    assert calls((1,)) == calls((1, 2, 4, 8)) > 0


def test_few_plans_are_walked_through_their_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[int] = []
    right = Priced.steps
    monkeypatch.setattr(Priced, "steps", lambda self, rows, **told: walked.append(len(rows)) or right(self, rows, **told))  # type: ignore[func-returns-value]
    chosen = spaced("degrees")
    ranking = plan(chosen, top=3)
    assert ranking.num_legal > 3 * sum(walked)


def test_a_plan_that_cannot_be_first_is_not_asked_what_one_list_leaves_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[object] = []
    right = Measures.course
    monkeypatch.setattr(Measures, "course", lambda self, *asked: walked.append(asked) or right(self, *asked))  # type: ignore[func-returns-value]
    chosen = spaced("degrees", stack="overlap")
    found = Bounded(chosen, candidates(chosen, chosen.spaces["degrees"]).plans)
    assert (found.bounds(np.arange(len(found.plans))) > 0).all() and not walked
    assert found.finish(np.zeros(1, dtype=np.int64)) > 0 and walked


def test_rows_of_each_mesh_apart_have_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = spaced("degrees", stack="overlap")
    plans = candidates(chosen, chosen.spaces["degrees"]).plans
    some = np.arange(0, len(plans), 7)

    def found() -> tuple[int, list[list[int]], list[Estimate]]:
        priced = Priced(chosen, plans)
        figures = [priced.steps(), *priced.figures(peak_bytes, lower_bound)]
        return (
            sum(len(each.workloads.prices) for each in priced.parts),
            [each.tolist() for each in figures],
            priced.explain(some, [""] * len(some)),
        )

    together = found()
    monkeypatch.setattr(workloads, "_FEW", 1)
    apart = found()
    assert together[0] == 1 < apart[0] and together[1:] == apart[1:]


def test_equal_steps_go_to_less_memory_and_then_to_smaller_degrees() -> None:
    ranking = plan(replace(toy(), spaces={"a": PlanSpace("a", {"optimizer": ("adamw", "adamw_8bit"), "recompute": ("none",)})}), top=4)
    keys = [(row.step_s, row.peak_bytes, row.plan.tensor_parallel) for row in ranking.rows]
    assert keys == sorted(keys)


def test_all_plans_can_be_asked_for() -> None:
    chosen = spaced("degrees")
    assert len(plan(chosen, top=None).rows) == plan(chosen, top=1).num_fit > 10


def test_a_space_is_named_or_given() -> None:
    chosen = spaced("zero")
    axes = {
        "tensor_parallel": "auto",
        "pipeline_parallel": "auto",
        "zero_stage": "auto",
        "zero_group": "auto",
        "reshard_after_forward": "auto",
    }
    by_name, given = plan(chosen, space="zero"), plan(replace(chosen, spaces={}), space=axes)
    assert by_name == given == plan(replace(chosen, spaces={}), space=PlanSpace("other", SPACES["zero"]))


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"tensorparallel": 2}, "unknown key .did you mean 'tensor_parallel'"),
        ({"micro_batch": "two"}, "micro_batch: must be a whole number, not 'two'"),
        ({"zero_stage": [1, 7]}, "zero_stage.1: must be at most 3, not 7"),
        ({"layers_per_stage": [[4, 4], 4]}, "layers_per_stage.1: must be a list, not 4"),
        (PlanSpace("a", {"tensorparallel": (2,)}), "did you mean 'tensor_parallel'"),
        (PlanSpace("a", {"sequence_parallel": ("yes",)}), "must be true or false, not 'yes'"),
    ],
)
def test_a_wrong_space_is_refused_with_what_was_meant(axes: object, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        plan(toy(), space=axes)  # type: ignore[arg-type]


def test_a_named_plan_bears_its_name_and_is_told_of_where_it_is_none_of_the_space() -> None:
    named = {"in": Plan(data_parallel=4, tensor_parallel=2, zero_group=4, zero_stage=1), "out": Plan(data_parallel=8, zero_stage=3)}
    axes = {"tensor_parallel": (2,), "zero_stage": (0, 1)}
    ranking = plan(replace(toy(), plans=named), space=PlanSpace("a", axes), top=None)
    assert sorted(row.name for row in ranking.rows) == ["", "in", "out"], "the group of all replicas is that of the space without one"
    assert ranking.outside == ("out",) and ranking.num_legal == 3 and not ranking.nothing_legal
    assert next(row.plan for row in ranking.rows if row.name == "in") == named["in"], "as it is written"
    empty = plan(replace(toy(), plans=named), space={"tensor_parallel": [8]})
    assert "does not divide" in empty.nothing_legal and empty.outside == ("in", "out")


@cache
@cache
def tight() -> Scenario:
    """A scenario in which few plans fit."""
    roomy = scenario(batch=Batch(2, 8), cluster=replace(CLUSTER, num_nodes=1), stack=replace(STACK, limits=("no_zero", "one_f_one_b")))
    capacity = int(np.quantile(estimates(roomy, candidates(roomy).plans).peak_bytes, 0.1))
    accelerator = replace(CLUSTER.node.accelerator, hbm_capacity_bytes=capacity)
    return replace(roomy, cluster=replace(roomy.cluster, node=replace(CLUSTER.node, accelerator=accelerator)))


def all_variants() -> Estimates:
    """All variants of all plans that save memory."""
    plans = [*candidates(tight()).plans]
    variants = [replace(each, offload_optimizer=True) for each in plans]
    modules = [(), *((name,) for name in ("mlp", "layernorm")), ("core_attn", "mlp"), ("core_attn", "layernorm"), ("mlp", "layernorm")]
    modules.append(("core_attn", "mlp", "layernorm"))
    variants += [replace(each, recompute_modules=some) for each in plans for some in modules if each.recompute == "none"]
    return estimates(tight(), [*plans, *variants])


def test_what_saves_memory_is_tried_where_a_plan_does_not_fit_without() -> None:
    """As good as all variants of all plans, and few of them are priced."""
    found = all_variants()
    fitting = np.sort(found.step_s[found.fits])
    assert [row.step_s for row in plan(tight(), top=5).rows] == fitting[:5].tolist()
    assert any(row.plan.offload_optimizer or row.plan.recompute_modules for row in plan(tight(), top=20).rows)


def test_no_plan_cannot_be_asked_for() -> None:
    with pytest.raises(PlanError, match="top = 0 asks for no plan"):
        plan(spaced("degrees"), top=0)


def test_what_makes_a_plan_slower_sums_to_how_much_slower_it_is() -> None:
    ranking = plan(spaced("degrees"), top=6)
    for place, row in enumerate(ranking.rows):
        parts = ranking.slower_by(place)
        assert sum(parts.values()) == pytest.approx(row.step_s - ranking.rows[0].step_s, abs=1e-15)
        assert [*parts.values()] == sorted(parts.values(), reverse=True)


def test_plans_within_the_noise_of_repeated_runs_are_told_of() -> None:
    steps = [row.step_s for row in plan(spaced("zero"), top=None).rows]
    alike = sum(step <= 1.022 * steps[0] for step in steps)
    assert 1 < alike < len(steps)
    assert [plan(spaced("zero"), top=top).alike for top in (1, 20)] == [alike] * 2, "of all that fit, not of the rows"


def _bound_above_the_step(patch: pytest.MonkeyPatch) -> None:
    right = bounded.lower_bound
    patch.setattr(bounded, "lower_bound", lambda stages: right(stages) + 10**12 * (stages.workload.micro_batches % 3))


def _with_columns(patch: pytest.MonkeyPatch, module: object, name: str, column: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    right = getattr(module, name)

    def changed(*args: object) -> worst.Rows:
        found = right(*args)
        return found._replace(columns=tuple(change(each) if index == column else each for index, each in enumerate(found.columns)))

    patch.setattr(module, name, changed)


def _half_in_flight(patch: pytest.MonkeyPatch) -> None:
    _with_columns(patch, memory, "states_of_plans", 1, lambda in_flight: in_flight // 2)


def _another_class_acts(patch: pytest.MonkeyPatch) -> None:
    _with_columns(patch, memory, "states_of_plans", 2, lambda acting: acting.max() - acting)


def _stages_below_count_twice(patch: pytest.MonkeyPatch) -> None:
    _with_columns(patch, pipeline, "ranks_of_plans", 0, lambda own: own + 1)


def _an_end_too_long(patch: pytest.MonkeyPatch) -> None:
    right = pipeline._least_finish
    patch.setattr(pipeline, "_least_finish", lambda stages: right(stages) * 20)


def _orders_cost_the_same(patch: pytest.MonkeyPatch) -> None:
    right = workload.Prices.of
    patch.setattr(workload.Prices, "of", lambda self, task: right(self, task)[:1].repeat(self.sizes.num_plans))


@pytest.mark.parametrize(
    ("mutate", "name"),
    [
        (_bound_above_the_step, "degrees"),
        (_half_in_flight, "degrees"),
        (_stages_below_count_twice, "degrees"),
        (_another_class_acts, "layers"),
        (_an_end_too_long, "zero"),
        (_orders_cost_the_same, "order"),
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_a_wrong_figure_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _forget()
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        test_figures_of_columns_are_those_of_each_plan_alone((name, "plain"))
        test_the_ranking_is_that_of_pricing_every_plan((name, "plain"))
    _forget()


def _forget() -> None:
    forget_steps()
    alone.cache_clear()


def test_worst_ranks_and_states_are_few_whatever_the_pipeline() -> None:
    counts = []
    for ranks in (4, 16, 64):
        chosen = scenario(model=replace(GPT, num_layers=128), batch=Batch(128, 8), cluster=replace(CLUSTER, num_nodes=16))
        shape = stages_of(chosen, Plan(pipeline_parallel=ranks)).workload.shape
        counts.append((len(worst.worst_ranks(shape, 4).own), len(worst.worst_states(shape, 128, 4).own)))
    assert counts[0] == counts[1] == counts[2]
