"""What `parsim run` says of a scenario with the section `disturbance`, and that it says nothing new of one without."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import parsim
from parsim.cli import app

ROOT = Path(__file__).parents[3]
SMALL = ("run", str(ROOT / "scenarios" / "tiny.yaml"), "--set", "disturbance.samples=20")
JITTER = ("--set", "disturbance.jitter.kernels.distribution=gamma", "--set", "disturbance.jitter.kernels.cv=0.1")
APART = {"data_parallel": 2, "tensor_parallel": 2, "micro_batch": 1, "gradient_sync": "local_sgd", "local_steps": 2}


def test_a_run_with_the_section_tells_the_distribution_the_causes_and_what_a_slow_device_costs(tmp_path: Path):
    done = CliRunner().invoke(app, [*SMALL, *JITTER, "-o", str(tmp_path), "--no-figure"])
    assert done.exit_code == 0
    for said in ("disturbed: 20 steps drawn", "each cause by itself", "jitter of", "one slow device", "1.5 times as slow"):
        assert said in done.stdout
    document = json.loads((tmp_path / "results.json").read_text())
    steps = [*csv.DictReader((tmp_path / "disturbance.csv").open())]
    for plan in document["plans"]:
        own = sorted(float(row["step_s"]) for row in steps if row["plan"] == plan["name"])
        found = plan["disturbance"]
        assert len(own) == found["samples"] == 20 and found["step_s"] == plan["step_s"]
        assert [found["p50_s"], found["p90_s"], found["p99_s"]] == [own[9], own[17], own[19]]
        assert found["mean_s"] == pytest.approx(sum(own) / 20)
        assert [each["name"] for each in found["causes"]] == ["jitter of kernels"]
    rows = [*csv.DictReader((tmp_path / "results.csv").open())]
    assert [float(row["disturbed_p99_s"]) for row in rows] == [plan["disturbance"]["p99_s"] for plan in document["plans"]]


@pytest.mark.slow
def test_a_run_draws_the_distributions(tmp_path: Path):
    assert CliRunner().invoke(app, [*SMALL, *JITTER, "-o", str(tmp_path)]).exit_code == 0
    assert {"disturbance.csv", "disturbance.png"} <= {path.name for path in tmp_path.iterdir()}


def test_a_run_without_the_section_says_nothing_of_it(tmp_path: Path):
    done = CliRunner().invoke(app, [*SMALL[:2], "-o", str(tmp_path), "--json", "--no-figure"])
    assert "disturb" not in done.stdout and not list(tmp_path.glob("disturb*"))
    assert "disturb" not in (tmp_path / "results.csv").read_text()


def test_a_fault_of_the_section_ends_with_status_2_and_a_sentence():
    done = CliRunner().invoke(app, [*SMALL, "--set", "disturbance.slow_devices={99: 2}"])
    assert done.exit_code == 2 and "there is no device 99" in done.output and "Traceback" not in done.output


def test_the_shipped_scenario_shows_that_fully_sharded_replicas_wait_most_for_long_documents():
    scenario = parsim.load(ROOT / "scenarios" / "stragglers.yaml", changes={"disturbance.samples": 100})
    costs = {name: parsim.disturb(scenario, name).costs()["imbalance"] for name in ("tensor", "fsdp")}
    assert costs["fsdp"] > 3 * costs["tensor"] > 0  # the longest of 32 x 2 rows, and of 4 sums of 16


def test_a_plan_whose_steps_are_not_drawn_is_told_beside_the_others(tmp_path: Path):
    apart = ("--set", f"plans.apart={json.dumps(APART)}")
    done = CliRunner().invoke(app, [*SMALL, *JITTER, *apart, "-o", str(tmp_path), "--no-figure"])
    assert done.exit_code == 0 and "apart: steps of replicas that train apart are not drawn" in done.stdout
    drawn = {plan["name"]: "disturbance" in plan for plan in json.loads((tmp_path / "results.json").read_text())["plans"]}
    assert not drawn.pop("apart") and all(drawn.values())
    scenario = parsim.load(ROOT / "scenarios" / "tiny.yaml", changes={"disturbance.samples": 20, "plans.apart": APART})
    with pytest.raises(parsim.ParsimError, match="are not drawn"):
        parsim.disturb(scenario, "apart")
