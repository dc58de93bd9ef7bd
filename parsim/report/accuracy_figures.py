"""The figures of `parsim validate --report`, each with the CSV of what it draws.

Colours: Okabe and Ito 2008, told apart by the colour-blind; a mark of its own for each class beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from parsim import units
from parsim.report.accuracy_page import row_of
from parsim.report.figure import new_axes, save_figure
from parsim.units import percent
from parsim.validate.accuracy import Accuracy
from parsim.validate.classes import ADAPTERS, CONTEXT, DENSE, EXPERTS, NARROW, UNSTEADY
from parsim.validate.compare import statistics
from parsim.validate.scores import GroupErrors
from parsim.validate.sweeps import MeasuredSweep

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BAND: Final = 0.10
_GREY, _DARK, _BLUE, _RED = "#999999", "#333333", "#0072B2", "#D55E00"
_LEAST: Final = 0.3  # percent
_BEYOND: Final = (1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)  # ticks
_APART: Final = 0.05  # of the axis, between two of them
_STYLES: Final = {
    DENSE: ("#0072B2", "o"),
    NARROW: ("#E69F00", "s"),
    EXPERTS: ("#009E73", "^"),
    CONTEXT: ("#CC79A7", "D"),
    UNSTEADY: ("#999999", "x"),
    ADAPTERS: ("#56B4E9", "v"),
    "allocated": ("#0072B2", "o"),
    "reserved": ("#E69F00", "s"),
    "device": ("#009E73", "^"),
    "unknown": ("#999999", "x"),
}
_OTHER: Final = ("#D55E00", "P")
_OTHERS: Final = {"left out": ("left_out", "o"), "one utilisation": ("utilisation", "x"), "one factor": ("factor", "+")}


def save(found: Accuracy, directory: Path, formats: Iterable[str]) -> list[Path]:
    """The files written: of each figure that has something to draw its CSV, and the picture in each format.

    Raises:
        OSError: one cannot be written.
    """
    kinds, rows = tuple(formats), [row_of(each) for each in found.rows]
    steps, peaks = ([row for row in rows if row[name] is not None] for name in ("step_error", "memory_error"))
    groups = [each for each in found.steps if each.ours["n"]]
    written = []
    if steps:
        written += save_figure(directory / "steps", steps, lambda: draw_steps(steps), kinds)
        written += save_figure(directory / "errors", error_rows(groups), lambda: draw_errors(groups), kinds)
    if peaks:
        written += save_figure(directory / "memory", peaks, lambda: draw_memory(peaks), kinds)
    if found.sweeps:
        written += save_figure(directory / "sweeps", plan_rows(found.sweeps), lambda: draw_sweeps(found.sweeps), kinds)
    return written


def error_rows(groups: Sequence[GroupErrors]) -> list[dict[str, object]]:
    """What the figure of errors draws: a row a group."""
    return [
        {"kind": each.kind, "group": each.group, "rows": each.num_rows}
        | {
            f"{which}_{name}": value
            for which in ("ours", "left_out", "utilisation", "factor")
            for name, value in getattr(each, which).items()
        }
        for each in groups
    ]


def plan_rows(sweeps: Sequence[MeasuredSweep]) -> list[dict[str, object]]:
    """What the figure of sweeps draws: a row a plan."""
    return [
        {
            "sweep": number,
            "source_family": each.source_family,
            "model_name": each.model_name,
            "predicted_step_s": ours,
            "measured_step_s": real,
        }
        for number, each in enumerate(sweeps, start=1)
        for ours, real in each.plans
    ]


def draw_steps(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Predicted against measured seconds, logarithmic, with the band about equality."""
    points = [(row["measured_step_s"], row["predicted_step_s"], row["class"]) for row in rows]
    return _scatter(points, [row["step_error"] for row in rows], "measured step, s", "predicted step, s")


