"""What `parsim run` says of parameter servers, and writes: a line a plan, and curves by workers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import parsim
from parsim.asynchrony.draws import factors_of
from parsim.cli import app
from parsim.planner.workers import counts_of, rows_of
from parsim.scenario.disturbance import Disturbance, Jitter, Stragglers

PLANS = """
plans:
  sums: {micro_batch: 16}
  servers: {micro_batch: 16, gradient_sync: parameter_server}
disturbance:
  slow_devices: {1: 3}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    text = Path("scenarios/digits-mlp.yaml").read_text().split("plans:")[0] + PLANS
    text = text.replace("  framework", "  host_launch: 0 s\n  framework")
    (tmp_path / "served.yaml").write_text(text)
    return tmp_path


@pytest.mark.slow
def test_a_run_shows_plans_by_workers_and_writes_them(place: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(place / "served.yaml"), "-o", str(place / "out")])
    assert done.exit_code == 0, done.output
    assert "4 workers; stale by so many updates" in done.output and "what binds" in done.output
    assert (place / "out/servers.png").stat().st_size > 10_000
    rows = list(csv.DictReader((place / "out/servers.csv").open()))
    assert [(row["plan"], row["num_workers"]) for row in rows] == [("sums", "2"), ("sums", "4"), ("servers", "2"), ("servers", "4")]
    found = json.loads((place / "out/results.json").read_text())
    (plan, _) = (each for each in found["workers"] if each["plan"] == "servers")
    assert plan["run"]["num_applied"] > 0 and "parameter_servers" not in found["plans"][0]["plan"]


def test_one_slow_device_holds_up_sums_and_no_asynchronous_workers(place: Path) -> None:
    """Of workers whose kernels take K but one's that take 3 K, and launches nothing: a sum waits 2 K longer; rates without waits add up."""
    scenario = parsim.load(place / "served.yaml")
    (sums,), (servers,) = ([*rows_of(scenario, name, (4,))] for name in ("sums", "servers"))
    found, compute_s = parsim.estimate(scenario, "servers"), parsim.estimate(scenario, "sums").breakdown_s
    assert found.served is not None
    assert sums.step_s - sums.usual_step_s == pytest.approx(2 * (compute_s["compute"] + compute_s["optimizer"]))
    others = found.served.pull_ps + found.served.push_ps
    rates = 3 / (found.served.compute_ps + others) + 1 / (found.served.compute_ps + 2e12 * compute_s["compute"] + others)
    assert servers.step_s == pytest.approx(4 / rates / 1e12, rel=0.02)  # queues at the server, which is busy for a sixteenth of the time
    assert counts_of(scenario, scenario.plan("servers")) == [2, 4]


@pytest.mark.parametrize("distribution", ["normal", "lognormal", "gamma", "exponential", "uniform"])
def test_factors_have_a_mean_of_1_and_the_stated_spread(distribution: str) -> None:
    """Of four passes that draw each for itself, half of it; sigma of the mean of 100,000 is 0.06 %."""
    for per, spread in (("step", 0.2), ("pass", 0.1)):
        drawn = factors_of(Disturbance(kernels=Jitter(distribution, 0.2, per)), (100, 1000), num_passes=4, devices_per_node=8)
        assert (drawn.mean(), drawn.std()) == (pytest.approx(1, abs=0.003), pytest.approx(spread, rel=0.03))


def test_stragglers_are_slow_for_some_gradients() -> None:
    drawn = factors_of(Disturbance(stragglers=Stragglers(0.25, 4.0)), (100, 1000), num_passes=4, devices_per_node=8)
    assert {*np.unique(drawn).tolist()} == {1.0, 4.0} and (drawn == 4.0).mean() == pytest.approx(0.25, abs=0.01)
