"""The README's Python runs, and its first command writes the shipped report; its table is held against validate in witnesses/."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_example_in_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = doctest.testfile(str(ROOT / "README.md"), module_relative=False, verbose=False)
    assert done.attempted >= 6
    assert done.failed == 0


def test_the_shipped_report_is_golden_what_the_first_command_writes_today(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from parsim.cli import app

    done = CliRunner().invoke(app, ["run", str(ROOT / "scenarios" / "table5-175b.yaml"), "--out", str(tmp_path), "--no-figure"])
    assert done.exit_code == 0, done.output
    for name in ("results.csv", "results.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / "reports" / "table5-175b" / name).read_bytes()


SHIPPED = {
    "parameter-servers": "servers.csv",
    "stragglers": "disturbance.csv",
    "images-from-storage": "feed.csv",
    "llama3-405b-goodput": "goodput.csv",
    "nemotron-4-340b-diloco": "plans.csv",
    "digits-async": "loss.csv",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_figures_are_golden_what_their_commands_draw_today(name: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from parsim.cli import app

    scenario, figure = str(ROOT / "scenarios" / f"{name}.yaml"), ["--out", str(tmp_path), "--format", "png"]
    asked = ["execute", scenario, "--transport", "lockstep"] if name == "digits-async" else ["run", scenario]
    done = CliRunner().invoke(app, [*asked, *figure])
    assert done.exit_code == 0, done.output
    assert (tmp_path / SHIPPED[name]).read_bytes() == (ROOT / "reports" / name / SHIPPED[name]).read_bytes()
