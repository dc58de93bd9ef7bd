"""The figures of a space: step time against memory with the front drawn, and the best step of each tensor and pipeline degree.

Each has its CSV of all that it draws.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from parsim import units
from parsim.estimator.cells import short
from parsim.parallel.plan import Plan
from parsim.plain import flat
from parsim.planner.front import Landscape
from parsim.report.figure import new_axes, save_figure
from parsim.report.heatmap import BEST, COLOURS, Tile, draw_tiles, tile_legend
from parsim.report.summary import headline, size
from parsim.scenario import Scenario

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: Final = f"{COLOURS}_r"  # the darker the longer
_MARKS: Final = "osD^vP*X<>hd"  # of pipeline degrees
_COLUMNS: Final = 105  # characters of a line of the title
_NEAR, _WIDE, _ROOM = 0.04, 0.2, 0.2  # shares of the axes: between two names, above and beside; on their left
_FAR: Final = 8  # times the shortest step, from which the axis of steps is logarithmic


class Cell(NamedTuple):
    """The best plan of a tensor and a pipeline degree; the nearest where none fits."""

    plan: Plan
    step_s: float
    peak_bytes: int
    fits: bool


def point_rows(drawn: Landscape) -> list[dict[str, Any]]:
    """What the figure of step time and memory draws: a row a plan that fits, and what the device holds."""
    each, columns = drawn.plans, ("step_s", "peak_bytes", "holds_bytes", "fits")
    rows = [
        {**flat(plan.to_dict()), **dict(zip(columns, values, strict=True)), "on_front": on_front}
        for plan, values, on_front in zip(
            each.plans, zip(*(getattr(each, name).tolist() for name in columns), strict=True), drawn.on_front, strict=True
        )
    ]
    holds = [row.pop("holds_bytes") for row in rows]
    return [{**row, "capacity_bytes": each} for row, each in zip(rows, holds, strict=True) if row.pop("fits")]


def cells(drawn: Landscape) -> dict[tuple[int, int], Cell]:
    """The best plan by tensor and pipeline degree."""
    found: dict[tuple[int, int], Cell] = {}
    each = drawn.plans
    for cell in map(Cell, each.plans, each.step_s.tolist(), each.peak_bytes.tolist(), each.fits.tolist()):
        place = cell.plan.tensor_parallel, cell.plan.pipeline_parallel
        if place not in found or cell.step_s < found[place].step_s:
            found[place] = cell
    return found


def cell_rows(drawn: Landscape) -> list[dict[str, object]]:
    """What the heatmap draws: a row a cell; without a step where no plan fits."""
    found = cells(drawn)
    best = _best(found)
    return [
        {
            "tensor_parallel": tp,
            "pipeline_parallel": pp,
            "step_s": each.step_s if each.fits else None,
            "peak_bytes": each.peak_bytes,
            "fits": each.fits,
            "best": (tp, pp) == best,
            "plan": short(each.plan),
        }
        for (tp, pp), each in sorted(found.items())
    ]


def _best(found: Mapping[tuple[int, int], Cell]) -> tuple[int, int] | None:
    return min(
        (place for place, each in found.items() if each.fits),
        key=lambda place: (found[place].step_s, found[place].peak_bytes),
        default=None,
    )


def save(scenario: Scenario, drawn: Landscape, directory: Path, formats: Iterable[str], which: str = "") -> list[Path]:
    """The files written: pareto.csv, heatmap.csv, and a figure of each in each format; their names end in `which`.

    Raises:
        OSError: one cannot be written.
    """
    kinds, title = tuple(formats), "\n".join(textwrap.wrap(f"{headline(scenario)}, {size(scenario)}", _COLUMNS))
    return [
        *save_figure(directory / f"pareto{which}", point_rows(drawn), lambda: draw_points(drawn, title), kinds),
        *save_figure(directory / f"heatmap{which}", cell_rows(drawn), lambda: draw_cells(drawn, title), kinds),
    ]


def draw_points(drawn: Landscape, title: str = "") -> Figure:
    """Step time against memory: the plans that no other of their degrees beats, and the front of all."""
    import matplotlib

    figure, axes = new_axes(9, 5.5)
    axes.set_title(title, fontsize=8)
    rows, capacity = point_rows(drawn), drawn.plans.capacity_bytes
    most, longest = (max([row[name] for row in rows], default=capacity) for name in ("peak_bytes", "step_s"))
    held = "GiB" if most >= units.parse("1 GiB", "bytes") else "MiB" if most >= units.parse("1 MiB", "bytes") else "KiB"
    passed = units.format(longest, "s").rpartition(" ")[2]
    memory, time = float(units.parse(f"1 {held}", "bytes")), float(units.parse(f"1 {passed}", "s"))
    tensor, pipeline = (_degrees(rows, name) for name in ("tensor_parallel", "pipeline_parallel"))
    colours = matplotlib.colormaps[_COLOURS]
    shades = {tp: colours(0.08 + 0.92 * place / max(1, len(tensor) - 1)) for place, tp in enumerate(tensor)}
    for row in rows:
        colour, mark = shades[row["tensor_parallel"]], _MARKS[pipeline.index(row["pipeline_parallel"]) % len(_MARKS)]
        edge: dict[str, Any] = {"edgecolors": BEST, "linewidths": 1.4} if row["on_front"] else {"edgecolors": "black", "linewidths": 0.4}
        axes.scatter(row["step_s"] / time, row["peak_bytes"] / memory, color=[colour], marker=mark, s=34, zorder=3, **edge)
    front = sorted((row["step_s"] / time, row["peak_bytes"] / memory, _label(row)) for row in rows if row["on_front"])
    if front:
        axes.step(*zip(*((x, y) for x, y, _ in front), strict=True), where="post", color=BEST, linewidth=1.6, zorder=2)
    else:
        axes.text(0.5, 0.5, "no plan fits", transform=axes.transAxes, ha="center")
    axes.axhline(capacity / memory, color="black", linestyle="--", linewidth=1)
    top = (max(capacity, most) if capacity < 2 * most else most) / memory  # a capacity far above is told, not drawn
    axes.set(ylim=(0, top * 1.06), xlabel=f"step time, {passed}", ylabel=f"memory of the most loaded device, {held}")
    _set_times(axes, [row["step_s"] / time for row in rows])
    smallest = "" if drawn.plans.capacities_bytes is None else " of the smallest device"
    _point_legend(figure, shades, pipeline, units.format(capacity, "GiB") + smallest)
    _name_front(axes, front)
    return figure


def _degrees(rows: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    return sorted({row[name] for row in rows})


def _label(row: Mapping[str, Any]) -> str:
    return f"tp{row['tensor_parallel']} pp{row['pipeline_parallel']} mbs{row['micro_batch']}"


def _set_times(axes: Axes, steps: Sequence[float]) -> None:
    """The limits of the axis, with room for names on the left; a logarithmic one, with plain numbers, where steps differ much."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = (min(steps), max(steps)) if steps else (1.0, 1.0)
    if high > _FAR * low:
        axes.set(xscale="log", xlim=(low * (low / high) ** _ROOM, high * (high / low) ** 0.05))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        wide = (high - low) or high
        axes.set_xlim(low - _ROOM * wide, high + 0.05 * wide)


