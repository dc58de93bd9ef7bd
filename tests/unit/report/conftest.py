"""A scenario small enough for a test, and its results: two plans of a tiny model on four devices, one of them measured."""

from __future__ import annotations

import pytest

from parsim.report.results import Results, predict
from parsim.scenario import Scenario, from_mapping

TINY = {
    "name": "tiny",
    "model": "tiny-gpt",
    "cluster": {"node": {"base": "dgx-a100-80gb", "devices_per_node": 4}},
    "batch": {"global_batch": 4, "sequence_length": 16},
    "plans": {
        "split": {"tensor_parallel": 2, "pipeline_parallel": 2},
        "a replica each": {"data_parallel": 4},
    },
    "measured": {"split": {"step_time": "2 ms", "source": "made up for this test"}},
}


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    return from_mapping(TINY, name="tiny")


@pytest.fixture(scope="session")
def results(scenario: Scenario) -> Results:
    return predict(scenario)
