"""`parsim run` tells what feeds a plan where the scenario says what is read, and nothing of it elsewhere."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

import parsim
from parsim.cli import app
from parsim.report import feed_figure
from parsim.report import results as made

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / "scenarios" / "images-from-storage.yaml"


def run(path: Path, out: Path, *options: str) -> str:
    done = CliRunner().invoke(app, ["run", str(path), "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_run_shows_what_a_step_waits_for_and_what_would_feed_it(tmp_path: Path) -> None:
    said = " ".join(run(IMAGES, tmp_path, "--no-figure").split())
    assert "input: images-224 (changed) from claix-work, 1 worker a reader, 2 batches ahead" in said
    assert "needed of storage so that no step waits" in said and "reading and checkpoints together" in said
    first = json.loads((tmp_path / "results.json").read_text())["plans"][0]
    decode_s = 64 / 577  # 64 images of a device, 577 a second on its core
    assert first["input"]["slowest"] == "prepare"
    assert first["input"]["fed_step_s"] == pytest.approx(decode_s, abs=1e-12)
    assert first["input"]["stall_s"] == pytest.approx(decode_s - first["step_s"], abs=2e-12)
    assert first["storage"]["data_bytes"] == round(75.7e9 / 300 / 197 * 150e3)
    row = next(csv.DictReader((tmp_path / "results.csv").open()))
    assert float(row["stall_s"]) == first["input"]["stall_s"] and row["needs_workers"] == str(math.ceil(decode_s / first["step_s"]))


def test_a_step_of_a_scenario_is_the_same_with_and_without_its_input() -> None:
    scenario = parsim.load(IMAGES)
    with_input, without = made.predict(scenario), made.predict(parsim.load(IMAGES, changes={"input": None}))
    assert [each.estimate for each in with_input.plans] == [each.estimate for each in without.plans]
    assert with_input == made.predict(scenario)


def test_a_scenario_that_says_nothing_of_input_and_storage_is_told_nothing_of_them(tmp_path: Path) -> None:
    said = run(ROOT / "scenarios" / "table5-22b.yaml", tmp_path, "--no-figure")
    plan = json.loads((tmp_path / "results.json").read_text())["plans"][0]
    assert "input" not in said and "storage" not in said and not {"input", "storage"} & {*plan}
    assert not any("stall" in column or "storage" in column for column in (tmp_path / "results.csv").read_text().splitlines()[0].split(","))


def test_text_feeds_a_step_a_thousand_times_over() -> None:
    fed = parsim.supply(parsim.load(ROOT / "scenarios" / "text-from-storage.yaml"), "dp64")
    assert fed.stall_s == 0 and 1000 * fed.slowest.batch_s < fed.step_s


def test_the_figure_draws_the_wait_of_each_bandwidth_by_the_same_rule() -> None:
    fed = parsim.supply(parsim.load(IMAGES, changes={"input.workers": 8}), "plain")
    stored = 4096 * 150e3
    assert feed_figure.fed_step_s(fed, stored / 2.0) == pytest.approx(2.0)  # all images of a step in 2 s
    assert feed_figure.fed_step_s(fed, fed.needs.read_bytes_per_s) == fed.step_s
    slower = parsim.load(IMAGES, changes={"input.workers": 8, "storage.read_bandwidth": "5 GB/s"})
    assert feed_figure.fed_step_s(fed, 5e9) == pytest.approx(parsim.supply(slower, "plain").fed_step_s, abs=2e-12)
    rows = feed_figure.figure_rows([fed], 80e9)
    assert {row["panel"] for row in rows} == {"supply", "wait"} and feed_figure.demand(fed) == pytest.approx(4096 / fed.step_s)


@pytest.mark.slow
def test_a_figure_is_drawn_with_its_data_beside_it(tmp_path: Path) -> None:
    run(IMAGES, tmp_path, "--format", "svg")
    assert {path.name for path in tmp_path.iterdir()} >= {"feed.svg", "feed.csv"}
