"""A run with fewer replicas: as many as the other nodes have room for, each with its sequences, at the estimator's step."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

import parsim
from parsim.goodput import shrink
from parsim.goodput.predict import goodput_of, outage_of
from parsim.goodput.scaling import by_devices
from parsim.goodput.shrink import levels_of

SCENARIOS = Path(__file__).parents[3] / "scenarios"


@pytest.fixture(scope="module")
def bloom():
    """Eight replicas of 48 devices, 6 nodes each."""
    return parsim.load(SCENARIOS / "bloom-goodput.yaml", changes={"failures.spare_nodes": 0, "failures.elastic": True})


@pytest.fixture(scope="module")
def found(bloom):
    return parsim.estimate(bloom, "bloom")


def test_a_replica_is_lost_with_the_first_of_its_nodes_and_the_run_ends_with_the_last(bloom, found):
    levels = levels_of(bloom, found)
    assert [round(8 * each.nodes) for each in levels] == [7] * 6 + [6] * 6 + [5] * 6 + [4] * 6 + [3] * 6 + [2] * 6 + [1] * 6
    assert outage_of(bloom, found).level(43).speed == 0


def test_seven_replicas_take_the_step_that_they_would_take_alone(bloom, found):
    """Seven eighths of the tokens, in the step of a scenario that has no more."""
    changes = {"cluster.num_nodes": 42, "batch.global_batch": 2048 * 7 // 8}
    alone = parsim.estimate(parsim.load(SCENARIOS / "bloom-goodput.yaml", changes=changes), "bloom")
    level = levels_of(bloom, found)[0]
    assert level.speed == pytest.approx(7 / 8 * found.step_s / alone.step_s, rel=1e-6)


def test_a_mutant_that_keeps_all_sequences_is_noticed(bloom, found, monkeypatch):
    monkeypatch.setattr(
        shrink, "replace", lambda each, **changes: replace(each, **{k: v for k, v in changes.items() if k != "global_batch"})
    )
    with pytest.raises(AssertionError):
        test_seven_replicas_take_the_step_that_they_would_take_alone(bloom, found)


def test_nodes_that_are_back_at_once_are_never_missing(bloom, found):
    at_once = replace(bloom, failures=replace(bloom.failures, repair_s=0.0, spare_nodes=0, elastic=True))
    assert goodput_of(at_once, found).losses["shrunk"] == 0


def test_more_devices_of_the_same_plan_fail_in_proportion(bloom, found):
    own = replace(bloom, failures=replace(bloom.failures, elastic=False))
    rates = {devices: each.failures_per_s["device"] / devices for devices, each in by_devices(own, found)}
    assert [*rates] == [48, 96, 192, 384, 768, 1536, 3072]
    assert len({round(each * 1e15) for each in rates.values()}) == 1
