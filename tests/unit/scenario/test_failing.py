"""The sections on failures and checkpoints: what they become, what is refused, and what the catalog's rates add up to."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from msgspec.structs import replace

import parsim
from parsim.errors import ParsimError, ScenarioError
from parsim.scenario.reliability import Checkpoint, FailureRates, Failures
from parsim.scenario.rows import read

DAY = 86_400
BASE: dict[str, Any] = {
    "model": "tiny-gpt",
    "cluster": {"node": "dgx-a100-80gb"},
    "batch": {"global_batch": 8, "sequence_length": 16},
    "plans": {"a": {"tensor_parallel": 2}},
}
KEPT: dict[str, Any] = {"interval": "30 min", "write_time": "10 s", "read_time": "10 s"}


def load(**sections: Any) -> Any:
    return parsim.from_mapping({**BASE, **sections})


def test_a_scenario_without_the_sections_has_neither():
    assert load().failures is None
    assert load().checkpoint is None


def test_own_rates_and_those_of_the_catalog_are_read():
    own = load(failures={"rates": {"device_mtbf": "100 days"}, "restart": "5 min"}, checkpoint=KEPT)
    assert (own.failures.rates.device_mtbf_s, own.failures.restart_s, own.failures.repair_s) == (100 * DAY, 300.0, None)
    named = load(failures={"rates": "llama3-h100", "restart": "5 min", "repair": "1 day", "spare_nodes": 3}, checkpoint=KEPT)
    assert named.failures.rates == read("failures", "llama3-h100")
    assert named.failures.spare_nodes == 3


@pytest.mark.parametrize(
    ("interval", "steps", "seconds"), [("optimum", None, None), (200, 200, None), ("30 min", None, 1800.0), ("90 s", None, 90.0)]
)
def test_an_interval_is_the_optimum_a_number_of_steps_or_a_time(interval, steps, seconds):
    found = load(failures={"rates": "bloom-a100", "restart": "0 s"}, checkpoint={**KEPT, "interval": interval}).checkpoint
    assert (found.interval_steps, found.interval_s) == (steps, seconds)


@pytest.mark.parametrize(
    ("sections", "place", "said"),
    [
        ({"failures": {"rates": "bloom-a100", "restart": "1 min"}}, "checkpoint", "begins anew"),
        ({"checkpoint": {**KEPT, "interval": "optimum"}}, "checkpoint.interval", "give failures"),
        ({"failures": {"rates": "blom", "restart": "1 min"}, "checkpoint": KEPT}, "failures.rates", "known: llama3-h100"),
        ({"failures": {"rates": {}, "restart": "1 min"}, "checkpoint": KEPT}, "failures.rates", "states no rate of failures"),
        ({"failures": {"rates": "bloom-a100"}, "checkpoint": KEPT}, "failures.restart", "missing"),
        ({"failures": {"mtbf": "1 h", "rates": "opt-a100", "restart": "1 s"}, "checkpoint": KEPT}, "failures.mtbf", "did you mean 'rates'"),
        ({"failures": {"rates": "opt-a100", "restart": "1 s", "elastic": True}, "checkpoint": KEPT}, "failures", "give repair"),
        ({"checkpoint": {"interval": 5}}, "checkpoint", "give storage, or checkpoint.write_time"),
        ({"checkpoint": {"interval": 5}, "storage": "deepseek-3fs"}, "checkpoint", "states no rate to write at"),
        ({"checkpoint": {**KEPT, "interval": 0}}, "checkpoint.interval", "must be optimum, a number of steps, or a time"),
        ({"checkpoint": {**KEPT, "writers": "some"}}, "checkpoint.writers", "legal: all, first, each"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(sections, place, said):
    with pytest.raises(ScenarioError) as error:
        load(**sections)
    assert any(place == fault.where and said in str(fault) for fault in error.value.faults), [str(each) for each in error.value.faults]


def test_a_section_at_fault_is_not_called_missing():
    with pytest.raises(ScenarioError) as error:
        load(failures={"rates": "bloom-a100", "restart": "soon"}, checkpoint={"interval": 0}, storage={"read_bandwidth": "fast"})
    assert {fault.where for fault in error.value.faults} == {"failures.restart", "checkpoint.interval", "storage.read_bandwidth"}


def test_the_rates_of_llama_3_give_back_its_419_interruptions_in_54_days():
    rates = read("failures", "llama3-h100").by_cause(16_384, 2048)
    counts = {cause: round(rate * 54 * DAY) for cause, rate in rates.items()}
    assert counts == {"device": 268, "node": 53, "switch": 35, "job": 63}
    assert sum(counts.values()) == 419


def test_a_switch_too_few_nodes_still_counts():
    rates = read("failures", "llama3-h100")
    assert rates.by_cause(8, 1)["switch"] == rates.by_cause(16, 2)["switch"] == rates.by_cause(24, 3)["switch"] / 2


def test_a_figure_of_a_row_is_changed_by_its_path():
    sections = {"failures": {"rates": "bloom-a100", "restart": "0 s"}, "checkpoint": KEPT}
    twice = parsim.from_mapping({**BASE, **sections}, changes={"failures.rates.device_mtbf": "2x"})
    assert twice.failures.rates.device_mtbf_s == 2 * 1792 * DAY


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"checkpoint": Checkpoint(interval_s=inf, write_s=1.0, read_s=1.0)}, "checkpoint.interval_s must be finite, not inf"),
        ({"checkpoint": Checkpoint(write_s=1.0, read_s=1.0)}, "checkpoint.interval: the optimum follows from how often a run fails"),
        ({"failures": Failures(FailureRates("toy", device_mtbf_s=0.0), 1.0)}, "failures.rates.device_mtbf_s must be above 0, not 0"),
    ],
)
def test_what_is_made_by_hand_is_held_to_it(change, said):
    with pytest.raises(ParsimError, match=said):
        parsim.estimate(replace(parsim.load("scenarios/tiny.yaml"), **change), "master")
