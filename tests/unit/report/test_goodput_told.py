"""What `parsim run` and `explain` tell of goodput, and that nothing is told where a scenario says nothing of checkpoints."""

from __future__ import annotations

import csv
import io
import json

import pytest
from msgspec.structs import replace

import parsim
from parsim.errors import PlanError
from parsim.goodput.predict import Goodput
from parsim.report import results
from parsim.report.explain import explain
from parsim.report.goodput import SEEDS

STORAGE = {"read_bandwidth": "1 GB/s", "write_bandwidth": "1 GB/s"}
SECTIONS = {
    "storage": STORAGE,
    "failures": {"rates": {"device_mtbf": "10 days", "job_mtbf": "5 days"}, "detection": "1 min", "restart": "9 min"},
    "checkpoint": {"interval": "30 min", "keep": 2},
}
BASE = {
    "model": "gpt2-large",
    "cluster": {"node": "dgx-a100-80gb", "price_per_device_hour": "2 USD"},
    "batch": {"global_batch": 32, "sequence_length": 1024},
    "training": {"total_tokens": "10G"},
    "plans": {"a": {"tensor_parallel": 2}},
}


@pytest.fixture(scope="module")
def scenario():
    return parsim.from_mapping({**BASE, **SECTIONS})


@pytest.fixture(scope="module")
def found(scenario):
    return parsim.predict_goodput(scenario, "a")


def test_a_scenario_without_the_sections_tells_nothing_of_goodput():
    plain = parsim.from_mapping(BASE)
    document = results.document(results.predict(plain))
    assert "goodput" not in json.dumps(document["plans"])
    assert not any("goodput" in column or "lost_" in column for column in results.table(results.predict(plain))[0])
    with pytest.raises(PlanError, match="nobody says what is kept against failures"):
        parsim.predict_goodput(plain, "a")


def test_goodput_follows_from_bytes_rates_and_steps(scenario, found):
    """14 bytes a parameter at 1 GB/s; 8 devices in 10 days and the job in 5: one failure a day."""
    assert found.write_s == pytest.approx(found.checkpoint_bytes / 1e9)
    assert found.kept_bytes == 2 * found.checkpoint_bytes
    assert found.mtbf_s == pytest.approx(86_400)
    assert found.restart_s == pytest.approx(600 + found.read_s)
    assert found.goodput + sum(found.losses.values()) == pytest.approx(1, rel=1e-12)
    estimate = parsim.estimate(scenario, "a")
    steps = -(-10_000_000_000 // (32 * 1024))
    assert found.time_s == pytest.approx(steps * estimate.step_s / found.goodput)
    assert found.cost_usd == pytest.approx(found.time_s / 3600 * 8 * 2)
    assert found.tokens_per_s == pytest.approx(found.goodput * estimate.tokens_per_s)


def test_a_checkpoint_that_hides_stalls_for_the_copy_to_the_host_alone(scenario):
    hidden = parsim.predict_goodput(replace(scenario, checkpoint=replace(scenario.checkpoint, asynchronous=True)), "a")
    link = scenario.cluster.node.host_link
    assert hidden.stall_s == pytest.approx(link.latency_s + hidden.device_bytes / link.bandwidth_bytes_per_s)
    assert hidden.goodput > parsim.predict_goodput(scenario, "a").goodput


def test_a_node_that_writes_slower_than_its_share_is_waited_for(scenario):
    """One node writes all, at what a node can."""
    slow = replace(scenario, storage=replace(scenario.storage, node_write_bytes_per_s=1e8))
    found = parsim.predict_goodput(slow, "a")
    assert found.write_s == pytest.approx(found.node_bytes / 1e8)


def test_json_and_csv_hold_the_same(scenario, found):
    predicted = results.predict(scenario)
    (plan,), (row,) = results.document(predicted)["plans"], results.table(predicted)
    assert plan["goodput"]["goodput"] == row["goodput"] == found.goodput
    assert row["lost_restart"] == plan["goodput"]["losses"]["restart"]
    assert (row["goodput_time_s"], row["checkpoint_bytes"]) == (found.time_s, found.checkpoint_bytes)
    assert "simulated" not in plan["goodput"]


def test_a_goodput_comes_back_from_its_document(found):
    assert Goodput.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    (row,) = csv.DictReader(io.StringIO(found.to_csv()))
    assert float(row["lost_rework"]) == found.losses["rework"]


@pytest.mark.slow
def test_events_are_told_beside_what_is_expected(scenario):
    few = replace(scenario, total_tokens=None)  # as many as some hundred failures
    (plan,) = results.document(results.predict(few, "simulate"))["plans"]
    lived = plan["goodput"]["simulated"]
    assert lived["runs"] == SEEDS
    assert lived["goodput"] == pytest.approx(plan["goodput"]["goodput"], abs=4 * lived["standard_error"])
    assert 0 < lived["standard_error"] < 0.002


@pytest.mark.parametrize("figure", ["goodput", "checkpoint_bytes", "checkpoint_interval"])
def test_explain_says_what_a_figure_follows_from(scenario, figure, found):
    (note,) = explain(scenario, "a", figure)
    told = dict(note.lines)
    expected = {
        "goodput": "a failure in 24 h: device 80.0 %, job 20.0 %",
        "checkpoint_bytes": f"{found.checkpoint_bytes:,}",
        "checkpoint_interval": "30 min",
    }
    assert expected[figure] in told["value"]


def test_too_little_storage_is_said(scenario):
    from parsim.report.goodput import follows_from

    small = replace(scenario, storage=replace(scenario.storage, capacity_bytes=10**9))
    assert any("holds too little" in line for line in follows_from(small, parsim.predict_goodput(small, "a")))


def test_a_run_that_would_hardly_end_is_refused_and_one_of_many_events_is_cut_short(scenario):
    from parsim.goodput.predict import work_of

    rates = scenario.failures.rates
    hopeless = replace(scenario, failures=replace(scenario.failures, rates=replace(rates, job_mtbf_s=60.0)))
    with pytest.raises(PlanError, match="would hardly end"):
        parsim.simulate_goodput(hopeless, "a")
    often = replace(scenario, total_tokens=10**15, checkpoint=replace(scenario.checkpoint, interval_s=20.0))
    estimate = parsim.estimate(often, "a")
    assert 3000 < work_of(often, estimate) / 20.0 < 1_000_000
