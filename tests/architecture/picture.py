"""Draws which packages import which, from the imports themselves: `python tests/architecture/picture.py [--out reports/architecture]`.

Writes imports.csv, and the same as imports.png and imports.svg, each of which carries the CSV as its description.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

import matplotlib
import networkx as nx
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path
from test_imports import FILES, ROOT, ROWS, imports, part

from parsim.plain import csv_text
from parsim.report.figure import METADATA, SETTINGS
from parsim.report.files import write

OUT = pathlib.Path("reports") / "architecture"
READERS, CHECKS = ("estimator", "simulator", "executor"), ("verify", "validate", "calibrate", "planner")
COLOURS = {
    **dict.fromkeys(READERS, "#77AADD"),
    **dict.fromkeys(CHECKS, "#EEDD88"),
    "step": "#44BB99",
    "cost": "#44BB99",
}  # Tol 2021, "light"
OTHER = "#DDDDDD"
APART, GAP = 1.4, 0.24  # between boxes of a row, and from the middle of a box to the ends of its arrows; rows are 1 apart
BENDS = (0.0, 0.8, -0.8, 1.6, -1.6, 2.4, -2.4)  # of arrows, to the side
SWEEPS = 50  # over all rows; by then no box moves


def edges() -> list[dict[str, object]]:
    """A row for each package and one that it imports; `direct`: no chain of other imports leads there, too."""
    found = set()
    for path in FILES:
        own = part(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
        found |= {(own, other) for module, _ in imports(path) if (other := part(module)) not in (own, "parsim", "__version__")}
    found -= {edge for edge in found if edge[0] == "parsim"}  # the public names, each imported when it is asked for
    direct = nx.transitive_reduction(nx.DiGraph(sorted(found))).edges
    return [{"package": a, "imports": b, "direct": (a, b) in direct} for a, b in sorted(found)]


def places(graph: nx.DiGraph) -> dict[str, tuple[float, int]]:
    """x and row of each package: the rows of the test of imports, in each the order that keeps ties short."""
    rows = [sorted(name for name in graph if ROWS[name] == row) for row in sorted({ROWS[name] for name in graph})]
    x = {name: place for row in rows for name, place in _spread(row)}
    for _ in range(SWEEPS):
        for row in rows:
            near = {name: statistics.fmean(x[other] for other in nx.all_neighbors(graph, name)) for name in row}
            x.update(_spread(sorted(row, key=lambda name: (near[name], name))))
    return {name: (x[name], height) for height, row in enumerate(rows) for name in row}


def _spread(names: list[str]) -> list[tuple[str, float]]:
    return [(name, (index - (len(names) - 1) / 2) * APART) for index, name in enumerate(names)]


def draw(rows: list[dict[str, object]]) -> Figure:
    """Packages as boxes in rows, with an arrow to each that they import, where no chain of arrows leads there anyway."""
    graph = nx.DiGraph([(row["package"], row["imports"]) for row in rows if row["direct"]])
    place = places(graph)
    (width, _), height = max(place.values()), max(y for _, y in place.values())
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for package, imported in graph.edges:
        axes.add_patch(_arrow(place[package], place[imported], place.values()))
    for name, (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.35", "facecolor": COLOURS.get(name, OTHER), "edgecolor": "white"}
        axes.text(x, y, name, ha="center", va="center", bbox=box, zorder=3)
    axes.set(xlim=(-width - APART / 2, width + APART / 2), ylim=(-0.4, height + 0.4))
    axes.set_axis_off()
    return figure


def _arrow(start: tuple[float, int], end: tuple[float, int], boxes: Iterable[tuple[float, int]]) -> FancyArrowPatch:
    """The least bent of the curves that are least behind other boxes."""
    (x, y), (to_x, to_y) = start, end
    others, t = np.array([box for box in boxes if box not in (start, end)]), np.linspace(0, 1, 60)[:, None]
    curves = [np.array([(x, y - GAP), ((x + to_x) / 2 + bend, (y + to_y) / 2), (to_x, to_y + GAP)]) for bend in BENDS]

    def behind(curve: np.ndarray) -> int:
        points = (1 - t) ** 2 * curve[0] + 2 * t * (1 - t) * curve[1] + t**2 * curve[2]
        return int((np.abs(points[:, None] - others) < (APART * 0.4, GAP)).all(axis=2).sum())

    path = Path(min(curves, key=behind), (Path.MOVETO, Path.CURVE3, Path.CURVE3))
    return FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=8, color="#333333", linewidth=0.8)


def save(directory: pathlib.Path) -> list[pathlib.Path]:
    """The files written, each whole or as it was before."""
    rows = edges()
    text = csv_text(rows)
    settings: Any = SETTINGS
    pictures = {}
    with matplotlib.rc_context(settings):
        figure = draw(rows)
        for kind in ("png", "svg"):
            picture = io.BytesIO()
            figure.savefig(picture, format=kind, metadata={**METADATA[kind], "Description": text})
            pictures[f"imports.{kind}"] = picture.getvalue()
    return [write(directory / "imports.csv", text), *(write(directory / name, content) for name, content in pictures.items())]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=OUT, help="the folder of the three files")
    for path in save(parser.parse_args().out):
        print(path)
