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
from support import GPT, STACKS, scenario


@pytest.mark.parametrize("fields", [{}, {"data_parallel": 2, "zero_stage": 3}, {"tensor_parallel": 2}], ids=["alone", "zero3", "tp"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_schedule_that_lays_both_ends_on_one_rank_keeps_the_contract(
    tied: bool, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedules.names()
    monkeypatch.setattr(SCHEDULES, "_values", {**SCHEDULES._values, "vee": Vee()})
    plan = Plan(pipeline_parallel=2, virtual_pipeline=2, schedule="vee", **fields)
    chosen = scenario(stack=STACKS[1], model=replace(GPT, tied_embedding=tied))
    assert not [check for check in verify_plan(chosen, plan, "vee") if not check.ok]
