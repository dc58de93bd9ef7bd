"""Plans as columns: what they hold, which rules keep out which combinations, and what the planner considers of its own accord."""

from __future__ import annotations

import functools
from math import prod

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cluster.cluster import DeviceRun
from parsim.cluster.scalars import distinct_rows
from parsim.errors import PlanError
from parsim.parallel import legality
from parsim.parallel.legality import RULES, Facts, faults
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.plans import Plans
from parsim.planner.space import candidates
from parsim.scenario import PlanSpace, Scenario
from random_plans import drawn
from support import CLUSTER, STACK, scenario

AUTO = ("auto",)


def small(**changes: object) -> Scenario:
    """Eight devices, 8 sequences."""
    return replace(scenario(cluster=replace(CLUSTER, num_nodes=2)), **changes)  # type: ignore[arg-type]


def test_columns_give_back_the_plans_they_were_made_of() -> None:
    plans = [drawn(seed).plan for seed in range(40)]
    columns = Plans.of(plans)
    assert [*columns] == plans
    assert [*columns.take(np.array([7, 3]))] == [plans[7], plans[3]]
    assert [*Plans.of(plans[:9]).join(Plans.of(plans[9:]))] == plans


def test_a_question_is_asked_once_for_each_combination_of_the_fields_it_reads() -> None:
    plans = Plans.of([Plan(tensor_parallel=tp, micro_batch=m) for tp in (1, 2, 4) for m in (1, 2, 3, 4)])
    asked = []
    found = plans.numbers(("tensor_parallel",), lambda plan: asked.append(plan) or plan.tensor_parallel * 10)  # type: ignore[func-returns-value]
    assert found.tolist() == [10] * 4 + [20] * 4 + [40] * 4 and len(asked) == 3


def test_distinct_rows_of_large_numbers_are_told_apart() -> None:
    columns = [np.array([0, 2**61, 0, 2**61]), np.array([0, 0, 2**61, 0]), np.array([5, 5, 5, 5])]
    first, which = distinct_rows(columns, 4)
    assert sorted(first.tolist()) == [0, 1, 2] and which[1] == which[3] and len(set(which.tolist())) == 3


