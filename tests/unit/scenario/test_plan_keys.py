"""A field of Plan is stated once, in plan.py: files, their schema, legality and the planner read its line there."""

from __future__ import annotations

import pytest

from parsim import scenario
from parsim.parallel import legality
from parsim.parallel.plan import KEYS, Batch, Plan
from parsim.planner.space import candidates, default_axes
from parsim.scenario.document import PlanSection
from support import scenario as toy

NAMES = [*Plan.__struct_fields__]


def test_files_schema_and_planner_know_the_fields_of_plan_and_no_others():
    assert list(PlanSection.model_fields) == list(scenario.schema()["definitions"]["PlanSection"]["properties"]) == NAMES
    assert sorted(default_axes()) == sorted(NAMES) == sorted(KEYS)


def test_what_a_file_leaves_out_is_the_default_of_plan():
    loaded = scenario.from_mapping(
        {
            "model": "tiny-gpt",
            "cluster": {"node": {"base": "dgx-a100-80gb", "devices_per_node": 1}},
            "batch": {"global_batch": 2, "sequence_length": 16},
            "plans": {"a": {}},
        }
    )
    assert loaded.plan("a") == Plan()


@pytest.mark.parametrize("name", [name for name in NAMES if KEYS[name].legal])
def test_a_value_beside_the_legal_ones_is_a_fault_of_the_plan(name):
    found = legality.faults(Plan(**{name: 9 if KEYS[name].type == "int" else "nothing"}), None, None, None)
    assert [fault.field for fault in found] == [name]


@pytest.mark.parametrize("name", [name for name in NAMES if KEYS[name].legal and not KEYS[name].auto])
def test_auto_tries_every_legal_value(name):
    space = scenario.PlanSpace("a", {name: ("auto",)})
    assert {getattr(plan, name) for plan in candidates(toy(batch=Batch(128, 8)), space).plans} == set(KEYS[name].auto or KEYS[name].legal)


@pytest.mark.parametrize("name", [name for name in NAMES if KEYS[name].type.startswith("bool")])
def test_auto_tries_both_of_a_switch(name):
    others: dict[str, tuple[object, ...]] = {
        "sequence_parallel": {"tensor_parallel": (2,)},
        "reshard_after_forward": {"zero_stage": (3,)},
        "optimizer_in_backward": {"micro_batch": (2,)},  # all of a replica's
    }.get(name, {})  # type: ignore[assignment]
    space = scenario.PlanSpace("a", {**others, name: ("auto",)})
    assert {getattr(plan, name) for plan in candidates(toy(batch=Batch(128, 8)), space).plans} == {
        False,
        True,
    }
