"""The heatmap of a sweep: the best of each cell, tested by its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from parsim.errors import ParsimError
from parsim.plain import csv_text
from parsim.report.heatmap import Tile, draw, plot_heatmap, tiles_of

ROWS: list[dict[str, object]] = [
    {"tp": 10, "pp": 1, "step_s": 3.0, "mfu": 0.3, "fits": True},
    {"tp": 10, "pp": 1, "step_s": 2.0, "mfu": 0.5, "fits": True},
    {"tp": 10, "pp": 1, "step_s": 1.0, "mfu": 0.9, "fits": False},  # faster, but does not fit
    {"tp": 2, "pp": 1, "step_s": 4.0, "mfu": 0.2, "fits": False},
    {"tp": 2, "pp": 1, "step_s": 5.0, "mfu": 0.1, "fits": False},
    {"tp": 2, "pp": 4, "step_s": 2.5, "mfu": 0.4, "fits": True},
    {"tp": 10, "pp": 4},  # no legal plan
]


def table(tmp_path: Path, rows: list[dict[str, object]] = ROWS) -> Path:
    path = tmp_path / "results.csv"
    path.write_text(csv_text(rows))
    return path


def test_a_cell_shows_the_best_of_what_fits_there_and_axes_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    assert plot_heatmap(table(tmp_path), None, ["svg"], x="tp", y="pp", value="step_s") == 0
    assert (tmp_path / "heatmap.csv").read_text() == "tp,pp,step_s,fits\n2,1,4.0,false\n2,4,2.5,true\n10,1,2.0,true\n10,4,,false\n"
    assert (tmp_path / "heatmap.svg").read_text().count("2.5 s") == 1


def test_of_a_rate_more_is_better() -> None:
    rows = [{name: "" if value is None else str(value).lower() for name, value in row.items()} for row in ROWS[:5]]
    assert tiles_of(rows, "tp", "pp", "mfu") == [Tile("2", "1", 0.2, False), Tile("10", "1", 0.5, True)]


def test_the_best_is_outlined_and_what_does_not_fit_is_hatched() -> None:
    figure = draw([Tile("1", "a", 2.0, True), Tile("1", "b", 1.0, False), Tile("2", "a", 1.5, True)], "x", "y", "step_s")
    axes = figure.axes[0]
    hatched = [each.get_xy() for each in axes.patches if each.get_hatch()]  # type: ignore[attr-defined]
    outlined = [each.get_xy() for each in axes.patches if not each.get_fill()]  # type: ignore[attr-defined]
    assert (hatched, outlined) == ([(0, 1)], [(1.03, 0.03)])
    assert [each.get_text() for each in axes.get_xticklabels()] == ["1", "2"]


def test_a_figure_without_anything_that_fits_says_so(tmp_path: Path) -> None:
    assert plot_heatmap(table(tmp_path, ROWS[3:5]), tmp_path / "out", ["png"], x="tp", y="pp", value="step_s") == 0
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["heatmap.csv", "heatmap.png"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (("tpp", "pp", "step_s"), r"no column 'tpp' .*\n  Columns here: tp, pp, step_s, mfu, fits"),
        (("tp", "", "step_s"), "needs --x COLUMN and --y COLUMN"),
        (("tp", "pp", "fits"), "column 'fits' holds 'true', which is no number"),
    ],
)
def test_a_column_that_cannot_be_drawn_is_told(columns: tuple[str, str, str], said: str, tmp_path: Path) -> None:
    x, y, value = columns
    with pytest.raises(ParsimError, match=said):
        plot_heatmap(table(tmp_path), None, ["png"], x=x, y=y, value=value)


def test_a_file_that_is_no_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(ParsimError, match="cannot be read: No such file"):
        plot_heatmap(tmp_path / "none.csv", None, ["png"], x="a", y="b", value="c")
    rows: list[dict[str, object]] = [{"a": n, "b": 1, "c": 1.0} for n in range(99)]
    with pytest.raises(ParsimError, match="column 'a' has 99 different values"):
        plot_heatmap(table(tmp_path, rows), None, ["png"], x="a", y="b", value="c")