_drawn = functools.cache(drawn)  # the same of every rule


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_says_the_same_of_the_fields_that_it_reads_alone(rule: legality.Rule) -> None:
    """Otherwise it would be asked too seldom."""
    told = set()
    for seed in range(300):
        case, other = _drawn(seed), _drawn(seed + 1000).plan
        count = case.plan.num_devices
        halves = DeviceRun(0, "new", count // 2), DeviceRun(1, "old", count - count // 2)
        facts = Facts(case.scenario.model, case.scenario.batch, count, case.scenario.stack, runs=halves)
        for name in rule.reads:  # one field of another plan, which seldom goes with the rest
            plan = replace(case.plan, **{name: getattr(other, name)})  # type: ignore[arg-type]
            alone = Plan(**{each: getattr(plan, each) for each in rule.reads})
            no_group = (fault for name, wrong in legality.GROUPS.items() if name != rule.name for fault in wrong(plan))
            if isinstance(plan.schedule, str) and not [*no_group]:
                found = [*rule.faults(plan, facts)]
                assert found == [*rule.faults(alone, facts)]
                told.add(bool(found))
    unbroken = {
        "rank order",
        "experts",
        "other dimensions",
        "tokens",
        "precision",
        "pairs",
        "parameter servers",
        "steered experts",
    }  # by any drawn plan
    unbroken |= {"adapters", "quantized weights", "frozen stages", "encoder", "whole sequences"}  # of models that are not drawn
    unbroken |= {"local SGD", "local SGD of experts", "local SGD in 8 bits"}  # which no drawn plan asks for
    assert told == {False, True} or rule.name in unbroken


def test_every_combination_is_a_plan_or_rejected_for_one_reason() -> None:
    axes = {
        "tensor_parallel": (1, 2, 3, 4),
        "pipeline_parallel": (1, 2, 4),
        "micro_batch": (1, 2, 3),
        "zero_stage": (0, 1, 2, 3),
        "recompute": AUTO,
    }
    found = candidates(small(), PlanSpace("a", axes))
    lengths = {name: 3 if values == AUTO else len(values) for name, values in axes.items()}
    assert found.plans.num_plans + sum(each.count for each in found.rejected) == prod(lengths.values())
    assert found.num_combinations == prod(lengths.values()) and all(each.example for each in found.rejected)
    s = small()
    by_hand = [
        plan
        for tp in (1, 2, 3, 4)
        for pp in (1, 2, 4)
        for m in (1, 2, 3)
        for again in ("none", "selective", "full")
        for zero in (0, 1, 2, 3)
        for plan in [Plan(max(1, 8 // (tp * pp)), tp, pp, micro_batch=m, recompute=again, zero_stage=zero)]
        if plan.data_parallel > 1 or not zero  # without replicas nothing is sharded: the same plan
        if not faults(plan, s.model, s.batch, 8, stack=s.stack)
    ]
    assert [*found.plans] == by_hand


def test_of_its_own_accord_the_planner_considers_sharding_and_what_the_scenario_names() -> None:
    named = Plan(data_parallel=8, zero_stage=3, recompute_ops=("norm1",))
    plans = [*candidates(small(plans={"mine": named})).plans]
    assert {each.zero_stage for each in plans} == {0, 1, 2, 3}
    assert {each.zero_group for each in plans} == {None, 2, 4}  # a group of one rank shards nothing
    assert {each.reshard_after_forward for each in plans} == {None, False}  # true is what holds where it is left out
    assert named in plans and plans.count(named) == 1


def test_of_its_own_accord_the_planner_leaves_out_what_the_stack_cannot_run() -> None:
    stack = replace(STACK, limits=("zero_1", "no_interleaving"))
    found = candidates(small(stack=stack))
    assert {each.zero_stage for each in found.plans} == {0, 1} and {each.virtual_pipeline for each in found.plans} == {1}
    (stack_says,) = (each for each in found.rejected if each.rule == "stack")
    assert "cannot" in stack_says.example
    stated = PlanSpace("a", {"zero_stage": (0, 3)})
    assert {each.zero_stage for each in candidates(small(stack=stack), stated).plans} == {0, 3}
    assert {each.zero_stage for each in candidates(small(stack=stack), stated, runnable=True).plans} == {0}


def test_of_its_own_accord_the_planner_tries_what_can_win() -> None:
    plans = [*candidates(small()).plans]
    assert {each.rank_order for each in plans} == {"tp-dp-pp", "tp-pp-dp"}
    assert all(each.data_parallel > 1 < each.pipeline_parallel for each in plans if each.rank_order == "tp-pp-dp"), "else nothing differs"
    assert all(each.pipeline_parallel > 1 for each in plans if each.schedule != "1f1b")
    assert {each.schedule for each in plans} == {"1f1b", "gpipe", "dual_pipe", "zero_bubble_h1", "zero_bubble_h2"} | {
        each.schedule for each in plans if each.virtual_pipeline > 1
    }
    assert {each.gradient_sync for each in plans} == {"all_reduce"}
    rules = {each.rule for each in candidates(small()).rejected}
    assert rules >= {"rank order", "schedule", "gradient_sync", "uneven layers", "the same plan"}


def test_orders_of_ranks_are_one_where_all_devices_are_alike() -> None:
    found = candidates(small(cluster=replace(CLUSTER, num_nodes=1)))
    assert {each.rank_order for each in found.plans} == {"tp-dp-pp"}


def test_uneven_layers_are_found() -> None:
    stated = PlanSpace("a", {"pipeline_parallel": (4,), "layers_per_stage": AUTO, "tensor_parallel": (1,)})
    model = replace(scenario().model, num_layers=10)  # type: ignore[type-var]
    found = {each.layers_per_stage for each in candidates(small(model=model), stated).plans}
    assert found == {None, (3, 3, 3, 1), (2, 3, 3, 2), (2, 4, 3, 1), (1, 4, 4, 1)}


def test_layers_that_no_pipeline_divides_are_interleaved_too() -> None:
    """13 layers on 2 ranks: of 2, 3, 4, 5 and 6 chunks the largest hold 4, 3, 2, 2 and 2.  12 layers have even chunks: 2, 3 and 6."""
    stated = {"pipeline_parallel": (2,), "tensor_parallel": (4,), "virtual_pipeline": AUTO, "schedule": AUTO}

    def chunks(num_layers: int) -> dict[object, list[int]]:
        model = replace(scenario().model, num_layers=num_layers)  # type: ignore[type-var]
        plans = [*candidates(small(model=model), PlanSpace("a", stated)).plans]
        return {each.schedule: [one.virtual_pipeline for one in plans if one.schedule == each.schedule] for each in plans}

    for layers, more in ((13, [2, 3, 4]), (12, [2, 3, 6])):
        found = chunks(layers)
        assert found["interleaved_1f1b"] == [1, *more] and found["dual_pipe_v"] == found["zero_bubble_v"] == [2]
    four = candidates(small(), PlanSpace("a", {**stated, "tensor_parallel": (1,), "pipeline_parallel": (4,)}))
    assert "layers" in {each.rule for each in four.rejected}, "what cannot run is told by its own rule"


def test_a_stated_split_is_taken_as_it_is() -> None:
    model = replace(scenario().model, num_layers=3)  # type: ignore[type-var]
    stated = {"pipeline_parallel": (2,), "tensor_parallel": (1,), "layers_per_stage": ((1, 2),)}
    assert [each.layers_per_stage for each in candidates(small(model=model), PlanSpace("a", stated)).plans] == [(1, 2)]
    with pytest.raises(PlanError, match="no legal plan") as error:
        candidates(small(), PlanSpace("a", {**stated, "layers_per_stage": ((2, 1),)}))
    assert "2 entries that sum to 3" in str(error.value.remedy)


def test_a_value_that_no_plan_has_is_refused_before_any_combination() -> None:
    with pytest.raises(PlanError, match="tensor_parallel = 0 is not a positive whole number"):
        candidates(small(), PlanSpace("a", {"tensor_parallel": (0, 1)}))


def test_nothing_legal_says_what_stands_in_the_way_of_what_other_rules_leave() -> None:
    """Of 16 devices most combinations of tp and pp are no divisors, and are kept out first; none of the others takes 3 sequences of 4."""
    with pytest.raises(PlanError, match="no legal plan") as other:
        candidates(
            small(batch=Batch(4, 8)), PlanSpace("a", {"tensor_parallel": ("auto",), "pipeline_parallel": ("auto",), "micro_batch": (3,)})
        )
    assert "x 3 = 24 does not divide global_batch = 4" in str(other.value.remedy)
    with pytest.raises(PlanError, match="no legal plan") as error:
        candidates(small(batch=Batch(7, 8)), PlanSpace("a", {"micro_batch": (2,)}))
    assert "does not divide global_batch = 7" in str(error.value.remedy)
