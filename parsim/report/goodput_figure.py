"""The figure of goodput: against the interval between checkpoints, with the best by three rules; and the losses by number of devices.

Colours as in figure.py, told apart by the colour-blind: Okabe and Ito 2008.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from parsim import units
from parsim.estimator.result import Estimate
from parsim.goodput.outage import LOSSES, Lived
from parsim.goodput.predict import Goodput
from parsim.goodput.scaling import AtInterval, by_devices, by_interval, lived_by_interval
from parsim.report.figure import save_figure
from parsim.report.results import Results
from parsim.report.summary import headline
from parsim.scenario import Scenario

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final[Mapping[str, str]] = {
    "checkpoint": "#0072B2",
    "rework": "#E69F00",
    "restart": "#009E73",
    "waiting": "#BBBBBB",
    "shrunk": "#CC79A7",
}
_LINES: Final = {"#000000": "-", "#D55E00": "--", "#56B4E9": "-.", "#009E73": ":", "#CC79A7": "--", "#E69F00": "-."}  # over equal ones
_MOST: Final = 6  # plans in the left panel
_RULES: Final[Mapping[str, tuple[str, str]]] = {"optimum_s": ("optimum", "-"), "daly_s": ("Daly", "--"), "young_s": ("Young", ":")}
_WIDTH, _HEIGHT, _LEAST = 10.5, 4.2, 0.005  # inches; of the time, below which a curve is not drawn further


class Drawn(Struct, frozen=True):
    """What the figure shows of a plan."""

    found: Goodput
    lives: Sequence[tuple[float, Lived]]  # simulated, each with its interval
    intervals: Sequence[AtInterval]
    devices: Sequence[tuple[int, Goodput]]  # of the first plan; of others none


def of_plan(scenario: Scenario, estimate: Estimate, found: Goodput, *, lives: bool, scales: bool) -> Drawn:
    """The curves of a plan; `lives`: also by events, `scales`: also by number of devices."""
    middle_s = found.optimum_s or found.interval_s
    simulated = lived_by_interval(scenario, estimate, middle_s) if lives else ()
    return Drawn(found, simulated, by_interval(scenario, estimate, middle_s), by_devices(scenario, estimate) if scales else ())


def rows_of(plans: Sequence[Drawn]) -> list[dict[str, object]]:
    """What the figure draws, a row a mark: plan, panel, where, the shares of the time."""
    rows: list[dict[str, object]] = []
    for each in plans:
        name, found = each.found.name, each.found
        rows += [{"plan": name, "panel": "interval", "interval_s": own.interval_s, **own.shares} for own in each.intervals]
        rules = {"chosen": found.interval_s} | {key: getattr(found, key) for key in _RULES if getattr(found, key) is not None}
        rows += [{"plan": name, "panel": f"interval: {rule.removesuffix('_s')}", "interval_s": seconds} for rule, seconds in rules.items()]
        rows += [{"plan": name, "panel": "simulated", "interval_s": own, "goodput": life.goodput} for own, life in each.lives]
        for count, own in each.devices:
            rows.append({"plan": name, "panel": "devices", "devices": count, "goodput": own.goodput, **own.losses})
    return rows


def save(results: Results, directory: Path, formats: Iterable[str]) -> list[Path]:
    """The files written: goodput.csv, and the figure in each format; none where no plan has a goodput.

    Raises:
        OSError: one cannot be written.
    """
    plans: list[Drawn] = []
    for each in results.plans[:_MOST]:
        if each.goodput:
            plans.append(of_plan(results.scenario, each.run, each.goodput, lives=bool(each.lives), scales=not plans))
    if not plans:
        return []
    return save_figure(directory / "goodput", rows_of(plans), lambda: draw(results.scenario, plans), formats)


def draw(scenario: Scenario, plans: Sequence[Drawn]) -> Figure:
    """The figure: goodput against the interval on the left, the losses of the first plan by number of devices on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    title = "; ".join((headline(scenario), *scenario.notes))
    figure.suptitle("\n".join(textwrap.wrap(title, 130)), fontsize=9, x=0.005, ha="left")
    _draw_intervals(left, plans)
    _draw_devices(right, plans[0])
    return figure


def _draw_intervals(axes: Axes, plans: Sequence[Drawn]) -> None:
    minute = units.parse("1 min", "s")
    for (colour, style), each in zip(_LINES.items(), plans, strict=False):
        shown = [own for own in each.intervals if own.shares["goodput"] > _LEAST]
        minutes, percents = [own.interval_s / minute for own in shown], [100 * own.shares["goodput"] for own in shown]
        axes.plot(minutes, percents, color=colour, linestyle=style, linewidth=1.6, label=each.found.name)
        chosen = [each.found.interval_s / minute], [100 * each.found.goodput]
        axes.plot(*chosen, "o", markersize=7, color=colour, markeredgecolor="white", zorder=4)
        if each.lives:
            at, reached = zip(*((own / minute, 100 * life.goodput) for own, life in each.lives), strict=True)
            label = "simulated" if each is plans[0] else None
            axes.plot(at, reached, "x", color=colour, markersize=6, label=label)
    first = plans[0].found
    for (name, (label, style)), shade in zip(_RULES.items(), ("#666666", "#0072B2", "#D55E00"), strict=True):
        seconds = getattr(first, name)
        if seconds is not None:
            text = f"{label}, {seconds / minute:.3g} min"
            axes.axvline(seconds / minute, color=shade, linestyle=style, linewidth=1.2, label=text, zorder=1)
    axes.set(xscale="log", xlabel="minutes of work between two checkpoints", ylabel="% of the time in steps that count")
    axes.xaxis.set_major_formatter(_plainly)
    axes.set_title("goodput")
    axes.plot([], [], "o", color="#888888", markersize=7, label="the run's interval")
    axes.legend(fontsize=8, loc="lower center", frameon=True, framealpha=1, edgecolor="white")


def _draw_devices(axes: Axes, plan: Drawn) -> None:
    """Stacked bars of what is lost, a number of devices each."""
    found = plan.devices or [(0, plan.found)]
    places, below = range(len(found)), [0.0] * len(found)
    for loss in LOSSES:
        heights = [100 * own.losses[loss] for _, own in found]
        if any(heights):
            axes.bar(places, heights, 0.7, bottom=below, color=COLOURS[loss], label=loss, edgecolor="white", linewidth=0.4)
            below = [low + height for low, height in zip(below, heights, strict=True)]
    room = max([*below, 0.1]) * 1.12
    for place, (top, (_, own)) in enumerate(zip(below, found, strict=True)):
        axes.annotate(f"{100 * own.goodput:.3g}", (place, top), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8)
    axes.set(xticks=[*places], ylim=(0, room), xlabel="devices, each replica with its sequences", ylabel="% of the time lost")
    axes.set_xticklabels([f"{count:,}" for count, _ in found], rotation=30 if len(found) > 6 else 0)
    axes.set_title(f"losses of {plan.found.name}; above them the goodput, %")
    axes.legend(fontsize=8, loc="upper left")


def _plainly(value: float, _: Any) -> str:
    return f"{value:g}"
