"""The interval of a row of measurements: from the errors of other runs, never from its own."""

from __future__ import annotations

from typing import Any

from parsim.confidence import Setting, spread_of
from parsim.confidence.runs import ALLOCATED, HELD, STEP, known_runs
from parsim.estimator import parts
from parsim.validate.sources import source_of
from parsim.validate.table import TableRow


def intervals_of(
    row: TableRow, setting: Setting, quantity: str, step_s: float, peak_bytes: int, measured: dict[str, float | None]
) -> dict[str, Any]:
    """Fields of its result: both intervals, and whether they hold what was measured, None where nothing was.

    A row of a source whose runs intervals rest on, its own or others, is judged without that: all that is known there was looked at before.
    """
    without = source_left_out(row)
    step = spread_of(STEP, setting, without)
    peak = spread_of(figure_of(quantity), setting, without)
    (low_s, high_s), (low, high) = step.around(step_s), peak.around(peak_bytes)
    return {
        **{"kind": setting.kind, "step_pool": step.level, "peak_pool": peak.level, "left_out": without or None},
        **{"step_low_s": low_s, "step_high_s": high_s, "step_inside": _inside(low_s, high_s, measured["step_s"])},
        **{"peak_low_bytes": low, "peak_high_bytes": high, "peak_inside": _inside(low, high, measured["peak_bytes"])},
    }


def source_left_out(row: TableRow) -> str:
    """The source of the row where intervals rest on runs of it; else ""."""
    own = source_of(row)
    return own if own in {run.source for run in known_runs()} else ""


def figure_of(quantity: str) -> str:
    """The figure that a peak of this quantity (parsim/estimator/parts.py) is compared as."""
    return ALLOCATED if quantity == parts.ALLOCATED else HELD


def _inside(low: float, high: float, measured: float | None) -> bool | None:
    return None if measured is None else low <= measured <= high
