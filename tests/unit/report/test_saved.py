"""A saved plan is priced anew when it is loaded, and says when its scenario has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import parsim
from parsim.errors import ParsimError, PlanError, ScenarioError
from parsim.parallel.plan import Plan
from parsim.scenario.source import Source
from parsim.sweeps.key import digest

TEXT = """
model: tiny-gpt
cluster: {node: dgx-a100-80gb}
batch: {global_batch: 8, sequence_length: 16}
plans: {a: {tensor_parallel: 2}, b: {tensor_parallel: 1}}
"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(TEXT)
    scenario = parsim.load(tmp_path / "s.yaml")
    return parsim.save_plan(scenario, scenario.plan("a"), tmp_path / "out" / "plan.json")


def test_a_saved_plan_is_priced_for_its_scenario(saved: Path) -> None:
    found = parsim.load_plan(saved)
    assert found.plan.tensor_parallel == 2 and not found.changed and not found.note
    assert found.estimate.step_s == found.saved_step_s == parsim.estimate(found.scenario, "a").step_s


def test_a_changed_scenario_is_told_and_gives_another_price(saved: Path) -> None:
    (saved.parents[1] / "s.yaml").write_text(TEXT.replace("global_batch: 8", "global_batch: 16"))
    found = parsim.load_plan(saved)
    assert found.changed and found.estimate.step_s > found.saved_step_s
    assert "has changed since the plan was saved: a step took" in found.note


def test_other_plans_and_names_are_no_change(saved: Path) -> None:
    (saved.parents[1] / "s.yaml").write_text(TEXT.replace("b: {tensor_parallel: 1}", "c: {micro_batch: 1}") + "name: other\n")
    assert not parsim.load_plan(saved).changed


def test_each_part_that_prices_depend_on_changes_the_hash() -> None:
    plain = {
        "model": "tiny-gpt",
        "cluster": {"node": "dgx-a100-80gb"},
        "batch": {"global_batch": 8, "sequence_length": 16},
        "plans": {"a": {}},
    }
    others = (
        {"stack": "torchtitan"},
        {"batch": {"global_batch": 8, "sequence_length": 8}},
        {"cluster": {"node": "dgx-a100-40gb"}},
        {"model": {"base": "tiny-gpt", "name": "tiny-gpt", "num_layers": 4}},
    )
    found = {digest(parsim.from_mapping({**plain, **other})) for other in ({}, *others)}
    assert len(found) == 1 + len(others)


def test_a_plan_that_is_not_legal_any_more_says_why(saved: Path) -> None:
    (saved.parents[1] / "s.yaml").write_text(TEXT.replace("dgx-a100-80gb}", "dgx-a100-80gb, num_devices: 4}"))
    with pytest.raises(PlanError, match="no legal plan of"):
        parsim.load_plan(saved)
    other = parsim.load(saved.parents[1] / "s.yaml")
    with pytest.raises(PlanError, match=str(saved)):
        parsim.load_plan(saved, scenario=other)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is no saved plan: scenario, changes, scenario_hash, plan, step_s"),
        ('{"scenario": "s.yaml"}', "scenario_hash"),
        (json.dumps({"schema": 5, "scenario": "s.yaml", "changes": {}, "scenario_hash": "", "plan": {}, "step_s": 1.0}), "has schema 5"),
    ],
)
def test_a_file_that_is_none_is_refused(saved: Path, text: str, said: str) -> None:
    saved.write_text(text)
    with pytest.raises(ParsimError, match=said):
        parsim.load_plan(saved)


def test_files_that_are_not_there_are_told(saved: Path) -> None:
    with pytest.raises(ParsimError, match="No such file"):
        parsim.load_plan(saved.with_name("other.json"))
    saved.write_text(json.dumps({**json.loads(saved.read_text()), "scenario": "none.yaml"}))
    with pytest.raises(ScenarioError, match=r"none\.yaml"):
        parsim.load_plan(saved)


def test_a_place_that_cannot_be_written_is_told_as_it_was_named(saved: Path) -> None:
    scenario = parsim.load(saved.parents[1] / "s.yaml")
    with pytest.raises(ParsimError, match=f"^{saved.parent}: Is a directory"):
        parsim.save_plan(scenario, scenario.plan("a"), saved.parent)


def test_what_was_set_beside_a_file_or_in_place_of_one_is_kept(tmp_path: Path) -> None:
    path = str(Path(__file__).parents[3] / "scenarios" / "plan-gpt3-13b.yaml")
    asked = {"model": "gpt2-small", "node": "h100"}
    for chosen in (parsim.load(path, changes={"batch.global_batch": 1024}), Source(options=asked).load()):
        plan = Plan(data_parallel=chosen.cluster.num_devices)
        loaded = parsim.load_plan(parsim.save_plan(chosen, plan, tmp_path / "plan.json"))
        assert not loaded.changed and not loaded.note and loaded.scenario.batch == chosen.batch
