"""The figure of what feeds each plan: what each stage can supply beside what the step wants, and the wait against storage bandwidth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from parsim import units
from parsim.feed.supply import Supply
from parsim.report.figure import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: Final = {"read": "#0072B2", "prepare": "#E69F00", "batch": "#009E73", "to_device": "#CC79A7"}
_PLANS: Final = ("#332288", "#D55E00", "#117733", "#AA4499", "#56B4E9", "#999933", "#CC6677", "#333333")
_WIDTH, _ROW, _REST, _LEAST = 10.5, 0.22, 1.3, 3.4  # inches: width, a stage of a plan, what is above and below, the least height
_NAME: Final = 22  # characters of a plan's name
_SPAN: Final = 30.0  # of the bandwidth that is needed: how far the curve goes below and above it
_POINTS: Final = 61


def save(fed: Sequence[Supply], storage_bytes_per_s: float | None, directory: Path, formats: Iterable[str]) -> list[Path]:
    """The files written: feed.csv, and feed.png, feed.svg or both with the same data.

    Args:
        storage_bytes_per_s: what all nodes together read of the storage; None: no bound.

    Raises:
        OSError: one cannot be written.
    """
    return save_figure(directory / "feed", figure_rows(fed, storage_bytes_per_s), lambda: draw(fed, storage_bytes_per_s), formats)


def figure_rows(fed: Sequence[Supply], storage_bytes_per_s: float | None) -> list[dict[str, object]]:
    """What the figure draws, a row a mark, in SI base units."""
    rows: list[dict[str, object]] = []
    for each in fed:
        bars = {stage.name: stage.sequences_per_s for stage in each.stages} | {"step": demand(each)}
        rows += [{"plan": each.name, "panel": "supply", "component": name, "x": "", "value": rate} for name, rate in bars.items()]
        rows += [
            {"plan": each.name, "panel": "wait", "component": "fed_step_s", "x": x, "value": y}
            for x, y in zip(*wait_curve(each, storage_bytes_per_s), strict=True)
        ]
    return rows


def demand(fed: Supply) -> float:
    """Sequences per second that the steps of a plan take, all readers together."""
    return fed.sequences * fed.num_readers / fed.step_s


def wait_curve(fed: Supply, storage_bytes_per_s: float | None) -> tuple[list[float], list[float]]:
    """Bandwidths of storage [bytes/s], and a step with its wait at each [s], all else as it is and without jitter.

    They span what is needed, widely, and what the storage gives.
    """
    needed = fed.needs.read_bytes_per_s
    most = max(needed * _SPAN, 2 * (storage_bytes_per_s or 0.0))
    bandwidths = np.geomspace(needed / _SPAN, most, _POINTS).tolist()
    return bandwidths, [fed_step_s(fed, each) for each in bandwidths]


def fed_step_s(fed: Supply, bandwidth: float) -> float:
    """A step with its wait where storage gives so much to all nodes, all else as it is and without jitter [s].

    What is read takes the whole of a step at the bandwidth that is needed.
    """
    reading = fed.needs.read_bytes_per_s * fed.step_s / bandwidth
    other = [stage.batch_s for stage in fed.stages if stage.name != "read"]
    bounds = [bound for stage in fed.stages if stage.name == "read" for name, bound in stage.bounds_s.items() if name != "storage"]
    read = max([reading, *bounds])
    return fed.step_s + read + sum(other) if not fed.prefetch else max([fed.step_s, read, *other])


def draw(fed: Sequence[Supply], storage_bytes_per_s: float | None) -> Figure:
    """The figure: supply of each stage on the left, the wait on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = max(_LEAST, _REST + _ROW * sum(len(each.stages) + 1 for each in fed))
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    below = (0.5, -0.14 * _LEAST / height)  # where legends begin, in heights of a panel
    _draw_supply(left, fed, below)
    _draw_wait(right, fed, storage_bytes_per_s, below)
    return figure


def _draw_supply(axes: Axes, fed: Sequence[Supply], below: tuple[float, float]) -> None:
    row, ticks = 0, []
    rates = [stage.sequences_per_s for each in fed for stage in each.stages if stage.sequences_per_s]
    least, most = min([*rates, *map(demand, fed)]), max([*rates, *map(demand, fed)])
    least, most = least / (most / least) ** 0.15 / 1.5, most * (most / least) ** 0.45 * 2  # room for what stands beside the bars
    for each in fed:
        first = row
        for stage in each.stages:
            rate = stage.sequences_per_s
            axes.barh(row, (rate or most) - least, left=least, height=0.8, color=_COLOURS[stage.name], alpha=1.0 if rate else 0.25)
            text = f"{rate:,.0f}{f'  {stage.binds}' if stage.binds else ''}" if rate else "no bound"
            at = (rate, row) if rate else (demand(each), row)
            note = axes.annotate(text, at, xytext=(4, 0), textcoords="offset points", va="center", fontsize=7, zorder=4)
            note.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85})
            ticks.append((row, f"{_short(each.name)}: read" if row == first else stage.name.replace("_", " ")))
            row += 1
        axes.plot([demand(each)] * 2, [first - 0.5, row - 0.5], color="black", linewidth=1.8, zorder=3, label="what the step takes")
        row += 1
    _scale(axes, "x", "")
    axes.set_xlim(least, most)
    axes.set_ylim(row - 1.2, -0.9)
    axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    axes.set_xlabel("sequences per second, all readers")
    axes.set_title("what each stage supplies")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[:1], labels[:1], loc="upper center", bbox_to_anchor=below, fontsize=8)


def _draw_wait(axes: Axes, fed: Sequence[Supply], storage_bytes_per_s: float | None, below: tuple[float, float]) -> None:
    for index, each in enumerate(fed):
        bandwidths, together = wait_curve(each, storage_bytes_per_s)
        colour = _PLANS[index % len(_PLANS)]
        axes.plot(
            bandwidths, together, color=colour, linewidth=1.6 + max(0.0, 1.4 * (len(fed) - 1 - index)), label=_short(each.name), zorder=3
        )
        axes.axhline(each.step_s, color=colour, linewidth=1.0, linestyle=":")
        needed = each.needs.read_bytes_per_s
        axes.plot([needed], [fed_step_s(each, needed)], "o", color=colour, markersize=5, markeredgecolor="white", zorder=4)
    axes.plot([], [], color="black", linewidth=1.0, linestyle=":", label="the step alone")
    axes.plot([], [], "o", color="black", markersize=4, label="bandwidth that is needed")
    if storage_bytes_per_s is not None:
        label = f"this storage, {units.format(storage_bytes_per_s, 'bytes/s')}"
        axes.axvline(storage_bytes_per_s, color="black", linewidth=1, linestyle="--", label=label)
    _scale(axes, "x", "bytes/s")
    _scale(axes, "y", "s")
    axes.set_xlabel("what storage gives to all nodes")
    axes.set_title("a step with its wait")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=below, ncols=3)


def _scale(axes: Axes, which: Literal["x", "y"], unit: str) -> None:
    """A logarithmic axis with few ticks, as people read them: powers of a number are no text here."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    few = high / low < 30
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: units.format(value, unit) if unit else f"{value:g}".replace("e+0", "e")))
    axis.set_minor_formatter(NullFormatter())


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 3]}..."
