"""The README says of accuracy what the shipped report says, and that is what parsim predicts today."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from parsim.report.accuracy_page import BEGIN, END
from parsim.validate.compare import case_of
from parsim.validate.published import tables
from parsim.validate.table import read_all

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "reports" / "validation"
SAMPLE = 10


def between_marks(path: Path) -> str:
    _, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    table, end, after = rest.partition(END)
    assert begin and end and BEGIN not in after
    return table


def test_the_readme_quotes_the_table_of_the_shipped_report() -> None:
    table = between_marks(ROOT / "README.md")
    assert table == between_marks(SHIPPED / "README.md")
    assert table.count("\n") > 6


def test_a_sample_of_the_shipped_report_is_golden_what_is_predicted_today() -> None:
    with (SHIPPED / "steps.csv").open(encoding="utf-8", newline="") as file:
        shipped = list(csv.DictReader(file))
    sample = {row["id"]: float(row["predicted_step_s"]) for row in shipped[:: -(-len(shipped) // SAMPLE)]}
    rows = [(path, row) for path, row in read_all(tables()) if row.says("id") in sample]
    assert {row.says("id"): case_of(row, str(path)).result.predicted_step_s for path, row in rows} == sample


@pytest.mark.slow
def test_the_shipped_report_of_accuracy_is_golden_what_the_command_writes_today(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from parsim.cli import app

    done = CliRunner().invoke(app, ["validate", "--report", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    texts = {path.name for path in SHIPPED.iterdir() if path.suffix != ".png"}
    assert texts == {path.name for path in tmp_path.iterdir() if path.suffix != ".png"}
    for name in sorted(texts):
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes(), name
