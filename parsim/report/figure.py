"""The figure of all plans of a scenario: where the step's time goes, and what fills the memory of the most loaded stage.

One colour for each component wherever it is drawn, told apart by the colour-blind.
Source: Okabe and Ito 2008 (time), Tol 2021, "light" (memory).
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from parsim import units
from parsim.estimator.result import Estimate
from parsim.parallel import dimensions
from parsim.report.files import csv_text, write
from parsim.report.results import Result, Results
from parsim.report.summary import headline, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PURPLE, _GREY = "#CC79A7", "#BBBBBB"
_AXES = ("#E69F00", "#009E73", "#D55E00", "#56B4E9")  # of the mesh, the innermost first

TIME: Final[Mapping[str, str]] = {
    "compute": "#0072B2",
    **{f"exposed_{axis}": colour for axis, colour in zip(reversed(dimensions.axes()), _AXES, strict=False)},
    "exposed_host": "#F0E442",
    "bubble": _GREY,
    "optimizer": _PURPLE,
    "other": "#333333",
}
MEMORY: Final[Mapping[str, str]] = {
    "parameters": "#77AADD",
    "gradients": "#EE8866",
    "optimizer": _PURPLE,
    "activations": "#44BB99",
    "transients": "#EEDD88",
    "buffers": "#99DDFF",
    "framework": "#DDDDDD",
}
LABELS: Final[Mapping[str, str]] = {name: f"{name.removeprefix('exposed_')}, exposed" for name in TIME if name.startswith("exposed_")}
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

_BAR = 0.62  # of the distance between plans
_NAME_COLUMNS = 26  # characters of a line of a plan's name


def figure_rows(results: Results) -> list[dict[str, object]]:
    """What the figure draws, a row a mark: plan, panel, component, value in SI base units."""
    rows: list[dict[str, object]] = []
    for result in results.plans:
        name, memory = result.estimate.name, result.estimate.memory_bytes[result.most_loaded]
        measured = {"measured_step_s": result.measured_step_s} if result.measured_step_s else {}
        panels: dict[str, Mapping[str, object]] = {
            "time": {**result.estimate.breakdown_s, **measured},
            "memory": {**memory, "capacity_bytes": result.estimate.capacity_bytes},
        }
        for panel, parts in panels.items():
            rows += [{"plan": name, "panel": panel, "component": part, "value": value} for part, value in parts.items()]
    return rows


def save(results: Results, directory: Path, formats: Iterable[str] = ("png",)) -> list[Path]:
    """The files written: plans.csv, and plans.png, plans.svg or both with the same data.

    Raises:
        OSError: one cannot be written.
    """
    import matplotlib

    paths = [write(directory / "plans.csv", csv_text(figure_rows(results)))]
    settings: Any = SETTINGS  # the stubs want every key as a literal
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a name in a script that the font lacks is drawn as boxes
        figure = draw(results)
        for kind in dict.fromkeys(formats):
            picture = io.BytesIO()
            figure.savefig(picture, format=kind, metadata=METADATA[kind])
            paths.append(write(directory / f"plans.{kind}", picture.getvalue()))
    return paths


def draw(results: Results) -> Figure:
    """The figure: a row a plan, time on the left and memory on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = ["\n".join(textwrap.wrap(each.estimate.name, _NAME_COLUMNS)) or each.estimate.name for each in results.plans]
    lines = sum(max(1.0, 0.55 * (1 + name.count("\n"))) for name in names)
    figure = Figure(figsize=(10.5, 1.75 + 0.42 * max(lines, 1.6)), layout="constrained")
    FigureCanvasAgg(figure)
    time, memory = figure.subplots(1, 2, sharey=True)
    _draw_time(time, results.plans)
    _draw_memory(memory, results.plans)
    time.set_yticks(range(len(names)), names)
    time.set_ylim(len(names) - 0.45, -0.55)  # the first plan on top
    memory.tick_params(axis="y", left=False)
    figure.suptitle("\n".join(textwrap.wrap(f"{headline(results.scenario)}, {size(results.scenario)}", 130)), fontsize=9, x=0.01, ha="left")
    return figure


