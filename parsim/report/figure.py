"""The figure of all plans of a scenario: where the step's time goes, and what fills the memory of the most loaded stage.

One colour for each component wherever it is drawn, told apart by the colour-blind.
Source: Okabe and Ito 2008 (time), Tol 2021, "light" (memory).
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from parsim import units
from parsim.estimator.result import Estimate
from parsim.parallel import dimensions
from parsim.plain import csv_text
from parsim.report.files import write
from parsim.report.results import Result, Results
from parsim.report.summary import headline, size

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PURPLE, _GREY = "#CC79A7", "#BBBBBB"
_AXES = (
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#332288",
    "#999933",
    "#CC6677",
    "#117733",
    "#AA4499",
)  # of the mesh; the innermost first
MEMORY: Final[Mapping[str, str]] = {
    "parameters": "#77AADD",
    "gradients": "#EE8866",
    "optimizer": _PURPLE,
    "activations": "#44BB99",
    "transients": "#EEDD88",
    "buffers": "#99DDFF",
    "workspaces": "#4477AA",
    "rounding": "#666633",
    "fragments": "#AAAA00",
    "graph_pools": "#FFAABB",
    "context": "#DDDDDD",
    "communicators": "#AA7744",
}
UNKNOWN: Final = "#882255"  # a component that a later version adds, until it gets its own
OVER: Final = "xxx"  # hatch of what does not fit

# The same data give the same bytes: no random ids in SVG, no date, no version.
SETTINGS: Final[dict[str, Any]] = {
    "svg.hashsalt": "parsim",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "figure.dpi": 150,
}
METADATA: Final[Mapping[str, dict[str, None]]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}

_INTERVAL: Final[Mapping[str, Any]] = {"color": "black", "linewidth": 1.2, "zorder": 2.5}  # above bars, below marks of what was measured
_BAR = 0.62  # of the distance between plans
_NAME_COLUMNS = 26  # characters of a line of a plan's name
_LEGEND_COLUMNS = 4
# In inches: the figure's width and edges, a plan, a line of small text, a panel's title; below a panel all but the legend, and how deep its
# label stands; a tick beside a name; what is between the panels.
_WIDTH, _EDGE, _ROW, _LINE, _TITLE, _AXIS, _LABEL, _TICK, _GAP = 10.5, 0.1, 0.5, 0.167, 0.27, 0.55, 0.27, 0.1, 0.2


def time_colours() -> dict[str, str]:
    """The colours of a step's parts, by component."""
    sequence = map(dimensions.axis_of, ("context_parallel", "context_group"))
    late = [*sequence, *dimensions.axes_of(dimensions.EXPERT)]  # behind the others, whose colours are known
    axes = sorted(reversed(dimensions.axes()), key=lambda axis: late.index(axis) + 1 if axis in late else 0)
    return {
        "compute": "#0072B2",
        **{f"exposed_{axis}": colour for axis, colour in zip(axes, _AXES, strict=False)},
        "exposed_host": "#F0E442",
        "exposed_servers": "#661100",
        "bubble": _GREY,
        "optimizer": _PURPLE,
        "other": "#333333",
    }


def part_label(part: str) -> str:
    """What a legend calls a part of the step."""
    axis = part.removeprefix("exposed_")
    return part if axis == part else f"{axis}, exposed"


def by_outermost(parts: Mapping[str, float]) -> dict[str, float]:
    """Parts as they are drawn: what ranks that differ along several axes do together, sums over all replicas, counts to one axis.

    >>> by_outermost({"exposed_dp": 0.0, "exposed_cp": 1.0, "exposed_dp+cp": 2.0})
    {'exposed_dp': 2.0, 'exposed_cp': 1.0}
    """
    found: dict[str, float] = {}
    for part, value in parts.items():
        found[outermost(part)] = found.get(outermost(part), 0.0) + value
    return found


def outermost(part: str) -> str:
    """The part of the outermost axis alone.

    >>> outermost("exposed_dp+cp")
    'exposed_dp'
    """
    return part.partition("+")[0]


def figure_rows(results: Results) -> list[dict[str, object]]:
    """What the figure draws, a row a mark: plan, panel, component, value in SI base units."""
    rows: list[dict[str, object]] = []
    for result in results.plans:
        name, memory = result.estimate.name, result.estimate.memory_bytes[result.estimate.peak_rank]
        measured = {"measured_step_s": result.measured_step_s} if result.measured_step_s else {}
        panels: dict[str, Mapping[str, object]] = {
            "time": {**result.estimate.breakdown_s, **measured, **_ends(result.estimate.step_interval_s, "step_{}_s")},
            "memory": {
                **memory,
                "capacity_bytes": result.estimate.capacity_bytes,
                **_ends(result.estimate.peak_interval_bytes, "peak_{}_bytes"),
            },
        }
        for panel, parts in panels.items():
            rows += [{"plan": name, "panel": panel, "component": part, "value": value} for part, value in parts.items()]
    return rows


