"""`parsim validate --report` writes a page, figures and what they draw, says the same everywhere, and refuses what it cannot report on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parsim.cli import app
from validate_rows import SMALL, table

NODE = {**SMALL, "num_devices": "4"}
ROWS = (
    {**NODE, "id": "a", "peak_memory_bytes": "5e9", "memory_metric": "device", "fits": "yes"},
    {**NODE, "id": "b", "step_s": "0.1", "source_family": "vtrain", "source": "vTrain (MICRO-57 2024) repo VIA-Research/vTrain x.csv"},
    {**NODE, "id": "c|d", "mlp": "reglu"},
)


def call(*arguments):
    return CliRunner().invoke(app, ["validate", *map(str, arguments)])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    done = call(table(folder, *ROWS), "--report", "--out", folder / "out", "--json", "--format", "svg")
    assert done.exit_code == 0, done.output
    return folder / "out", json.loads(done.stdout)


def test_the_page_the_document_and_the_csv_of_a_figure_say_the_same(written):
    folder, document = written
    assert json.loads((folder / "results.json").read_text()) == document
    assert {path.name for path in folder.iterdir()} == {"README.md", "results.json"} | {
        f"{name}.{kind}" for name in ("steps", "errors", "memory") for kind in ("csv", "svg")
    }
    drawn = list(csv.DictReader((folder / "steps.csv").open(encoding="utf-8")))
    assert [each["id"] for each in drawn] == ["a", "b"]
    errors = [each["step_error"] for each in document["rows"] if each["step_error"] is not None]
    assert [float(each["step_error"]) for each in drawn] == errors
    page, worst = (folder / "README.md").read_text(), max(errors, key=abs)
    assert f"{worst:+.1%}".replace("%", " %") in page
    assert "vTrain (MICRO-57 2024)" in page and "needs mlp reglu | 1 |" in page
    for name in ("steps", "errors", "memory"):
        assert f"]({name}.svg)" in page and f"]({name}.csv)" in page


def test_a_table_that_measures_nothing_has_a_page_that_says_so(tmp_path):
    rows = [{name: value for name, value in SMALL.items() if name != "step_s"}]
    done = call(table(tmp_path, *rows), "--report", "--out", tmp_path / "out")
    assert done.exit_code == 0 and "no row has both" in done.stdout
    page = (tmp_path / "out" / "README.md").read_text()
    assert "No row has a measured step." in page and "No row has a measured peak." in page and "![" not in page


def test_tables_of_different_columns_are_one_report(tmp_path):
    first = table(tmp_path, NODE, name="a.csv")
    other = table(tmp_path, {**{name: value for name, value in NODE.items() if name != "recompute"}, "strict": "yes"}, name="b.csv")
    assert [row["id"] for row in json.loads(call(first, other, "--json").stdout)["rows"]] == ["small", "small"]
    assert len(json.loads(call(first, other, "--json", "--where", "strict=yes").stdout)["rows"]) == 1
    wrong = call(first, other, "--where", "strikt=yes")
    assert wrong.exit_code == 2 and "did you mean 'strict'" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["head.csv", "--report"], "no row to report on"),
        (["nothing.csv", "--report"], "no column of this table is known; its first line holds nothing"),
        (["rows.csv", "--report", "--where", "id=other"], "no row has id = 'other'"),
        (["rows.csv", "--report", "--out", "rows.csv"], "is a file, not a directory"),
        (["rows.csv", "--report", "--out", "/proc/here"], "no permission to write there|No such file|cannot"),
        (["rows.csv", "--report", "--json", "--csv"], "--json and --csv both print on stdout"),
        (["rows.csv", "--out", "there"], "--out is for what --report writes"),
        (["rows.csv", "--format", "svg"], "--format is for what --report writes"),
        (["rows.csv", "nowhere.csv"], "cannot read the table: No such file"),
    ],
)
def test_what_cannot_be_reported_is_a_sentence(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    table(tmp_path, NODE, name="rows.csv")
    (tmp_path / "head.csv").write_text("id,step_s\n")
    (tmp_path / "nothing.csv").write_text("")
    before = {path.name for path in tmp_path.rglob("*")}
    done = call(*arguments)
    assert done.exit_code == 2
    assert any(each in done.stderr for each in message.split("|")), done.stderr
    assert {path.name for path in tmp_path.rglob("*")} == before


def test_nothing_is_left_behind_beside_the_files(written: tuple[Path, object]):
    assert not [path for path in written[0].rglob("*") if path.name.endswith(".tmp")]
