"""A schedule says where a stage lives: two neighbouring stages of one rank hand on without a message, and both ends may share a rank."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from made_up import Vee
from parsim import schedules
from parsim.parallel.plan import Plan
from parsim.schedules import SCHEDULES
from parsim.verify import verify_plan
from support import GPT, STACKS, every_other, scenario

PLANS: dict[str, dict[str, Any]] = {"alone": {}, "zero3": {"data_parallel": 2, "zero_stage": 3}, "tp": {"tensor_parallel": 2}}


@pytest.mark.parametrize("case", every_other(PLANS, [True, False], "{}-{}".format))
def test_a_schedule_that_lays_both_ends_on_one_rank_keeps_the_contract(case: tuple[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    fields, tied = PLANS[case[0]], case[1]
    schedules.names()
    monkeypatch.setattr(SCHEDULES, "_values", {**SCHEDULES._values, "vee": Vee()})
    plan = Plan(pipeline_parallel=2, virtual_pipeline=2, schedule="vee", **fields)
    chosen = scenario(stack=STACKS[1], model=replace(GPT, tied_embedding=tied))
    assert not [check for check in verify_plan(chosen, plan, "vee") if not check.ok]