def _ends(interval: tuple[float, float] | None, name: str) -> dict[str, float]:
    return {name.format(end): value for end, value in zip(("low", "high"), interval, strict=True)} if interval else {}


def save(results: Results, directory: Path, formats: Iterable[str] = ("png",)) -> list[Path]:
    """The files written: plans.csv, and plans.png, plans.svg or both with the same data.

    Raises:
        OSError: one cannot be written.
    """
    return save_figure(directory / "plans", figure_rows(results), lambda: draw(results), formats)


def save_figure(stem: Path, rows: Iterable[Mapping[str, object]], draw: Callable[[], Figure], formats: Iterable[str]) -> list[Path]:
    """The files written: what is drawn as CSV, and the figure in each format.

    Raises:
        OSError: one cannot be written.
    """
    paths = [write(stem.with_suffix(".csv"), csv_text(rows))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a name in a script that the font lacks is drawn as boxes
        for kind, picture in _pictures(draw, dict.fromkeys(formats)):
            paths.append(write(stem.with_suffix(f".{kind}"), picture))
    return paths


def _pictures(draw: Callable[[], Figure], formats: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    import matplotlib

    settings: Any = SETTINGS  # the stubs want every key as a literal
    with matplotlib.rc_context(settings):
        figure = draw()
        for kind in formats:
            picture = io.BytesIO()
            figure.savefig(picture, format=kind, metadata=METADATA[kind])
            yield kind, picture.getvalue()


def draw(results: Results) -> Figure:
    """The figure: a row a plan, time on the left and memory on the right.

    Its places are computed here, in inches: a layout engine of matplotlib would measure all of it, in a drawing more.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = ["\n".join(textwrap.wrap(each.estimate.name, _NAME_COLUMNS)) or each.estimate.name for each in results.plans]
    title = "\n".join(textwrap.wrap("; ".join((f"{headline(results.scenario)}, {size(results.scenario)}", *results.scenario.notes)), 130))
    figure = Figure()
    FigureCanvasAgg(figure)
    time, memory = figure.add_axes((0, 0, 1, 1)), figure.add_axes((0, 0, 1, 1))
    legends = _draw_time(time, results.plans), _draw_memory(memory, results.plans)
    for axes in (time, memory):
        axes.set_ylim(len(names) - 0.45, -0.55)  # the first plan on top
    time.set_yticks(range(len(names)), names)
    memory.set_yticks([])
    lines = sum(max(1.0, 0.55 * (1 + name.count("\n"))) for name in names)
    below = _AXIS + _LINE * max(-(-len(legend) // _LEGEND_COLUMNS) for legend in legends)
    _place(figure, above=_TITLE + _LINE * (1 + title.count("\n")), inside=_ROW * max(lines, 2.0), below=below)
    figure.text(_EDGE / _WIDTH, 1 - _EDGE / 2 / figure.get_figheight(), title, fontsize=9, va="top")
    corners: tuple[Literal["lower left", "lower right"], ...] = ("lower left", "lower right")
    for legend, place in zip(legends, corners, strict=True):
        figure.legend(handles=legend, loc=place, ncols=_LEGEND_COLUMNS, fontsize=8, columnspacing=1.2, handlelength=1.2)
    return figure


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with one panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _place(figure: Figure, *, above: float, inside: float, below: float) -> None:
    """Give the figure its size and both panels their places, the names of plans on their left [inches]."""
    time, memory = figure.axes
    height = above + inside + below
    figure.set_size_inches(_WIDTH, height)
    left = _EDGE + _TICK + max(label.get_window_extent().width for label in time.get_yticklabels()) / figure.dpi
    width = (_WIDTH - left - _GAP - _EDGE) / 2
    for axes, x in ((time, left), (memory, left + width + _GAP)):
        axes.set_position((x / _WIDTH, below / height, width / _WIDTH, inside / height))
        axes.xaxis.set_label_coords(0.5, -_LABEL / inside)


def _draw_time(axes: Axes, plans: Sequence[Result]) -> list[Artist]:
    """Draw the panel; the entries of its legend."""
    parts = [by_outermost(each.estimate.breakdown_s) for each in plans]
    ends, legend = _stack(axes, parts, time_colours(), plans)
    measured = [(row, each.measured_step_s) for row, each in enumerate(plans) if each.measured_step_s is not None]
    if measured:
        rows, seconds = zip(*measured, strict=True)
        legend += axes.plot(seconds, rows, "D", color="white", markeredgecolor="black", markersize=6, label="measured", zorder=4)
    intervals = [each.estimate.step_interval_s for each in plans]
    ends = _draw_intervals(axes, ends, intervals, legend)
    right = max([*ends, *(seconds for _, seconds in measured)]) * (1.55 if measured else 1.18)
    for row, each in enumerate(plans):
        mark = each.measured_step_s or 0.0
        near = ends[row] <= mark < ends[row] + 0.15 * right  # the note would hide the mark
        text = units.format(each.estimate.step_s, "s", digits=4)
        beside = f", measured {units.format(mark, 's', digits=4)}" if mark else ""
        _note(axes, mark if near else ends[row], row, text + beside)
    axes.set_xlim(0, right)
    axes.set_title("step time", y=1.0)  # a stated height need not be measured
    axes.set_xlabel("seconds")
    return legend


def _draw_memory(axes: Axes, plans: Sequence[Result]) -> list[Artist]:
    """Draw the panel; the entries of its legend."""
    gib = float(units.parse("1 GiB", "bytes"))
    parts = [{name: size / gib for name, size in each.estimate.memory_bytes[each.estimate.peak_rank].items()} for each in plans]
    ends, legend = _stack(axes, parts, MEMORY, plans)
    intervals = [each.estimate.peak_interval_bytes for each in plans]
    ends = _draw_intervals(axes, ends, [each and (each[0] / gib, each[1] / gib) for each in intervals], legend)
    capacities = sorted({each.estimate.capacity_bytes for each in plans})  # several, where devices differ
    for capacity in capacities:
        label = f"capacity, {units.format(capacity, 'GiB')}"
        legend.append(axes.axvline(capacity / gib, color="black", linewidth=1, linestyle="--", label=label))
    for row, each in enumerate(plans):
        peak = units.format(each.estimate.peak_bytes, "GiB")
        _note(axes, ends[row], row, peak + _lack(each.estimate))
    room = 1.18 if all(each.estimate.fits for each in plans) else 1.45
    axes.set_xlim(0, max(capacities[-1] / gib * 1.05, max(ends) * room))
    axes.set_title("memory of the most loaded stage", y=1.0)
    axes.set_xlabel("GiB")
    return legend


def _stack(
    axes: Axes, stacks: Sequence[Mapping[str, float]], colours: Mapping[str, str], plans: Sequence[Result]
) -> tuple[list[float], list[Artist]]:
    """Stacked bars, all that are hatched alike as one artist; where each stack ends, and an entry of the legend for each part."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    for hatch in ("", OVER):
        rows = [row for row, each in enumerate(plans) if each.estimate.fits == (not hatch)]
        bars = [(bar, colours.get(part, UNKNOWN)) for row in rows for part, bar in _bars(row, stacks[row])]
        if bars:
            corners, shown = zip(*bars, strict=True)
            bar = PolyCollection(corners, facecolors=shown, edgecolors="white", linewidths=0.2, hatch=hatch or None)
            axes.add_collection(bar, autolim=False)
    every = dict.fromkeys(part for stack in stacks for part in stack)
    seen = [part for part in every if any(stack.get(part) for stack in stacks)]  # a colour nobody can see needs no entry
    return [sum(stack.values()) for stack in stacks], [Patch(color=colours.get(p, UNKNOWN), label=part_label(p)) for p in seen]


def _draw_intervals(
    axes: Axes, ends: Sequence[float], intervals: Sequence[tuple[float, float] | None], legend: list[Artist]
) -> list[float]:
    """A bar of error a plan whose interval is known, and its entry in the legend; where each row ends with it."""
    from matplotlib.lines import Line2D

    found = [(row, each) for row, each in enumerate(intervals) if each]
    for row, (low, high) in found:
        axes.add_line(Line2D((low, high), (row, row), marker="|", markersize=7, **_INTERVAL))
    legend += [Line2D((), (), marker="|", markersize=7, label="80 % interval", **_INTERVAL)] if found else []
    highs = {row: high for row, (_, high) in found}
    return [max(end, highs.get(row, end)) for row, end in enumerate(ends)]


def _lack(estimate: Estimate) -> str:
    """What does not fit, behind the peak of a device."""
    if estimate.host_fits:
        return "" if estimate.fits else ", does not fit"
    needs, holds = (units.format(size, "GiB") for size in (estimate.host_peak_bytes, estimate.host_capacity_bytes or 0))
    return f"; its host needs {needs} of {holds}"


def _bars(row: int, stack: Mapping[str, float]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Each part that has a width, with the corners of its bar."""
    low, high, left = row - _BAR / 2, row + _BAR / 2, 0.0
    for part, width in stack.items():
        if width:
            yield part, [(left, low), (left + width, low), (left + width, high), (left, high)]
        left += width


def _note(axes: Axes, x: float, row: int, text: str) -> None:
    note: Any = axes.annotate(text, (x, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8, zorder=3)
    note.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
