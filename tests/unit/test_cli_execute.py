"""`parsim execute`, from the command line to what it prints."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from test_cli import call, here

__all__ = ["here"]


def test_every_plan_has_the_losses_of_the_others(here: Path) -> None:
    padded_alike = Path("tiny.yaml").read_text() + "stack: {base: megatron-2022, vocab_multiple: 64}\n"  # 128 tokens, whole or halved
    Path("alike.yaml").write_text(padded_alike)
    result = call("execute", "alike.yaml", "--transport", "lockstep", "--steps", "2", "--csv")
    assert result.exit_code == 0, result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["plan"], row["step"]) for row in rows] == [
        ("split", "1"),
        ("split", "2"),
        ("a rather long name for a plan of replicas", "1"),
        ("a rather long name for a plan of replicas", "2"),
    ]
    losses = [float(row["loss"]) for row in rows]
    assert losses[:2] == pytest.approx(losses[2:], rel=1e-12) and losses[0] != losses[1]


def test_people_see_a_line_a_step_and_what_the_ranks_counted(here: Path) -> None:
    result = call("execute", "tiny.yaml", "--plan", "split", "--steps", "2", "--precision", "float32")  # real processes
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split("loss")[0] for line in lines[:2]] == ["split  step 1  ", "split  step 2  "]
    assert "wall, a step" in result.stdout and "sent tp" in result.stdout and "sent pp" in result.stdout
    assert "float32, seed 0" in result.stderr


@pytest.mark.parametrize(("more", "shown"), [((), [1, 2, 4, 6]), (("--every", "4"), [1, 4, 6])])
def test_few_lines_are_printed_of_many_steps_unless_asked(here: Path, more: tuple[str, ...], shown: list[int], monkeypatch) -> None:
    monkeypatch.setattr("parsim.report.executing._LINES", 3)
    result = call("execute", "tiny.yaml", "--plan", "split", "--transport", "lockstep", "--steps", "6", *more)
    steps = [line.split() for line in result.stdout.splitlines() if "  step " in line]
    assert [int(words[2]) for words in steps] == shown


def test_json_holds_losses_and_counts_of_every_rank(here: Path) -> None:
    result = call("execute", "tiny.yaml", "--plan", "split", "--transport", "lockstep", "--steps", "1", "--json")
    document = json.loads(result.stdout)
    (step,) = document["steps"]
    assert document["plans"]["split"]["losses"] == [step["loss"]]
    assert len(document["plans"]["split"]["flops"]) == 4 and step["accuracy"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tiny.yaml", "--plan", "splitt"), "unknown plan 'splitt' (did you mean 'split'?)"),
        (("huge.yaml",), "weights, above the 100,000,000 that are executed"),
        (("tiny.yaml", "--steps", "0"), "greater than or equal to 1"),
        (("tiny.yaml", "--plan", "open"), "leaves tensor_parallel, pipeline_parallel open"),
        (("tiny.yaml", "--json", "--csv"), "--json"),
    ],
)
def test_a_mistake_is_a_sentence_and_status_2(here: Path, arguments: tuple[str, ...], said: str) -> None:
    result = call("execute", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_without_mpi4py_the_transport_says_what_it_needs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    result = call("execute", "tiny.yaml", "--plan", "split", "--transport", "mpi")
    assert result.exit_code == 2 and "needs mpi4py and an MPI library" in result.stderr


def test_a_plan_that_is_named_twice_runs_once(here: Path) -> None:
    result = call("execute", "tiny.yaml", "--plan", "split", "--plan", "split", "--transport", "lockstep", "--steps", "1", "--csv")
    assert len(result.stdout.splitlines()) == 2  # the header, and its step
