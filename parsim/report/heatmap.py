"""The heatmap of a sweep's results.csv: a value by two columns, the best of each cell; what does not fit is hatched.

Source of the colours: Nunez et al. 2018, "cividis" (doi:10.1371/journal.pone.0199239).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from msgspec import Struct

from parsim import units
from parsim.errors import ParsimError, did_you_mean
from parsim.report.console import log_files
from parsim.report.figure import OVER, new_axes, save_figure
from parsim.report.files import prepare
from parsim.scenario.read_files import lines_of, open_bytes
from parsim.units import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_BYTES: Final = 1_000_000_000
_MOST_SAID: Final = 2000  # letters of columns
_RATES: Final = ("tokens_per_s", "mfu", "hfu")  # how the columns begin of which more is better
COLOURS, BEST, _EMPTY, _EDGE = "cividis", "#D55E00", "#F2F2F2", "#777777"
_MOST_CELLS: Final = 60  # along an axis; more cannot be read


class Tile(Struct, frozen=True):
    """A cell: the best value of what fits there, or of what does not; None: nothing there can be trained at all."""

    x: str
    y: str
    value: float | None
    fits: bool


def plot_heatmap(path: Path, out: Path | None, formats: Sequence[str], *, x: str, y: str, value: str) -> int:
    """The exit status of drawing: 0.

    Raises:
        ParsimError: the file is no CSV of a sweep, or lacks a column.
        OSError: a file cannot be written.
    """
    tiles = tiles_of(_read(path, x, y, value), x, y, value)
    directory = prepare(out or path.parent)
    rows = ({x: each.x, y: each.y, value: each.value, "fits": each.fits} for each in tiles)
    written = save_figure(directory / "heatmap", rows, lambda: draw(tiles, x, y, value), formats)
    log_files(directory, written)
    return 0


def _read(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    """The rows of a sweep, one after another: of a million points they are more than a memory holds."""
    try:
        with open_bytes(path, _MOST_BYTES) as file:
            rows = csv.DictReader(_lines(file))
            known = tuple(rows.fieldnames or ())
            for column in columns:
                if column not in known:
                    said = f"no column '{column[:80]}'{did_you_mean(column, known)}" if column else "needs --x COLUMN and --y COLUMN"
                    raise ParsimError(said, str(path), f"Columns here: {', '.join(known)[:_MOST_SAID] or 'none'}.")
            yield from rows
    except (OSError, ValueError, csv.Error) as error:
        raise ParsimError(f"cannot be read: {getattr(error, 'strerror', '') or error}", str(path), "Give the CSV of a sweep.") from None


def _lines(file: BinaryIO) -> Iterator[str]:
    size = 0
    for number, line in enumerate(lines_of(file)):
        if (size := size + len(line)) > _MOST_BYTES:
            raise ValueError(f"it is larger than the {units.format(_MOST_BYTES, 'bytes')} that are read")
        yield line.decode("utf-8-sig" if number == 0 else "utf-8")


def tiles_of(rows: Iterable[Mapping[str, str]], x: str, y: str, value: str) -> list[Tile]:
    """A tile for each pair of values that there is, in the order of their axes.

    Raises:
        ParsimError: a value is no number, or there are too many along an axis.
    """
    found: dict[tuple[str, str], Tile] = {}
    for row in rows:
        tile = Tile(row[x], row[y], _number(row[value], value), row.get("fits", "true") == "true")
        place = tile.x, tile.y
        if place not in found or _rank(tile, value) < _rank(found[place], value):
            found[place] = tile
    columns, lines = [list(axis) for axis in _axes(found.values())]
    for name, axis in ((x, columns), (y, lines)):
        if not 0 < len(axis) <= _MOST_CELLS:
            raise ParsimError(f"column '{name}' has {len(axis)} different values; a heatmap shows 1 to {_MOST_CELLS}")
    return sorted(found.values(), key=lambda each: (columns.index(each.x), lines.index(each.y)))


def _number(text: str, column: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise ParsimError(f"column '{column}' holds '{text[:40]}', which is no number") from None


def _rank(tile: Tile, value: str) -> tuple[bool, bool, float]:
    """What fits before what does not, what has a value before what has none, then the better."""
    sign = -1 if value.startswith(_RATES) else 1
    return not tile.fits or tile.value is None, tile.value is None, sign * (tile.value or 0.0)


def _axes(tiles: Iterable[Tile]) -> tuple[list[str], list[str]]:
    """The values along x and y: numbers ascending, others as they come."""
    listed = list(tiles)
    return _in_order(each.x for each in listed), _in_order(each.y for each in listed)


def _in_order(values: Iterable[str]) -> list[str]:
    distinct = list(dict.fromkeys(values))
    try:
        return sorted(distinct, key=float)
    except ValueError:
        return distinct


def draw(tiles: Sequence[Tile], x: str, y: str, value: str) -> Figure:
    """The figure."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    good = [each for each in tiles if each.fits and each.value is not None]
    shown = [each.value for each in good if each.value is not None] or [0.0, 1.0]
    scale, name = Normalize(min(shown), max(shown)), COLOURS if value.startswith(_RATES) else f"{COLOURS}_r"
    best = min(good, key=lambda each: _rank(each, value), default=None)
    figure, axes = draw_tiles(tiles, best, scale, name, lambda each: _text(each.value, value))
    if good:
        figure.colorbar(ScalarMappable(scale, name), ax=axes, label=value)
    axes.set(xlabel=x, ylabel=y)
    tile_legend(figure, "the best" if good else "", "does not fit", "not legal, or not in the sweep", ncols=3)
    return figure


