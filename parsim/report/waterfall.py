"""The figure of a comparison: from the step of one plan to that of another, a bar a part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from parsim import units
from parsim.estimator.comparison import Comparison
from parsim.report.figure import UNKNOWN, new_axes, outermost, part_label, save_figure, time_colours
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _ROW, _REST = 8.0, 0.34, 1.1  # inches: the figure's width, a bar, and what is above and below the bars
_STEP = "#666666"


def save(comparison: Comparison, directory: Path, formats: Iterable[str]) -> list[Path]:
    """The files written: waterfall.csv, and the figure in each format.

    Raises:
        OSError: one cannot be written.
    """
    rows = [{"bar": bar, "from_s": low / PS_PER_S, "to_s": high / PS_PER_S} for bar, low, high in bars(comparison)]
    return save_figure(directory / "waterfall", rows, lambda: draw(comparison), formats)


def bars(comparison: Comparison) -> list[tuple[str, int, int]]:
    """Each bar with where it begins and ends [ps]: the first step, what each part adds to it or takes away, the second step."""
    found, level = [], sum(comparison.first.parts_ps().values())
    found.append((comparison.first.name, 0, level))
    for part, longer in comparison.longer_ps().items():
        if longer:
            found.append((part, level, level + longer))
            level += longer
    return [*found, (comparison.second.name, 0, level)]


def draw(comparison: Comparison) -> Figure:
    """The bars from top to bottom; the axis begins where all that differs can be seen."""
    drawn = bars(comparison)
    ends = [end / PS_PER_S for _, *both in drawn for end in both if end]
    reach = max(ends) - min(ends)
    start = min(ends) - reach / 2 if 0 < reach < min(ends) else 0.0
    figure, axes = new_axes(_WIDTH, _REST + _ROW * len(drawn))
    colours = time_colours()
    for row, (bar, low, high) in enumerate(drawn):
        is_step = row in (0, len(drawn) - 1)
        left, right = sorted((max(low / PS_PER_S, start), high / PS_PER_S))
        axes.barh(row, right - left, left=left, height=0.7, color=_STEP if is_step else colours.get(outermost(bar), UNKNOWN))
        text = units.format(abs(high - low) / PS_PER_S, "s", digits=4 if is_step else 3)
        sign = "" if is_step else "+" if high > low else "-"
        axes.annotate(f"{sign}{text}", (right, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        if row + 1 < len(drawn):
            axes.plot([high / PS_PER_S] * 2, [row - 0.35, row + 1.35], color="black", linewidth=0.6)
    axes.set_yticks(range(len(drawn)), [part_label(bar) for bar, *_ in drawn])
    axes.invert_yaxis()
    axes.set_xlim(start, max(ends) + 0.25 * (max(ends) - start))
    axes.set_xlabel(f"s{', from ' + units.format(start, 's') if start else ''}")
    axes.set_title(f"from {comparison.first.name} to {comparison.second.name}: what the step gains and loses")
    return figure
