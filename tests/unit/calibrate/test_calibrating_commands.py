"""`parsim calibrate` and `parsim verify --time`: tables, files whole or not at all, and a SKIP where nothing clean was seen."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from calibrations import PACE_S, calibration, many
from typer.testing import CliRunner, Result

from parsim.calibrate import wall
from parsim.calibrate.calibration import Calibration
from parsim.calibrate.machine import build_node, load_node, text_of
from parsim.calibrate.samples import Samples
from parsim.cli import app
from parsim.report import calibrating

SCENARIO = """
model: tiny-gpt
cluster: {node: {base: one-cpu-generic, devices_per_node: 2}}
batch: {global_batch: 4, sequence_length: 8, dtype: fp32}
plans:
  two: {data_parallel: 2}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wall, "num_cores", lambda: 2)
    (tmp_path / "a.yaml").write_text(SCENARIO)
    (tmp_path / "machine.yaml").write_text(text_of(calibration().row, "machine.yaml"))
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_calibrate_shows_what_it_rests_on_and_writes_the_row(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = calibration()
    monkeypatch.setattr(calibrating, "calibrate", lambda seconds, progress: found)
    result = call("calibrate", "--out", "new/mine.yaml")
    assert result.exit_code == 0, result.output
    add = next(line.split() for line in result.stdout.splitlines() if line.startswith("add"))
    assert add[:4] == ["add", "9", "45", "9"]  # nine shapes, five clean samples of each and one dropped
    assert "new/mine.yaml: this machine's cores" in result.stdout
    assert load_node(here / "new" / "mine.yaml") == build_node(found.row)


def test_too_few_clean_samples_end_with_status_1_and_without_a_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "calibrate", lambda seconds, progress: Calibration((), (), (), ("einsum", "all_reduce")))
    result = call("calibrate", "--out", "mine.yaml")
    assert result.exit_code == 1
    assert "too few clean samples of: einsum, all_reduce" in result.stderr
    assert not (here / "mine.yaml").exists()


def test_a_place_that_cannot_be_written_is_told_before_the_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "calibrate", lambda seconds, progress: pytest.fail("it was asked to work"))
    result = call("calibrate", "--out", "a.yaml/mine.yaml")
    assert result.exit_code == 2
    assert "is a file, not a directory" in result.stderr


def test_verify_time_sets_a_prediction_against_the_clock(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wall, "estimate_legal", lambda *asked: SimpleNamespace(step_s=3e-3))
    monkeypatch.setattr(wall, "sample_steps", lambda scenario, plan, seconds: many(2e-3, num_dropped=4))
    result = call("verify", "a.yaml", "--time", "--machine", "machine.yaml", "--json")
    assert result.exit_code == 0, result.output
    (plan,) = json.loads(result.stdout)["plans"]
    assert plan["error"] == pytest.approx(0.5)
    assert (plan["predicted_s"], plan["measured_s"], plan["num_kept"], plan["num_dropped"], plan["skipped"]) == (3e-3, 2e-3, 5, 4, "")


@pytest.mark.parametrize(("cores", "reason"), [(2, "1 of 9 samples are clean, 5 are needed"), (1, "2 ranks, but 1 cores")])
def test_what_could_not_be_measured_is_a_skip_with_its_reason(here: Path, monkeypatch: pytest.MonkeyPatch, cores: int, reason: str) -> None:
    monkeypatch.setattr(wall, "num_cores", lambda: cores)
    monkeypatch.setattr(wall, "sample_steps", lambda scenario, plan, seconds: Samples([2e-3], 8, [PACE_S]))
    result = call("verify", "a.yaml", "--time", "--machine", "machine.yaml")
    assert result.exit_code == 0, result.output
    assert set(reason.split()) <= set(result.stdout.split()) and "SKIP:" in result.stdout  # a narrow terminal folds the sentence


def test_the_executed_stack_waits_for_its_collectives(here: Path) -> None:
    from parsim.scenario import load

    scenario = wall.on(load(here / "a.yaml"), load_node(here / "machine.yaml"))
    assert not scenario.stack.tensor_overlap and not scenario.stack.gradient_overlap
    assert scenario.cluster.node.accelerator.kernels


def test_a_wrong_machine_file_ends_with_status_2(here: Path) -> None:
    result = call("verify", "a.yaml", "--time", "--machine", "none.yaml")
    assert result.exit_code == 2
    assert "none.yaml: no such file" in result.stderr


@pytest.mark.slow
def test_calibrate_runs_and_writes_or_says_that_the_machine_is_busy(here: Path) -> None:
    result = call("calibrate", "--out", "mine.yaml", "--seconds", "2")
    assert result.exit_code in (0, 1), result.output
    assert (here / "mine.yaml").exists() == (result.exit_code == 0)
