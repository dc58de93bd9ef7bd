"""The figure of executed training: the loss of each plan against the sequences that it has seen, and against time; with its CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from parsim import units
from parsim.executor.curve import WINDOW, LossPoint, first_at
from parsim.report.figure import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE: Final = 10.5, 4.4  # inches
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")  # Okabe and Ito 2008
_STYLES: Final = ("-", "--")  # in turn, as equal losses lie over one another
Curves = Mapping[str, Sequence[LossPoint]]


class CurvesAsked(Struct, frozen=True):
    """What is asked of losses over time."""

    to_loss: float | None = None  # when is the loss that low?
    formats: tuple[str, ...] = ()  # of a figure
    out: Path | None = None  # where it is drawn
    wall: bool = False  # time is that of this machine, and servers serve as requests come

    @property
    def are_asked(self) -> bool:
        """Whether it matters when a step ends."""
        return self.to_loss is not None or bool(self.formats)


def time_to_loss(points: Sequence[LossPoint] | None, curves: CurvesAsked) -> dict[str, Any]:
    """For JSON: when the loss that is asked for is reached; nothing where none is."""
    if points is None or curves.to_loss is None:
        return {}
    found = first_at(points, curves.to_loss)
    if found is None:
        return {"to_loss": None}
    seconds = {"wall_s": found.wall_s} if curves.wall else {"virtual_s": found.virtual_s}
    return {"to_loss": {"loss": curves.to_loss, "samples": found.samples, **seconds}}


def words_of_time_to_loss(points: Sequence[LossPoint] | None, curves: CurvesAsked) -> dict[str, str]:
    """The same for the table."""
    if points is None or curves.to_loss is None:
        return {}
    found = first_at(points, curves.to_loss)
    title = f"{'wall' if curves.wall else 'cluster'}, to loss {curves.to_loss:g}"
    if found is None:
        return {title: "not reached"}
    seconds = found.wall_s if curves.wall else found.virtual_s
    samples = f"{found.samples:,} sequences"
    return {title: samples if seconds is None else f"{units.format(seconds, 's')} ({samples})"}


def save(drawn: Curves, directory: Path, curves: CurvesAsked, title: str) -> list[Path]:
    """The files written: loss.csv, and the figure in each format.

    Raises:
        OSError: one cannot be written.
    """
    return save_figure(directory / "loss", rows(drawn), lambda: draw(drawn, title, wall=curves.wall), curves.formats)


def rows(drawn: Curves) -> list[dict[str, Any]]:
    """What is drawn: a row a plan and step."""
    return [
        {
            **{"plan": plan, "step": step, "samples": point.samples, "virtual_s": point.virtual_s, "wall_s": point.wall_s},
            **{"loss": point.loss, "mean_loss": point.mean_loss},
            **{"validation_loss": point.validation_loss, "accuracy": point.accuracy},
        }
        for plan, points in drawn.items()
        for step, point in enumerate(points, 1)
    ]


def draw(drawn: Curves, title: str, *, wall: bool) -> Figure:
    """Two panels with one axis of losses; `wall`: time is that of this machine, and not the cluster's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    samples, time = figure.subplots(1, 2, sharey=True)
    each = {plan: [(point.wall_s if wall else point.virtual_s, point.mean_loss) for point in points] for plan, points in drawn.items()}
    timed = {plan: [(seconds, loss) for seconds, loss in own if seconds is not None] for plan, own in each.items()}
    unit = units.format(max((own[-1][0] for own in timed.values() if own), default=1.0), "s").rpartition(" ")[2]
    scale = float(units.parse(f"1 {unit}", "s"))
    for place, (plan, points) in enumerate(drawn.items()):
        how: Any = {
            "color": _COLOURS[place % len(_COLOURS)],
            "linestyle": _STYLES[place % len(_STYLES)],
            "linewidth": 1.4,
        }
        losses = [point.mean_loss for point in points]
        samples.plot([point.samples for point in points], losses, label=plan, **how)
        time.plot([seconds / scale for seconds, _ in timed[plan]], [loss for _, loss in timed[plan]], **how)
    samples.set(xlabel="sequences of applied gradients", ylabel=f"training loss, mean of {WINDOW} steps")
    time.set(xlabel=f"{unit} on this machine" if wall else f"{unit} on the cluster of the scenario")
    for axes in (samples, time):
        axes.grid(color="#DDDDDD", linewidth=0.5)
        axes.set_xlim(left=0)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    figure.legend(loc="outside lower center", ncols=min(4, len(drawn)), fontsize=8)
    return figure
