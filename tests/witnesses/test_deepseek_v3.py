"""The shipped scenario of DeepSeek-V3 beside what its report says (DeepSeek-AI 2024, arXiv:2412.19437)."""

from __future__ import annotations

from pathlib import Path

import pytest

import parsim
from parsim import estimate, load
from parsim.estimator.result import Estimate
from parsim.scenario import Scenario

NAME = "reported"


@pytest.fixture(scope="module")
def shipped() -> Scenario:
    return load(Path(__file__).parents[2] / "scenarios" / "deepseek-v3-2048.yaml")


@pytest.fixture(scope="module")
def predicted(shipped: Scenario) -> Estimate:
    return estimate(shipped, NAME)


def test_the_plan_lies_as_reported(shipped: Scenario, predicted: Estimate) -> None:
    plan = predicted.plan
    assert plan.pipeline_parallel * plan.data_parallel == 2048 == shipped.cluster.num_devices  # section 3.2: no tensor parallelism
    assert plan.expert_parallel == 8 * shipped.cluster.node.devices_per_node  # 64 ranks of 8 nodes
    assert predicted.num_micro_batches == 15_360 * 16 // 2048 // 2 and sum(predicted.layers) == 61  # half of them from each end


def test_hours_for_a_trillion_tokens_are_near_the_reported_ones(shipped: Scenario, predicted: Estimate) -> None:
    hours = predicted.step_s / 3600 * 2048 * 1e12 / (15_360 * 4096)
    assert hours == pytest.approx(180_000, rel=0.1)  # table 1; nothing is fitted to it
    assert shipped.measured[NAME].step_s == pytest.approx(180_000 * 3600 / 2048 / (1e12 / 15_360 / 4096), rel=1e-3)


def test_what_fits_is_named_beside_it(shipped: Scenario) -> None:
    assert estimate(shipped, "experts_again").fits and parsim.remedies(shipped, NAME).changes