def draw_tiles(tiles: Sequence[Tile], best: Tile | None, scale: Any, name: str, text: Callable[[Tile], str]) -> tuple[Figure, Axes]:
    """The tiles in the colours of that name, what does not fit hatched, the best outlined, between the values of both axes."""
    import matplotlib

    columns, lines = _axes(tiles)
    colours, places = matplotlib.colormaps[name], {each: (columns.index(each.x), lines.index(each.y)) for each in tiles}
    figure, axes = new_axes(max(6.5, 2.6 + 0.95 * len(columns)), max(3.2, 1.7 + 0.52 * len(lines)))
    axes.set_facecolor(_EMPTY)
    for each, place in places.items():
        colour = _EMPTY if each.value is None else colours(scale(each.value)) if each.fits else "white"
        _draw_tile(axes, place, each, colour, text(each))
    if best:
        _outline(axes, places[best])
    axes.set(xlim=(0, len(columns)), ylim=(0, len(lines)))
    axes.set_xticks([n + 0.5 for n in range(len(columns))], columns)
    axes.set_yticks([n + 0.5 for n in range(len(lines))], lines)
    axes.tick_params(length=0)
    return figure, axes


def tile_legend(figure: Figure, best: str, over: str, empty: str, *, ncols: int) -> None:
    """What tiles are outlined, where there is a best, hatched and grey for."""
    from matplotlib.patches import Patch

    outlined = [Patch(fill=False, edgecolor=BEST, linewidth=2.2, label=best)] if best else []
    hatched = Patch(facecolor="white", edgecolor=_EDGE, hatch=OVER, label=over)
    grey = Patch(facecolor=_EMPTY, edgecolor="#CCCCCC", label=empty)
    figure.legend(handles=[*outlined, hatched, grey], loc="outside lower center", ncols=ncols, fontsize=8)


def _draw_tile(axes: Axes, corner: tuple[int, int], tile: Tile, colour: Any, text: str) -> None:
    from matplotlib.patches import Rectangle

    over = tile.value is not None and not tile.fits
    edge = _EDGE if over else "white"
    axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor=edge, hatch=OVER if over else "", linewidth=1))
    dark = not isinstance(colour, str) and sum(colour[:3]) < 1.3
    place = corner[0] + 0.5, corner[1] + 0.5
    note: Any = axes.text(*place, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    if over:
        note.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.2})


def _outline(axes: Axes, corner: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle

    inside = corner[0] + 0.03, corner[1] + 0.03
    axes.add_patch(Rectangle(inside, 0.94, 0.94, fill=False, edgecolor=BEST, linewidth=2.6, zorder=3))


def _text(value: float | None, column: str) -> str:
    if value is None:
        return ""
    if column.startswith(("mfu", "hfu")):
        return percent(value)
    if column.endswith("_bytes"):
        return units.format(value, "GiB")
    return units.format(value, "s") if column.endswith("_s") and not column.endswith("per_s") else f"{value:,.4g}"