def draw_memory(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Predicted against measured peak, logarithmic, with the band about equality."""
    gib = float(units.parse("1 GiB", "bytes"))
    points = [(row["measured_peak_bytes"] / gib, row["predicted_peak_bytes"] / gib, row["memory_metric"] or "not stated") for row in rows]
    return _scatter(points, [row["memory_error"] for row in rows], "measured peak, GiB", "predicted peak, GiB")


def _scatter(points: Sequence[tuple[float, float, str]], errors: Sequence[float], x: str, y: str) -> Figure:
    figure, axes = new_axes(6.4, 6)
    values = [value for point in points for value in point[:2]]
    low, high = min(values) / 1.4, max(values) * 1.4
    axes.fill_between([low, high], [low * (1 - BAND), high * (1 - BAND)], [low * (1 + BAND), high * (1 + BAND)], color="#EEEEEE", zorder=0)
    axes.plot([low, high], [low, high], color=_DARK, linewidth=0.8, zorder=1)
    for name in sorted({name for *_, name in points}, key=lambda name: (name not in _STYLES, [*_STYLES, name].index(name))):
        own = [place for place, point in enumerate(points) if point[2] == name]
        colour, mark = _STYLES.get(name, _OTHER)
        figures = statistics(errors[place] for place in own)
        label = f"{name}: {len(own)}, median {percent(figures['median_abs'] or 0.0)}"
        xs, ys = ([points[place][side] for place in own] for side in (0, 1))
        axes.scatter(xs, ys, s=22, color=colour, marker=mark, alpha=0.75, linewidths=0.9 if mark == "x" else 0, label=label, zorder=3)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), xlabel=x, ylabel=y, aspect="equal")
    _plain_numbers(axes.xaxis)
    _plain_numbers(axes.yaxis)
    axes.legend(loc="upper left", fontsize=8, title=f"grey: within {100 * BAND:g} %", title_fontsize=8, alignment="left")
    return figure


def _plain_numbers(axis: Axis) -> None:
    """Numbers as people write them, not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 1000 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def draw_errors(groups: Sequence[GroupErrors]) -> Figure:
    """Of each group the median of absolute errors, a line to the 90th percentile, and the medians of the others; logarithmic."""
    kinds = list(dict.fromkeys(each.kind for each in groups))
    places = [place + kinds.index(each.kind) for place, each in enumerate(groups)]  # a row is left free between kinds
    figure, axes = new_axes(8.5, 1.3 + 0.21 * (len(groups) + len(kinds)))
    for each, place in zip(groups, places, strict=True):
        ends = [_on_axis(each.ours[name]) for name in ("median_abs", "p90_abs")]
        axes.plot(ends, [place, place], color=_BLUE, linewidth=1.2, alpha=0.5, zorder=2)
        axes.scatter(ends[:1], [place], s=30, color=_BLUE, zorder=4)
        for which, mark in _OTHERS.values():
            hollow: dict[str, Any] = {"s": 60, "facecolors": "none", "edgecolors": _RED} if mark == "o" else {"s": 26, "color": _GREY}
            axes.scatter([_on_axis(getattr(each, which)["median_abs"])], [place], marker=mark, linewidths=1.1, zorder=3, **hollow)
    axes.set_yticks(places, [f"{each.group} ({each.ours['n']})" for each in groups], fontsize=8)
    axes.set(ylim=(max(places) + 0.7, -0.7), xscale="log", xlabel="absolute error of the step, %")
    axes.axvline(BAND * 100, color=_DARK, linewidth=0.7, linestyle=":")
    _plain_numbers(axes.xaxis)
    _error_legend(figure)
    return figure


def _on_axis(error: float | None) -> float:
    """Percent, no less than what a logarithmic axis can show."""
    return max(100 * (error or 0.0), _LEAST)


def _error_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    ours = Line2D([], [], color=_BLUE, marker="o", markersize=5, linewidth=1.2, label="parsim: median, line to p90")
    hollow = Line2D([], [], linestyle="", marker="o", markersize=7, markerfacecolor="none", markeredgecolor=_RED, label="left out: median")
    others = [
        Line2D([], [], linestyle="", marker=mark, color=_GREY, label=f"{name}: median")
        for name, (_, mark) in _OTHERS.items()
        if mark != "o"
    ]
    figure.legend(handles=[ours, hollow, *others], loc="outside lower center", ncols=4, fontsize=8)


def draw_sweeps(sweeps: Sequence[MeasuredSweep]) -> Figure:
    """Of each sweep what every plan takes beyond the best, and the one that is predicted fastest."""
    from matplotlib.ticker import NullLocator

    figure, axes = new_axes(8.5, 1.3 + 0.34 * len(sweeps))
    for place, each in enumerate(sweeps):
        best = min(real for _, real in each.plans)
        axes.scatter(
            [real / best for _, real in each.plans], [place] * len(each.plans), s=18, color=_GREY, alpha=0.7, linewidths=0, zorder=2
        )
        axes.scatter([1 + each.regret], [place], s=46, marker="D", color=_RED, zorder=3)
    names = [f"{each.model_name}, {each.num_devices} x {each.accelerator}" for each in sweeps]
    axes.set_yticks(range(len(sweeps)), names, fontsize=8)
    axes.set_ylim(len(sweeps) - 0.4, -0.6)
    axes.set(xscale="log", xlabel="measured step beyond that of the best plan, %")
    shown = _ticks(*axes.get_xlim())
    axes.set_xticks(shown, [f"{100 * (each - 1):.0f}" for each in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    _sweep_legend(figure)
    return figure


def _ticks(low: float, high: float) -> list[float]:
    """Those of _BEYOND between the ends of the axis that stand far enough apart."""
    found = [1.0]
    for each in _BEYOND:
        if each <= high and log(each / found[-1]) > _APART * log(high / low):
            found.append(each)
    return found


def _sweep_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    plan = Line2D([], [], linestyle="", marker="o", markersize=5, color=_GREY, label="a plan")
    first = Line2D([], [], linestyle="", marker="D", markersize=6, color=_RED, label="predicted fastest")
    figure.legend(handles=[plan, first], loc="outside lower center", ncols=2, fontsize=8)
