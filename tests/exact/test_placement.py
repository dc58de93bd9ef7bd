"""A schedule says where a stage lives: two neighbouring stages of one rank hand on without a message, and both ends may share a rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from parsim import schedules
from parsim.parallel.plan import Plan
from parsim.schedules import SCHEDULES, Action, Phase, Schedule
from parsim.verify import verify_plan
from support import GPT, STACKS, scenario


class Vee(Schedule):
    """Two chunks a rank, down the ranks and up again; all forwards, then all backwards."""

    source = "made up; the placement of Qi et al. 2024 (arXiv:2405.15362)"

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        return None if chunks == 2 else "runs two chunks a rank"

    def rank_of(self, stage: int, num_ranks: int) -> int:
        return min(stage, 2 * num_ranks - 1 - stage)

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        own = (rank, 2 * num_ranks - 1 - rank)
        yield from (Action(stage, Phase.F, m) for stage in own for m in range(num_micro_batches))
        yield from (Action(stage, Phase.B, m) for stage in reversed(own) for m in range(num_micro_batches))


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