def _name_front(axes: Axes, front: Sequence[tuple[float, float, str]]) -> None:
    """Name the members of the front on the side where no plan is, as far as names do not touch."""
    taken: list[tuple[float, float]] = []
    place: dict[str, Any] = {"xytext": (-5, -4), "textcoords": "offset points", "ha": "right", "va": "top", "fontsize": 7}
    axes.get_figure().canvas.draw()  # type: ignore[union-attr]  # which gives the axes their place
    for step, held, text in front:
        x, y = axes.transAxes.inverted().transform(axes.transData.transform((step, held)))
        if y > _NEAR and all(abs(y - above) > _NEAR or abs(x - left) > _WIDE for left, above in taken):
            axes.annotate(text, (step, held), zorder=4, **place)
            taken.append((x, y))


def _point_legend(figure: Figure, shades: Mapping[int, Any], pipeline: Sequence[int], capacity: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    style: dict[str, Any] = {"linestyle": "", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 5.5}
    front = Line2D([], [], color=BEST, linewidth=1.6, label="no other plan beats these")
    line = Line2D([], [], color="black", linestyle="--", linewidth=1, label=f"capacity, {capacity}")
    colours = [Patch(facecolor=shade, edgecolor="black", linewidth=0.4, label=f"tp {tp}") for tp, shade in shades.items()]
    marks = [Line2D([], [], marker=_MARKS[place % len(_MARKS)], label=f"pp {pp}", **style) for place, pp in enumerate(pipeline)]
    figure.legend(handles=[front, line, *colours, *marks], loc="outside right upper", fontsize=8)


def draw_cells(drawn: Landscape, title: str = "") -> Figure:
    """The best step time of each tensor and pipeline degree."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    found = cells(drawn)
    tiles = {(tp, pp): Tile(str(tp), str(pp), each.step_s if each.fits else each.peak_bytes, each.fits) for (tp, pp), each in found.items()}
    steps = [each.step_s for each in found.values() if each.fits] or [1.0]
    low, high = min(steps), max(max(steps), min(steps) * 1.001)
    scale, best = LogNorm(low, high), _best(found)
    text = lambda tile: units.format(tile.value, "s" if tile.fits else "GiB")  # noqa: E731
    figure, axes = draw_tiles([*tiles.values()], tiles[best] if best else None, scale, _COLOURS, text)
    axes.set_title(title, fontsize=8)
    axes.set(xlabel="tensor parallel", ylabel="pipeline parallel")
    told = f"best: {short(found[best].plan)}" if best else ""
    tile_legend(figure, told, "no plan fits: the memory that the nearest needs", "no plan is legal", ncols=1)
    if best:
        bar, ticks = (
            figure.colorbar(ScalarMappable(scale, _COLOURS), ax=axes, label="best step time, seconds"),
            (low, (low * high) ** 0.5, high),
        )
        bar.set_ticks(ticks, labels=[f"{each:.3g}" for each in ticks])
        bar.minorticks_off()
    return figure
