"""Ranks of ZeRO 1 that hand on their new weights in turn pay the start of a broadcast each, and move as many bytes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import estimate_legal
from parsim.parallel.plan import Plan
from support import GPT, LINK, STACK, reds, scenario

IN_TURN = replace(STACK, broadcasts_weights=True)
MODEL = replace(GPT, num_layers=1)


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_part_passes_every_link_and_each_rank_but_one_adds_the_start_of_a_ring(ranks: int) -> None:
    """At once a link carries all parts but one, one after another all of them: of two ranks one sends while the other waits."""
    plan = Plan(data_parallel=ranks, zero_stage=1)
    at_once, in_turn = (estimate_legal(scenario(model=MODEL, stack=stack), plan) for stack in (STACK, IN_TURN))
    ring_s = 1e-6 + (ranks - 1) * 1e-6  # the toy node's start, and a step to each other rank
    part_s = at_once.memory_bytes[0]["parameters"] / ranks / LINK.bandwidth_bytes_per_s
    assert in_turn.step_s - at_once.step_s == pytest.approx((ranks - 1) * ring_s + part_s, abs=2e-7)  # parts of whole elements
    assert in_turn.sent_bytes == at_once.sent_bytes


def test_without_zero_nothing_is_handed_on() -> None:
    plan = Plan(data_parallel=2)
    assert estimate_legal(scenario(model=MODEL, stack=IN_TURN), plan).step_s == estimate_legal(scenario(model=MODEL), plan).step_s


def test_execution_agrees() -> None:
    assert not reds(scenario(model=MODEL, stack=IN_TURN), Plan(data_parallel=2, zero_stage=1))
