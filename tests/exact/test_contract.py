"""The exactness contract on every legal pair and triple of features: integers equal on every rank, gradients those of one rank."""

from __future__ import annotations

import pytest

from parsim.verify import verify_plan
from support import STACKS, feature_sets, with_features

SETS = list(feature_sets(3))


@pytest.mark.parametrize("index", range(len(SETS)), ids=["-".join(names) for names in SETS])
def test_prediction_and_execution_agree_on_every_set_of_up_to_three_features(index: int) -> None:
    names = SETS[index]
    stack = STACKS[index % len(STACKS)]  # each stack meets a quarter of the sets; all meet all single features below
    scenario, plan = with_features(names, stack)
    wrong = [check for check in verify_plan(scenario, plan, "toy") if not check.ok]
    assert not wrong, wrong


@pytest.mark.parametrize("stack", STACKS, ids=["plain", "overlapped", "flash", "unfused"])
@pytest.mark.parametrize("name", ["dp", "tp", "sp", "pp", "vpp", "selective", "full", "gqa", "untied"])
def test_prediction_and_execution_agree_on_every_software_stack(name: str, stack: object) -> None:
    scenario, plan = with_features((name,), stack)  # type: ignore[arg-type]
    wrong = [check for check in verify_plan(scenario, plan, "toy") if not check.ok]
    assert not wrong, wrong


def test_a_contract_of_a_plan_names_every_quantity_it_compares() -> None:
    scenario, plan = with_features(("dp", "sp", "pp"), STACKS[0])
    quantities = {check.quantity for check in verify_plan(scenario, plan, "toy")}
    expected = {"FLOPs", "peak bytes", "weight gradients", "input gradients", "picoseconds, virtual clocks and simulate"}
    assert expected | {f"bytes sent over {axis}" for axis in ("dp", "tp", "pp")} <= quantities
