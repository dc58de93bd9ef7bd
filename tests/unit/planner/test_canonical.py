"""Plans that are the same stand once: the canonical form changes no estimate, and plans of the same work on the same ranks share it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from parsim import estimate
from parsim.parallel.legality import Facts, faults
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.plans import Plans
from parsim.planner import canonical as forms
from parsim.planner.canonical import FORMS, canonical
from parsim.planner.space import candidates
from parsim.scenario import PlanSpace, Scenario
from random_plans import Drawn, drawn
from support import CLUSTER, GPT, STACK, scenario


def facts_of(chosen: Scenario, num_devices: int | None = None) -> Facts:
    return Facts(chosen.model, chosen.batch, num_devices, chosen.stack)


def form_of(chosen: Scenario, plan: Plan) -> Plan:
    return canonical(Plans.of([plan]), facts_of(chosen)).plan(0)


def check(case: Drawn) -> bool:
    """Whether the form differs from the plan; it is legal, its own form, and estimated the same."""
    s, form = case.scenario, form_of(case.scenario, case.plan)
    assert form_of(s, form) == form
    assert not faults(form, s.model, s.batch, form.num_devices, stack=s.stack)
    assert replace(estimate(s, case.plan), plan=form) == estimate(s, form)
    return form != case.plan


def test_the_canonical_form_changes_no_estimate() -> None:
    assert sum(check(drawn(seed)) for seed in range(20)) > 10


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.changes[-1])
def test_a_form_reads_no_other_fields(form: forms.Form) -> None:
    for seed in range(40):
        case = drawn(seed)
        facts, alone = facts_of(case.scenario), Plan(**{name: getattr(case.plan, name) for name in form.reads})
        whole, part = form.of(case.plan, facts), form.of(alone, facts)
        assert all(getattr(whole, name) == getattr(part, name) for name in form.changes)


MANY = scenario(
    model=replace(GPT, num_layers=8), batch=Batch(8, 8), cluster=replace(CLUSTER, num_nodes=2), stack=replace(STACK, attention="unfused")
)
SAME = {
    "the group of all replicas": (Plan(data_parallel=4, zero_stage=1, zero_group=4), Plan(data_parallel=4, zero_stage=1)),
    "nothing to shard": (Plan(tensor_parallel=4, zero_stage=3, reshard_after_forward=False), Plan(tensor_parallel=4)),
    "nobody to sum with": (Plan(tensor_parallel=4, gradient_sync="master"), Plan(tensor_parallel=4)),
    "axes of one rank": (Plan(data_parallel=2, tensor_parallel=2, rank_order="pp-tp-dp"), Plan(data_parallel=2, tensor_parallel=2)),
    "an even split": (Plan(pipeline_parallel=2, layers_per_stage=(4, 4)), Plan(pipeline_parallel=2)),
    "modules in place of selective": (
        Plan(recompute="selective", recompute_modules=("mlp", "core_attn")),
        Plan(recompute_modules=("core_attn", "mlp")),
    ),
    "what selective means": (Plan(recompute_modules=("core_attn",)), Plan(recompute="selective")),
    "no n-th layer": (Plan(recompute="full", recompute_every=9), Plan()),
    "one micro_batch": (Plan(pipeline_parallel=2, micro_batch=8, schedule="gpipe"), Plan(pipeline_parallel=2, micro_batch=8)),
    "written": (Plan(micro_batch=4, schedule=("0F0 0B0 0F1 0B1",)), Plan(micro_batch=4)),
}


@pytest.mark.parametrize("name", SAME)
def test_plans_that_are_the_same_have_one_form(name: str) -> None:
    one, other = SAME[name]
    assert form_of(MANY, one) == form_of(MANY, other) == other


def test_plans_that_differ_have_different_forms() -> None:
    differ = [
        Plan(data_parallel=4, zero_stage=3),
        Plan(data_parallel=4, zero_stage=3, reshard_after_forward=False),
        Plan(data_parallel=4, zero_stage=3, zero_group=2),
        Plan(data_parallel=2, tensor_parallel=2, rank_order="dp-tp-pp"),
        Plan(data_parallel=2, tensor_parallel=2),
        Plan(recompute="full", recompute_every=2),
        Plan(recompute="full"),
        Plan(micro_batch=4, schedule="gpipe"),
        Plan(micro_batch=4),
    ]
    assert len({form_of(MANY, each) for each in differ}) == len(differ)


def test_equal_plans_stand_once() -> None:
    axes = {
        "tensor_parallel": ("auto",),
        "zero_stage": ("auto",),
        "zero_group": (None, 2, 4),
        "rank_order": ("auto",),
        "recompute": ("auto",),
    }
    found = candidates(MANY, PlanSpace("a", axes | {"recompute_modules": ((), ("mlp",))}))
    assert len({form_of(MANY, each) for each in found.plans}) == len(found.plans) == found.num_in_space
    assert next(each for each in found.rejected if each.rule == "the same plan").count > 0


def _groups_are_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(forms, "_replicas", lambda plan, facts: replace(plan, zero_group=None))


def _orders_are_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(forms, "_order", lambda plan, facts: replace(plan, rank_order="tp-dp-pp"))


def _schedules_are_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(forms, "_schedule", lambda plan, facts: replace(plan, schedule="1f1b") if plan.virtual_pipeline == 1 else plan)


def _a_split_is_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(forms, "_layers", lambda plan, facts: replace(plan, layers_per_stage=None))


@pytest.mark.parametrize("mutate", [_groups_are_nothing, _orders_are_nothing, _schedules_are_nothing, _a_split_is_nothing])
def test_a_form_that_goes_too_far_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    before = {form.of: form.of.__name__ for form in FORMS}
    mutate(monkeypatch)
    changed = tuple(replace(form, of=getattr(forms, before[form.of])) for form in FORMS)
    monkeypatch.setattr(forms, "FORMS", changed)
    with pytest.raises(AssertionError):
        for seed in range(60):
            check(drawn(seed))
