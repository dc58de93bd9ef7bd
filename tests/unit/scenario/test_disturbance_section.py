"""The section `disturbance`: what it becomes, and what is said of what it cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from parsim import scenario
from parsim.errors import ParsimError, ScenarioError
from parsim.estimator.estimate import estimate
from parsim.scenario import Disturbance, Jitter, Scenario, Stragglers
from parsim.scenario.disturbance_section import DisturbanceSection, section_of

GOOD: dict[str, Any] = {
    "model": "tiny-gpt",
    "cluster": {"node": "dgx-a100-80gb"},
    "batch": {"global_batch": 8, "sequence_length": 16},
    "plans": {"a": {}},
}


def made(**section: object) -> Scenario:
    return scenario.from_mapping({**GOOD, "disturbance": section})


def test_a_section_becomes_factors_by_device_and_by_node():
    found = made(
        jitter={"kernels": {"distribution": "gamma", "cv": 0.05}, "links": {"distribution": "exponential", "cv": 0.3, "per": "step"}},
        stragglers={"probability": 0.01, "factor": 1.5},
        slow_devices={5: 1.25, "node 0": 2},
        slow_links={"node 0": 0.5},
        seed=7,
    ).disturbance
    assert found == Disturbance(
        Jitter("gamma", 0.05, "pass"), Jitter("exponential", 0.3, "step"), Stragglers(0.01, 1.5), {5: 1.25}, {0: 2.0}, {0: 0.5}, seed=7
    )
    assert [found.device_factor(device, 8) for device in (5, 6, 13)] == [2.5, 2.0, 1.0]
    assert DisturbanceSection.model_validate(section_of(found)).build() == found


def test_without_the_section_nothing_is_disturbed():
    assert scenario.from_mapping(GOOD).disturbance is None
    assert made().disturbance == Disturbance()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"slow_devices": {8: 1.1}}, "there is no device 8: the cluster has 8, from 0 to 7"),
        ({"slow_devices": {"node 1": 1.1}}, "there is no node 1: the cluster has 1, from 0 to 0"),
        ({"slow_links": {"node 2": 0.5}}, "there is no node 2"),
        ({"slow_links": {"node 0": 1.5}}, "must be at most 1, not 1.5"),
        ({"slow_links": {0: 0.5}}, "write a node as 'node 3'"),
        ({"slow_devices": {"gpu 1": 2}}, "write a device as its number, or a node as 'node 3', both counted from 0"),
        ({"slow_devices": {0: 0.5}}, "must be at least 1, not 0.5"),
        ({"jitter": {"kernels": {"distribution": "normal", "cv": 0.5}}}, "cv of a factor that is normal must be at most 0.25"),
        ({"jitter": {"kernels": {"distribution": "exponential", "cv": 1.5}}}, "cv of a factor that is exponential must be at most 1"),
        ({"jitter": {"kernels": {"distribution": "poisson", "cv": 0.5}}}, "legal: normal, lognormal, gamma, exponential, uniform"),
        ({"jitter": {"kernel": {"distribution": "gamma", "cv": 0.5}}}, "did you mean 'kernels'"),
        ({"jitter": {"kernels": {"distribution": "gamma", "cv": 1e-200}}}, "cv must be 0 or at least 1e-09"),
        ({"slow_devices": {1: 2, "1": 3}}, "'1' is there twice"),
        ({"samples": 0}, "must be above 0, not 0"),
        ({"stragglers": {"probability": 2, "factor": 1.5}}, "must be at most 1, not 2"),
        ({"slow_device": {1: 2}}, "did you mean 'slow_devices'"),
    ],
)
def test_what_it_cannot_be_is_said(section: dict[str, Any], said: str):
    with pytest.raises(ScenarioError) as found:
        made(**section)
    assert said in str(found.value) and "disturbance" in str(found.value)


def test_one_that_is_changed_by_hand_is_held_to_the_same():
    changed = replace(scenario.from_mapping(GOOD), disturbance=Disturbance(Jitter("normal", 0.5), slow_devices={9: 1.1}))
    with pytest.raises(ParsimError, match=r"disturbance.jitter.kernels.*cv of a factor that is normal"):
        estimate(changed, "a")
