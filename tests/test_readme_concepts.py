"""The README's table from concepts to commands: each scenario and plan is there, each command can be asked so, and what it says is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import parsim
from parsim.cli import app
from support import tiered

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
ROWS = re.search(r"<!-- concepts: begin -->\n\|[^\n]*\n\|[^\n]*\n(.*?)<!-- concepts: end -->", TEXT, re.DOTALL)[1].splitlines()  # type: ignore[index]
COMMANDS = [re.search(r"`parsim ([^`]+)`", row)[1] for row in ROWS]  # type: ignore[index]
REGISTERED = {each.name or getattr(each.callback, "__name__", ""): each.callback for each in app.registered_commands}
WORDS = (
    "data par",
    "model par",
    "hybrid",
    "averaging",
    "master device",
    "synchronisation",
    "synchronous",
    "asynchronous",
    "strategy",
    "batch",
    "rate",
)
WORDS += ("TensorFlow", "PyTorch", "Distributed TensorFlow", "translation", "role labelling", "text classification")
# What an answer to a row must say.
SAYS = {
    "data_parallel layer_gradients": "all_reduce over dp",
    "master share_weights": "broadcast over dp",
    "data_parallel master": "most of all by exposed dp",
    "--noise-scale": "noise",
    "--learning-rate": "learning rate",
    "stragglers.yaml": "one slow device",
}


def test_the_table_names_every_concept_with_a_scenario_and_a_command() -> None:
    assert all(any(word in row for row in ROWS) for word in WORDS), WORDS
    named = [name for row in ROWS for name in re.findall(r"\]\((scenarios/[^)]+)\)", row)]
    assert named and all((ROOT / name).exists() for name in named)
    assert {each.split()[0] for each in COMMANDS} <= {*REGISTERED}


@pytest.mark.parametrize("asked", COMMANDS)
def test_a_command_of_the_table_can_be_asked_so_and_its_plan_is_there(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, file, *rest = shlex.split(asked)
    scenario = parsim.load(file)
    plans = [rest[rest.index("--plan") + 1]] if "--plan" in rest else rest[: {"compare": 2, "plan": 0, "verify": 0, "run": 0}.get(name, 1)]
    if name not in ("plan", "verify", "run"):
        assert plans and all(plan in scenario.plans for plan in plans)
    program = typer.main.get_command(app)
    program.commands[name].make_context(name, [file, *rest])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "asked",
    [tiered(each, each, slow=each.split()[0] in ("execute", "plan", "verify", "whatif", "advise", "export", "run")) for each in COMMANDS],
)
def test_a_command_of_the_table_answers_and_says_what_the_table_promises(
    asked: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if "digits" in asked and "execute" in asked:
        pytest.importorskip("sklearn", reason="the extra data is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    done = CliRunner().invoke(app, shlex.split(asked))
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert all(promise in said for part, promise in SAYS.items() if part in asked), done.stdout
