from __future__ import annotations

import csv
import warnings
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from msgspec.structs import replace

from parsim.parallel.dimensions import EXPERT, axes_of
from parsim.report import figure
from parsim.report.results import Results

SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml"}


def corners(axes: Axes, *hatches: str | None) -> list[tuple[float, float]]:
    """Of all bars of a panel, or of those with one of the hatches."""
    bars = [each for each in axes.collections if not hatches or each.get_hatch() in hatches]
    return [(float(x), float(y)) for each in bars for path in each.get_paths() for x, y in path.vertices]


def test_the_data_of_the_figure_are_the_results(results: Results) -> None:
    rows = figure.figure_rows(results)
    for result in results.plans:
        mine = [row for row in rows if row["plan"] == result.estimate.name]
        time, memory = (
            {row["component"]: row["value"] for row in mine if row["panel"] == panel and row["component"] != mark}
            for panel, mark in (("time", "measured_step_s"), ("memory", "capacity_bytes"))
        )
        assert (time.pop("step_low_s"), time.pop("step_high_s")) == result.estimate.step_interval_s
        assert (memory.pop("peak_low_bytes"), memory.pop("peak_high_bytes")) == result.estimate.peak_interval_bytes
        assert time == result.estimate.breakdown_s
        assert sum(memory.values()) == result.estimate.peak_bytes
    assert [row["value"] for row in rows if row["component"] == "measured_step_s"] == [0.002]


def test_bars_end_at_the_step_time_and_at_the_peak(results: Results) -> None:
    drawn = figure.draw(results)
    gib = 2**30
    for axes, wanted in zip(
        drawn.axes,
        ([each.estimate.step_s for each in results.plans], [each.estimate.peak_bytes / gib for each in results.plans]),
        strict=True,
    ):
        ends = [max(x for x, y in corners(axes) if round(y) == row) for row in (0, 1)]
        assert ends == pytest.approx(wanted, rel=1e-9)  # sums of floats


def test_a_figure_is_a_file_a_format_and_its_data_and_the_same_bytes_each_time(results: Results, tmp_path: Path) -> None:
    first, second = (figure.save(results, tmp_path / name, ("png", "svg")) for name in ("one", "two"))
    assert sorted(path.name for path in first) == ["plans.csv", "plans.png", "plans.svg"]
    for path, again in zip(first, second, strict=True):
        assert path.read_bytes() == again.read_bytes()
        assert path.read_bytes().startswith(SIGNATURES.get(path.suffix[1:], b"plan,panel"))
    with (tmp_path / "one" / "plans.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(figure.figure_rows(results))


def test_every_component_has_its_own_colour_and_optimizer_one_in_both_panels(results: Results) -> None:
    estimated = results.plans[0].estimate
    time = figure.time_colours()
    assert set(time) == set(estimated.breakdown_s) | {
        f"exposed_{name}" for name in ("dp_replicate", "cp", "cp_group", "host", "servers", *axes_of(EXPERT))
    }
    assert set(figure.MEMORY) == set(estimated.memory_bytes[0])
    assert len(set(time.values())) == len(time)
    assert len(set(figure.MEMORY.values())) == len(figure.MEMORY)
    assert time["optimizer"] == figure.MEMORY["optimizer"]


def test_axes_that_dimensions_add_have_colours_of_their_own_too(monkeypatch: pytest.MonkeyPatch) -> None:
    many = ("pp", "dp_replicate", "edp", "dp", "cp", "cp_group", "ep", "etp", "tp")
    monkeypatch.setattr(figure.dimensions, "axes", lambda: many)
    colours = figure.time_colours()
    assert {f"exposed_{axis}" for axis in many} < colours.keys()
    assert len({*colours.values(), figure.UNKNOWN}) == len(colours) + 1


def test_a_name_is_drawn_as_it_is_written_and_without_a_warning(results: Results, tmp_path: Path) -> None:
    name = "$x_{$ 計画 \\frac"
    named = replace(results.plans[0], estimate=replace(results.plans[0].estimate, name=name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, svg = figure.save(replace(results, plans=(named,)), tmp_path, ["svg"])
    assert "$x_{$ " in svg.read_text(encoding="utf-8")  # a comment beside the glyphs


def test_no_text_of_the_figure_lies_beyond_its_edges_or_on_another(results: Results) -> None:
    long = replace(
        results.plans[0], estimate=replace(results.plans[0].estimate, name="a plan with a name of many words in three lines or so")
    )
    drawn = figure.draw(replace(results, plans=(long, *results.plans[1:])))
    drawn.canvas.draw()
    time, memory = drawn.axes
    labels = [time.xaxis.label, memory.xaxis.label, time.title, memory.title, *time.get_yticklabels(), *drawn.texts, *drawn.legends]
    boxes = [each.get_window_extent() for each in labels]
    assert all(drawn.bbox.x0 <= box.x0 and box.x1 <= drawn.bbox.x1 for box in boxes)
    assert all(drawn.bbox.y0 <= box.y0 and box.y1 <= drawn.bbox.y1 for box in boxes)
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])


def test_a_plan_that_does_not_fit_is_hatched_in_both_panels(results: Results) -> None:
    small = replace(results.plans[0].estimate, capacity_bytes=1)
    drawn = figure.draw(replace(results, plans=(replace(results.plans[0], estimate=small), *results.plans[1:])))
    for axes in drawn.axes:
        assert {round(y) for _, y in corners(axes, figure.OVER)} == {0}
        assert {round(y) for _, y in corners(axes, None)} == {1}
