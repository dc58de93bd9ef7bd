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