def _draw_time(axes: Axes, plans: Sequence[Result]) -> None:
    parts = [dict(each.estimate.breakdown_s) for each in plans]
    ends = _stack(axes, parts, TIME, _hatches(plans))
    measured = [(row, each.measured_step_s) for row, each in enumerate(plans) if each.measured_step_s is not None]
    if measured:
        rows, seconds = zip(*measured, strict=True)
        axes.plot(seconds, rows, "D", color="white", markeredgecolor="black", markersize=6, label="measured", zorder=4)
    right = max([*ends, *(seconds for _, seconds in measured)]) * (1.45 if measured else 1.18)
    for row, each in enumerate(plans):
        mark = each.measured_step_s or 0.0
        near = ends[row] <= mark < ends[row] + 0.15 * right  # the note would hide the mark
        text = units.format(each.estimate.step_s, "s", digits=4)
        beside = f", measured {units.format(mark, 's', digits=4)}" if mark else ""
        _note(axes, mark if near else ends[row], row, text + beside)
    axes.set_xlim(0, right)
    axes.set_title("step time")
    axes.set_xlabel("seconds")
    _legend(axes, "outside lower left")


def _draw_memory(axes: Axes, plans: Sequence[Result]) -> None:
    gib = float(units.parse("1 GiB", "bytes"))
    parts = [{name: size / gib for name, size in each.estimate.memory_bytes[each.most_loaded].items()} for each in plans]
    ends = _stack(axes, parts, MEMORY, _hatches(plans))
    capacity = plans[0].estimate.capacity_bytes
    axes.axvline(capacity / gib, color="black", linewidth=1, linestyle="--", label=f"capacity, {units.format(capacity, 'GiB')}")
    for row, each in enumerate(plans):
        peak = units.format(each.estimate.peak_bytes, "GiB")
        _note(axes, ends[row], row, peak + _lack(each.estimate))
    room = 1.18 if all(each.estimate.fits for each in plans) else 1.45
    axes.set_xlim(0, max(capacity / gib * 1.05, max(ends) * room))
    axes.set_title("memory of the most loaded stage")
    axes.set_xlabel("GiB")
    _legend(axes, "outside lower right")


def _lack(estimate: Estimate) -> str:
    """What does not fit, behind the peak of a device."""
    if estimate.host_fits:
        return "" if estimate.fits else ", does not fit"
    needs, holds = (units.format(size, "GiB") for size in (estimate.host_peak_bytes, estimate.host_capacity_bytes or 0))
    return f"; its host needs {needs} of {holds}"


def _hatches(plans: Sequence[Result]) -> list[str]:
    return ["" if each.estimate.fits else OVER for each in plans]


def _stack(axes: Axes, plans: Sequence[Mapping[str, float]], colours: Mapping[str, str], hatches: Sequence[str]) -> list[float]:
    """Stacked bars; where each ends."""
    ends = [0.0] * len(plans)
    for part in dict.fromkeys(name for plan in plans for name in plan):
        widths = [plan.get(part, 0.0) for plan in plans]
        if not any(widths):
            continue  # a colour nobody can see needs no entry in the legend
        label, colour = LABELS.get(part, part), colours.get(part, UNKNOWN)
        axes.barh(range(len(plans)), widths, _BAR, ends, color=colour, edgecolor="white", linewidth=0.2, label=label, hatch=list(hatches))
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    return ends


def _note(axes: Axes, x: float, row: int, text: str) -> None:
    note: Any = axes.annotate(text, (x, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8, zorder=3)
    note.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})


def _legend(axes: Axes, place: str) -> None:
    """Below the panels; bars show their colour alone, since one that does not fit is hatched."""
    from matplotlib.container import BarContainer
    from matplotlib.patches import Patch

    found: Any = axes.get_legend_handles_labels()
    handles, labels = found
    bars = [index for index, each in enumerate(handles) if isinstance(each, BarContainer)]
    order = [*bars, *(index for index in range(len(handles)) if index not in bars)]
    shown = [Patch(facecolor=handles[index].patches[0].get_facecolor()) if index in bars else handles[index] for index in order]
    figure: Any = axes.figure
    figure.legend(shown, [labels[index] for index in order], loc=place, ncols=4, fontsize=8, columnspacing=1.2, handlelength=1.2)
