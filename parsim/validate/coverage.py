"""How many of the rows that were left out fell into their 80 % intervals: in all, by class, and by what was known of their software."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

from msgspec import Struct

from parsim.validate.compare import RowResult


class Covered(Struct, frozen=True):
    """Of rows that state a figure: how many, the share inside of their intervals, and how wide these are."""

    num_rows: int
    inside: float
    median_width: float  # log(high / low)


class Coverage(Struct, frozen=True):
    """Of one figure; `by_pool` tells stacks that were compared before (stack) from others (class, all)."""

    all: Covered | None  # None: no row states it
    by_class: dict[str, Covered]
    by_pool: dict[str, Covered]


def coverage(rows: Sequence[RowResult]) -> dict[str, Coverage]:
    """That of `step` and `memory` over validated rows.

    >>> wide = RowResult("a", "s", kind="dense", step_pool="stack", step_low_s=1.0, step_high_s=math.e, step_inside=True)
    >>> found = coverage([wide, RowResult("b", "s", kind="dense", step_pool="class", step_low_s=1.0, step_high_s=1.0, step_inside=False)])
    >>> found["step"].all, found["memory"].all
    (Covered(num_rows=2, inside=0.5, median_width=0.5), None)
    """
    step = [_Told(row.kind or "", row.step_pool or "", row.step_inside, row.step_low_s, row.step_high_s) for row in rows]
    peak = [_Told(row.kind or "", row.peak_pool or "", row.peak_inside, row.peak_low_bytes, row.peak_high_bytes) for row in rows]
    return {name: _of([each for each in told if each.inside is not None]) for name, told in (("step", step), ("memory", peak))}


class _Told(Struct, frozen=True):
    """What one row says of one figure."""

    kind: str
    pool: str
    inside: bool | None
    low: float | None
    high: float | None


def _of(told: Sequence[_Told]) -> Coverage:
    def by(key: Callable[[_Told], str]) -> dict[str, Covered]:
        names = sorted({key(each) for each in told})
        return {name: _shares([each for each in told if key(each) == name]) for name in names}

    return Coverage(_shares(told) if told else None, by(lambda each: each.kind), by(lambda each: each.pool))


def _shares(told: Sequence[_Told]) -> Covered:
    widths = [math.log((each.high or 1.0) / (each.low or 1.0)) for each in told]
    return Covered(len(told), sum(each.inside is True for each in told) / len(told), median(widths))
