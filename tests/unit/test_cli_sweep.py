"""`parsim sweep` as a command: files, formats, statuses."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from parsim.cli import app
from parsim.scenario import tree

BASE = """model: tiny-gpt
cluster: {node: {base: dgx-a100-80gb, devices_per_node: 4}}
batch: {global_batch: 8, sequence_length: 16}
plans:
  a: {tensor_parallel: 2}
  open: {tensor_parallel: auto}
"""
SWEEP = """scenario: base.yaml
over:
  model: [tiny-gpt, tiny-llama, {base: tiny-gpt, num_layers: 6}]
  plans.a.tensor_parallel: [1, 2, 3]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "s.yaml").write_text(SWEEP)
    return tmp_path


def parsim(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_table_the_csv_and_the_lines_of_json_say_the_same(here: Path) -> None:
    done = parsim("sweep", "s.yaml")
    assert done.exit_code == 0, done.output
    assert "9 points, 9 rows; 6 fit" in done.stdout and "plans.a.tensor_parallel: " in done.stdout
    assert "6 estimated, 0 rows from the cache\nwrote reports/sweep-s/{results.csv,results.jsonl}" in done.stderr
    rows = list(csv.DictReader((here / "reports/sweep-s/results.csv").open()))
    lines = [json.loads(line) for line in (here / "reports/sweep-s/results.jsonl").read_text().splitlines()]
    assert len(rows) == len(lines) == 9
    for row, line in zip(rows, lines, strict=True):
        assert (row["plan"], int(row["point"])) == (line["name"], line["point"])
        assert row["tensor_parallel"] == str(line["plan"]["tensor_parallel"]) == row["plans.a.tensor_parallel"]
        assert (float(row["step_s"]) if row["step_s"] else None) == line["figures"].get("step_s")
        assert row["reason"] == (line["reason"] or "")
    assert json.loads(rows[-1]["model"]) == lines[-1]["changes"]["model"] == {"base": "tiny-gpt", "num_layers": 6}


def test_each_file_is_read_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, right = list[str](), tree.read
    monkeypatch.setattr(tree, "read", lambda path: read.append(Path(path).name) or right(path))
    assert parsim("sweep", "s.yaml", "--set", "batch.global_batch=16").exit_code == 0
    assert read == ["s.yaml", "base.yaml"]


def test_json_and_csv_print_nothing_else_and_a_second_run_estimates_nothing(here: Path) -> None:
    first, second = parsim("sweep", "s.yaml", "--csv"), parsim("sweep", "s.yaml", "--json")
    assert first.stdout == (here / "reports/sweep-s/results.csv").read_text()
    assert len(list(csv.DictReader(io.StringIO(first.stdout)))) == len(json.loads(second.stdout)["rows"]) == 9
    assert "0 estimated, 6 rows from the cache" in second.stderr
    assert "6 estimated, 0 rows from the cache" in parsim("sweep", "s.yaml", "--no-resume").stderr


def test_plan_set_cache_and_out_are_heard(here: Path) -> None:
    done = parsim("sweep", "base.yaml", "--plan", "best", "--set", "batch.global_batch=16", "--cache", "c.sqlite", "-o", "out", "--csv")
    row = next(csv.DictReader(io.StringIO(done.stdout)))
    assert (row["plan"], row["batch.global_batch"], row["fits"]) == ("open", "16", "true")
    assert sorted(each.name for each in (here / "out").iterdir()) == ["results.csv", "results.jsonl"]
    assert (here / "c.sqlite").exists()


def test_nothing_that_fits_is_status_1_and_a_mistake_2(here: Path) -> None:
    assert parsim("sweep", "base.yaml", "--set", "model=gpt3-175b").exit_code == 1
    wrong = parsim("sweep", "s.yaml", "--set", "batch.globl_batch=3")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "batch.globl_batch: unknown key (did you mean 'global_batch'?)" in wrong.stderr
    (here / "c.sqlite").write_text("no cache, but something longer than the header of one")
    assert parsim("sweep", "s.yaml", "--cache", "c.sqlite").exit_code == 2
    assert parsim("sweep", "nope.yaml").exit_code == 2
    assert parsim("sweep", "s.yaml", "--workers", "-1").exit_code == 2
    assert not (here / "reports/sweep-s/results.csv").exists() and not (here / "reports/sweep-nope").exists()
    (here / "over.yaml").write_text("scenario: base.yaml\nover:\n  batch.nosuch: [1, 2]\n")
    assert parsim("sweep", "over.yaml").stderr.startswith("over.yaml:3:3: over.batch.nosuch: unknown key")


def test_the_results_become_a_heatmap(here: Path) -> None:
    parsim("sweep", "s.yaml", "-o", "out")
    done = parsim("plot", "out/results.csv", "--x", "plans.a.tensor_parallel", "--y", "model", "--value", "peak_bytes", "--format", "svg")
    assert done.exit_code == 0, done.output
    assert "wrote out/{heatmap.csv,heatmap.svg}" in done.stderr
    assert parsim("plot", "out/results.csv").exit_code == 2
