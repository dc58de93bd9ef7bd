"""A comparison: parts that sum to the difference, the same from files, results and estimates."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

import parsim
from parsim.cli import app
from parsim.estimator.comparison import Side
from parsim.parallel.plan import Plan

TEXT = """
model: gpt2-small
cluster: {node: dgx-a100-80gb}
batch: {global_batch: 32, sequence_length: 1024}
plans:
  a: {tensor_parallel: 2, micro_batch: 4}
  b: {pipeline_parallel: 4, micro_batch: 1, recompute: full}
  c: {pipeline_parallel: 4, micro_batch: 1, recompute: full}
  open: {tensor_parallel: auto}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(TEXT)
    return tmp_path


def call(command: str, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [command, *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_parts_sum_to_the_difference_of_the_steps_to_the_picosecond(here: Path) -> None:
    scenario = parsim.load("s.yaml")
    first, second = (parsim.estimate(scenario, name) for name in "ab")
    found = parsim.compare(first, second)
    assert sum(found.longer_ps().values()) == round(second.step_s * 1e12) - round(first.step_s * 1e12)
    assert found.longer_ps()["bubble"] > 0 > found.longer_ps()["exposed_tp"]
    assert sorted(found.keys()) == ["data_parallel", "micro_batch", "pipeline_parallel", "recompute", "tensor_parallel"]
    assert sum(found.second.memory_bytes.values()) == second.peak_bytes


def test_what_events_add_is_a_part_of_its_own() -> None:
    side = Side("a", 3e-12, 1, {"compute": 2e-12}, {}, Plan())
    assert side.parts_ps() == {"compute": 2, "simulated": 1}


def test_two_plans_of_a_scenario_of_two_files_and_of_results_are_compared_alike(here: Path) -> None:
    assert call("run", "s.yaml", "--no-figure", "-o", "one")[0] == 0
    (here / "t.yaml").write_text(TEXT)
    forms = (
        ("s.yaml", "a", "b"),
        ("s.yaml:a", "t.yaml:b"),
        ("one/results.json:a", "one/results.json:b"),
        ("one/results.json:a", "s.yaml:b"),
    )
    said = [call("compare", *form, "--json") for form in forms]
    assert all(code == 0 for code, *_ in said) and len({text for _, text, _ in said}) == 1
    document = json.loads(said[0][1])
    steps = [each["step_s"] for each in document["plans"]]
    assert sum(document["longer_s"].values()) == pytest.approx(steps[1] - steps[0], abs=1e-15)


def test_tables_name_both_and_the_waterfall_ends_at_the_second_step(here: Path) -> None:
    code, text, told = call("compare", "s.yaml", "a", "b", "--figure", "-o", "out")
    assert code == 0 and "longer than" in text and "tensor_parallel" in text and "waterfall.png" in told
    rows = list(csv.DictReader((here / "out" / "waterfall.csv").open()))
    assert (rows[0]["bar"], rows[-1]["bar"]) == ("a", "b")
    assert all(row["from_s"] == before["to_s"] for before, row in pairwise(rows[:-1]))
    assert float(rows[-1]["to_s"]) == parsim.estimate(parsim.load("s.yaml"), "b").step_s
    assert (here / "out" / "waterfall.png").read_bytes().startswith(b"\x89PNG")


def test_plans_alike_take_the_same_time_and_their_figure_is_drawn(here: Path) -> None:
    code, text, _ = call("compare", "s.yaml", "b", "c", "--figure", "-o", "out", "--format", "svg")
    assert code == 0 and "b and c take the same time" in text and "keys of the plans" not in text


def test_sides_of_one_name_are_told_apart_and_an_open_plan_is_its_best(here: Path) -> None:
    (here / "t.yaml").write_text(TEXT.replace("global_batch: 32", "global_batch: 64"))
    text = call("compare", "s.yaml:a", "t.yaml:a")[1]
    assert "s.yaml:a" in text and "t.yaml:a" in text and "32,768 and 65,536 tokens" in text
    assert "tp2 pp1 dp4 mbs4" in call("compare", "s.yaml", "b", "open")[1]
    rows = list(csv.reader(call("compare", "s.yaml", "a", "a", "--csv")[1].splitlines()))
    assert rows[0] == ["of", "part", "first", "second"] and all(row[2] == row[3] for row in rows[1:])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("s.yaml",), "compare takes two plans"),
        (("s.yaml", "a", "x"), "unknown plan 'x'"),
        (("a", "b"), "no such file: a"),
        (("nothing.yaml:a", "s.yaml:a"), "nothing.yaml: no such file"),
        (("one/results.json", "s.yaml:a"), "which of its plans?"),
        (("one/results.json:aa", "s.yaml:a"), "unknown plan 'aa'"),
        (("old.json:a", "s.yaml:a"), "results without 'memory_bytes': of another version?"),
        (("s.yaml", "a", "b", "--set", "batch.x=1"), "--set batch.x: unknown key"),
    ],
)
def test_what_is_wrong_is_said(here: Path, arguments: tuple[str, ...], said: str) -> None:
    call("run", "s.yaml", "--no-figure", "-o", "one")
    (here / "old.json").write_text('{"parsim_version": "0", "plans": [{"name": "a"}]}')
    code, text, told = call("compare", *arguments)
    assert (code, text) == (2, "") and said in told, told
