"""The figures of a space draw what their CSV files hold."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from matplotlib.patches import Rectangle

from parsim.planner.front import Bounded, Landscape, landscape
from parsim.report import landscape as figures
from parsim.report.figure import OVER
from parsim.scenario import Scenario, from_mapping


@pytest.fixture(scope="module")
def tight() -> Scenario:
    node = {
        "base": "dgx-a100-80gb",
        "devices_per_node": 4,
        "accelerator": {"base": "a100-sxm4-80gb", "name": "small", "hbm_capacity": "26 GiB"},
    }
    space = {"tensor_parallel": "auto", "pipeline_parallel": "auto", "micro_batch": [1, 2], "recompute": ["none", "full"]}
    cluster, batch = {"node": {**node, "name": "four", "source": "made up"}}, {"global_batch": 8, "sequence_length": 1024}
    node["accelerator"]["source"] = "made up"  # type: ignore[index]
    return from_mapping({"model": "gpt2-xl", "cluster": cluster, "batch": batch, "plans": {"open": space}})


@pytest.fixture(scope="module")
def drawn(tight: Scenario) -> Landscape:
    return landscape(Bounded.of(tight))


def test_a_cell_is_hatched_where_no_plan_fits_and_the_best_is_outlined(drawn: Landscape) -> None:
    rows = figures.cell_rows(drawn)
    (axes,) = figures.draw_cells(drawn).axes[:1]
    boxes = [each for each in axes.patches if isinstance(each, Rectangle)]
    hatched = {(each.get_x(), each.get_y()) for each in boxes if each.get_hatch() == OVER}
    outlined = [each for each in boxes if not each.get_fill()]
    tensor, pipeline = (sorted({row[name] for row in rows}) for name in ("tensor_parallel", "pipeline_parallel"))
    places = {(tensor.index(row["tensor_parallel"]), pipeline.index(row["pipeline_parallel"])): row for row in rows}
    assert hatched == {place for place, row in places.items() if not row["fits"]} and 0 < len(hatched) < len(rows)
    (best,) = outlined
    assert places[int(best.get_x()), int(best.get_y())]["step_s"] == min(row["step_s"] for row in rows if row["fits"])
    assert [row["step_s"] for row in rows if not row["fits"]] == [None] * len(hatched)


def test_every_point_is_drawn_and_the_front_named(drawn: Landscape) -> None:
    rows = figures.point_rows(drawn)
    (axes,) = figures.draw_points(drawn).axes
    points = sorted(tuple(each.get_offsets()[0].tolist()) for each in axes.collections)
    assert points == [pytest.approx(each) for each in sorted((row["step_s"] * 1000, row["peak_bytes"] / 2**30) for row in rows)]
    assert axes.get_xlabel() == "step time, ms" and "GiB" in axes.get_ylabel()
    named = {each.get_text() for each in axes.texts}
    assert named and named <= {figures._label(row) for row in rows if row["on_front"]}


def test_files_hold_what_is_drawn_and_are_the_same_each_time(tight: Scenario, drawn: Landscape, tmp_path: Path) -> None:
    first, second = (figures.save(tight, drawn, tmp_path / name, ("png",)) for name in ("one", "two"))
    assert [path.name for path in first] == ["pareto.csv", "pareto.png", "heatmap.csv", "heatmap.png"]
    assert all(path.read_bytes() == again.read_bytes() for path, again in zip(first, second, strict=True))
    with first[0].open() as file:
        assert len([*csv.DictReader(file)]) == len(figures.point_rows(drawn))
