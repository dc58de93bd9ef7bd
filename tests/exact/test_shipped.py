"""The plans of shipped scenarios agree with their execution, by a small likeness where they are large."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import astuple

import parsim
from parsim.verify import shrunk, verify_plan

SCENARIOS = {path.stem: parsim.load(path) for path in sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))}
LONG = ("deepseek-v3-2048",)  # as ten others; its attention, experts, later token and schedule have tests of their own
EVERY = [(name, plan) for name, scenario in SCENARIOS.items() for plan in scenario.plans]
FIRST = [each for each in EVERY if each[1] == next(iter(SCENARIOS[each[0]].plans)) and each[0] not in LONG]


@pytest.mark.parametrize(("name", "plan"), [*FIRST, *(pytest.param(*each, marks=pytest.mark.slow) for each in EVERY if each not in FIRST)])
def test_a_shipped_plan_is_executed_as_predicted(name: str, plan: str) -> None:
    scenario, chosen = SCENARIOS[name], SCENARIOS[name].plans[plan]
    if not chosen.is_served:
        scenario, chosen, _ = astuple(shrunk(scenario, chosen))
    checks = verify_plan(scenario, chosen, plan)
    assert [check for check in checks if not check.ok] == []
    assert len({check.quantity for check in checks}) > (1 if chosen.is_served else 10)
