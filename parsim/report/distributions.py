"""The figure of disturbed steps: the distribution of each plan, what each cause takes by itself, and what one slow device costs.

Colours told apart by the colour-blind.  Source: Okabe and Ito 2008.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from parsim import units
from parsim.report.figure import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from parsim.disturbance import Disturbed

_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
_WIDTH, _ROW, _REST, _LEGEND = 10.5, 0.62, 1.0, 0.2  # inches: the figure, a plan, what is above and below, a line of the legend
_BINS, _HEIGHT = 160, 0.75  # of all distributions, and their height, of the distance between plans
_LEGEND_COLUMNS: Final = 5
_LEAST_SPAN = 0.01  # of the axis of distributions, where all steps are alike
_SLOW: Final = ("#332288", "#AA4499", "#DDCC77")  # by factor, the largest first; Tol 2021, "muted"
_MOST_BAR = 0.3  # the height of a bar where a plan has few


def save(plans: Sequence[Disturbed], directory: Path, formats: Iterable[str]) -> list[Path]:
    """The files written: disturbance.csv, a row a plan and step that was drawn, and the figure in each format.

    Raises:
        OSError: one cannot be written.
    """
    rows = (row for each in plans for row in each.records())
    return save_figure(directory / "disturbance", rows, lambda: draw(plans), formats) if plans else []


def draw(plans: Sequence[Disturbed]) -> Figure:
    """A row a plan: its steps as a distribution, what each cause takes by itself, and what a slow device costs by its pipeline rank."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    causes = [*dict.fromkeys(name for each in plans for name in each.costs())]
    legend = -(-(len(causes) + len(_SLOW)) // _LEGEND_COLUMNS)
    figure = Figure(figsize=(_WIDTH, _REST + _LEGEND * legend + _ROW * max(len(plans), 2)), layout="constrained")
    FigureCanvasAgg(figure)
    steps, alone, slow = figure.subplots(1, 3, width_ratios=(4, 3, 3))
    _draw_steps(steps, plans)
    _draw_causes(alone, plans, causes)
    _draw_slow_devices(slow, plans)
    handles, labels = (first + second for first, second in zip(*(each.get_legend_handles_labels() for each in (alone, slow)), strict=True))
    figure.legend(handles, labels, loc="outside lower center", ncols=_LEGEND_COLUMNS, fontsize=8)
    return figure


def _draw_steps(axes: Axes, plans: Sequence[Disturbed]) -> None:
    """Steps over the undisturbed step of their plan."""
    ratios = [np.array(each.steps_s) / each.step_s for each in plans]
    low, high = min(1.0, *(each.min() for each in ratios)), max(1.0 + _LEAST_SPAN, *(each.max() for each in ratios))
    edges = np.linspace(low, high + (high - low) / _BINS, _BINS + 2)
    for row, (each, ratio) in enumerate(zip(plans, ratios, strict=True)):
        counts, _ = np.histogram(ratio, bins=edges)
        heights = counts / counts.max() * _HEIGHT
        axes.fill_between(np.repeat(edges, 2)[1:-1], row + 0.3 - np.repeat(heights, 2), row + 0.3, color=_COLOURS[0], linewidth=0)
        for share, style in ((each.mean_s, "-"), (each.p99_s, ":")):
            axes.plot([share / each.step_s] * 2, [row - 0.5, row + 0.3], style, color="black", linewidth=1.0)
    axes.axvline(1.0, color="#777777", linewidth=0.8, linestyle="--")
    names = ["\n".join(textwrap.wrap(each.name, 20)) + f"\n{units.format(each.step_s, 's', digits=3)}" for each in plans]
    axes.set_yticks(range(len(plans)), names)
    axes.set_ylim(len(plans) - 0.5, -0.6)
    axes.set_title("steps: mean (line), p99 (dots)")
    axes.set_xlabel("times the undisturbed step")


def _draw_causes(axes: Axes, plans: Sequence[Disturbed], causes: Sequence[str]) -> None:
    """A bar a cause."""
    height = min(0.8 / len(causes), _MOST_BAR)
    for number, cause in enumerate(causes):
        rows = [row + height * (number - (len(causes) - 1) / 2) for row in range(len(plans))]
        shares = [each.costs().get(cause, 0.0) * 100 for each in plans]
        axes.barh(rows, shares, height=height, color="#333333" if cause == "all" else _COLOURS[number % len(_COLOURS)], label=cause)
    axes.set_yticks([])
    axes.set_ylim(len(plans) - 0.5, -0.6)
    axes.set_title("each cause by itself")
    axes.set_xlabel("% of the undisturbed step")


def _draw_slow_devices(axes: Axes, plans: Sequence[Disturbed]) -> None:
    """A bar a pipeline rank and factor, of the slower above the faster."""
    factors = sorted({each.factor for plan in plans for each in plan.slow_devices}, reverse=True)
    for row, plan in enumerate(plans):
        for number, factor in enumerate(factors):
            own = [each for each in plan.slow_devices if each.factor == factor]
            height = min(0.8 / len(own), _MOST_BAR)
            places = [row + height * (each.rank - (len(own) - 1) / 2) for each in own]
            shares = [(each.step_s / plan.step_s - 1.0) * 100 for each in own]
            label = f"one device {factor:g} times as slow" if row == 0 else None
            axes.barh(places, shares, height=height * 0.85, color=_SLOW[number % len(_SLOW)], label=label)
    axes.set_yticks([])
    axes.set_ylim(len(plans) - 0.5, -0.6)
    axes.set_title("one slow device, by pipeline rank")
    axes.set_xlabel("% of the undisturbed step; rank 0 on top")
