"""One factor on the compute rate, found from measured and predicted steps and shrunk to the default by the rows and sources it rests on.

It acts on compute alone: of each row its elasticity says how much of the step that is.  Who predicts the steps is the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.cluster.scalars import Floats

_LEAST: Final = 1e-3  # rows, where none feels the factor
_OF_NORMAL: Final = 1.4826  # a standard deviation over the median distance from the mean of a normal distribution


class Evidence(Struct, frozen=True):
    """One measured step: log_ratio = log(measured / predicted by default); elasticity: by what share it shortens a share of rate more.

    `source`: who measured; `group`: what else rows have in common, such as the model, left out together where there is one source.
    """

    source: str
    group: str
    log_ratio: float
    elasticity: float


class Deviations(Struct, frozen=True):
    """Standard deviations of logarithms: of a row about its source, of a source about its stack, of a stack about the default."""

    row: float
    source: float
    stack: float

    def rows_in_effect(self, num_rows: Floats) -> float:
        """Rows of independent error that sources of so many rows are worth: n / (1 + n s^2 / r^2) of each, s of a source and r of a row.

        >>> Deviations(0.05, 0.05, 0.1).rows_in_effect(np.array([1.0, 1000.0])) < 2
        True
        """
        between = (self.source / self.row) ** 2
        return float(np.sum(num_rows / (1 + num_rows * between)))

    def weight(self, num_rows: Floats) -> float:
        """Share of a fitted logarithm that is kept: n / (n + k), n the rows in effect and k = row^2 / stack^2.

        The posterior mean of a normal effect of variance stack^2 about the default, whose estimate has the variance row^2 / n.
        Source: Buehlmann and Straub 1970 (credibility); Robinson 1991 (BLUP), Statistical Science 6(1); n with two levels derived here:
        the variance of a source's centre is source^2 + row^2 / n, and precisions add.

        >>> round(Deviations(0.05, 0.0, 0.1).weight(np.array([1.0])), 2), Deviations(0.05, 0.0, 0.1).weight(np.array([]))
        (0.8, 0.0)
        """
        in_effect, at_half = self.rows_in_effect(num_rows), (self.row / self.stack) ** 2 if self.stack else math.inf
        return in_effect / (in_effect + at_half)


# Of training steps.  Of rows: measured by tests/compare/held_out.py over this project's tables.  Sources of one software differ by 2.2 % in
# the median, equal configurations on different software by 8 % (21 groups of MLPerf Training submissions): of two, so 0.95 deviations.
DEVIATIONS: Final = Deviations(row=0.075, source=0.025, stack=0.085)


_MOST_LOG: Final = 700.0  # of a factor that hardly moves its rows: more is no number


class Shrunk(Struct, frozen=True):
    """A factor on the compute rate, with what it rests on; errors are medians of |predicted / measured - 1| over its rows."""

    factor: float
    fitted: float  # not shrunk
    weight: float
    num_rows: int
    rows_in_effect: float
    sources: tuple[str, ...]
    default_error: float
    error: float  # on the rows that it was found from
    left_out_error: float  # of rows whose source, or else group, the factor was found without
    left_out_by: str  # source, group, or nothing where there is one group: then the default's


def evidence(source: str, group: str, measured_s: float, default_s: float, other_s: float, factor: float) -> Evidence:
    """A row from its step as measured, and as predicted by default and at another factor of the rate: exact at both, by the secant between.

    >>> evidence("a", "b", 1.2, 1.0, 1.25, 0.8).elasticity
    1.0
    """
    return Evidence(source, group, math.log(measured_s / default_s), math.log(default_s / other_s) / math.log(factor))


def seen_from(row: Evidence, other: float) -> Evidence:
    """The row as beside a prediction at `other` times the rate: shares of one peak, on accelerators whose defaults differ, have one centre.

    >>> math.isclose(seen_from(evidence("a", "b", 1.2, 1.0, 1.25, 0.8), 0.8).log_ratio, math.log(1.2 / 1.25))
    True
    """
    return replace(row, log_ratio=row.log_ratio + row.elasticity * math.log(other))


def fit(rows: Sequence[Evidence]) -> float:
    """The factor that fits rows best, not shrunk: of each source the median, and of those the mean, by elasticity squared of their rows.

    >>> round(fit([Evidence("a", "", math.log(2), 1.0), Evidence("a", "", math.log(2) / 2, 0.5)]), 6)
    0.5
    """
    return math.exp(min(_log_factor(rows, None), _MOST_LOG))


def shrink(rows: Sequence[Evidence], deviations: Deviations = DEVIATIONS, *, most: float = math.inf) -> Shrunk:
    """The factor of rows of one stack and accelerator, shrunk, and its errors on them and on those left out; at most that of a full rate.

    >>> one = shrink([Evidence("a", "m", 0.1, 1.0)])
    >>> one.fitted < one.factor < 1, one.left_out_by, one.left_out_error == one.default_error
    (True, '', True)
    """
    by, without = left_out_logs(rows, deviations, most=most)
    log = _shrunk_log(rows, deviations, most)
    sizes = _sizes(rows)
    return Shrunk(
        factor=math.exp(log),
        fitted=fit(rows),
        weight=deviations.weight(sizes),
        num_rows=len(rows),
        rows_in_effect=deviations.rows_in_effect(sizes),
        sources=tuple(_by_source(rows)),
        default_error=_median_error(rows, [0.0] * len(rows)),
        error=_median_error(rows, [log] * len(rows)),
        left_out_error=_median_error(rows, without),
        left_out_by=by,
    )


def left_out_logs(rows: Sequence[Evidence], deviations: Deviations = DEVIATIONS, *, most: float = math.inf) -> tuple[str, list[float]]:
    """What is left out, source, else group, else nothing; and of each row the logarithm of the shrunk factor that the others say.

    >>> left_out_logs([Evidence("a", "m", 0.1, 1.0)])
    ('', [0.0])
    """
    by, parts = _left_out(rows)
    without = {part: _shrunk_log([row for row in rows if _part(row, by) != part], deviations, most) for part in parts}
    return by, [without[_part(row, by)] for row in rows]


def deviations_of(stacks: Iterable[Sequence[Evidence]]) -> Deviations:
    """How much rows, sources and stacks differ, from the rows of many stacks and accelerators.

    By medians of differences, since some rows, and some stacks, are wrong by half: of rows of a source, of sources of a stack, and of a
    stack and the default; from the last two goes what the error of centres makes of them, as of moments in DerSimonian and Laird 1986,
    Controlled Clinical Trials 7(3).
    """
    known = [list(rows) for rows in stacks]
    row = _row_deviation(known)
    source = _source_deviation(known, row)
    between = Deviations(row, source, 0.0)
    centres = np.array([_log_factor(rows, between) for rows in known])
    errors = np.array([row**2 / max(between.rows_in_effect(_sizes(rows)), _LEAST) for rows in known])
    return Deviations(row, source, _beyond(np.abs(centres), errors))


def _beyond(apart: Floats, errors: Floats) -> float:
    """The standard deviation that leaves such distances beside errors of such variances, by medians; those of large errors count less."""
    precision = 1 / errors
    return math.sqrt(max(0.0, (_OF_NORMAL * _median(apart, precision)) ** 2 - _median(errors, precision)))


def _row_deviation(stacks: Sequence[Sequence[Evidence]]) -> float:
    """Of pairs of rows of one source the median difference, which no centre biases; a source counts by its rows less one."""
    apart, weights = [np.zeros(0)], [np.zeros(0)]
    for rows in stacks:
        for own in _by_source(rows).values():
            log = _centre(own)
            left = np.array([row.log_ratio + row.elasticity * log for row in own])
            one, other = np.triu_indices(len(own), 1)
            apart.append(np.abs(left[one] - left[other]))
            weights.append(np.full(len(one), 1 / len(own)))
    return _median(np.concatenate(apart), np.concatenate(weights)) * _OF_NORMAL / math.sqrt(2)


def _source_deviation(stacks: Sequence[Sequence[Evidence]], row: float) -> float:
    apart, errors = [np.zeros(0)], [np.zeros(0)]
    for rows in stacks:
        sizes = np.maximum(_sizes(rows), _LEAST)
        centres = np.array([_centre(own) for own in _by_source(rows).values()])
        one, other = np.triu_indices(len(sizes), 1)
        apart.append(np.abs(centres[one] - centres[other]) / math.sqrt(2))
        errors.append((row**2 / sizes[one] + row**2 / sizes[other]) / 2)
    return _beyond(np.concatenate(apart), np.concatenate(errors))


def _shrunk_log(rows: Sequence[Evidence], deviations: Deviations, most: float) -> float:
    return min(deviations.weight(_sizes(rows)) * _log_factor(rows, deviations), math.log(most)) if rows else 0.0


def _log_factor(rows: Sequence[Evidence], deviations: Deviations | None) -> float:
    """Of the sources' centres the mean: by their precision, or, with no deviations, by their rows."""
    centres = np.array([_centre(own) for own in _by_source(rows).values()])
    sizes = _sizes(rows)
    weights = sizes if deviations is None else np.array([deviations.rows_in_effect(size[None]) for size in sizes])
    return float(np.sum(weights * centres) / total) if (total := np.sum(weights)) else 0.0


def _centre(rows: Sequence[Evidence]) -> float:
    """The logarithm of the factor that leaves the least sum of absolute errors: a median of the rows' own, weighted by elasticity."""
    felt = [row for row in rows if row.elasticity > 0]
    slopes = np.array([row.elasticity for row in felt])
    return _median(np.array([-row.log_ratio for row in felt]) / slopes, slopes)


def _median(values: Floats, weights: Floats) -> float:
    """The value with half of the weight on either side, or the mean of the two between which half lies; 0 of none."""
    if not values.size:
        return 0.0
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    places = [int(np.searchsorted(reached, reached[-1] / 2, side)) for side in ("left", "right")]
    return float(values[order[np.minimum(places, len(values) - 1)]].mean())


def _sizes(rows: Sequence[Evidence]) -> Floats:
    """Rows of each source, of which one that hardly feels the factor hardly counts."""
    return np.array([sum(row.elasticity**2 for row in own) for own in _by_source(rows).values()])


def _by_source(rows: Sequence[Evidence]) -> Mapping[str, list[Evidence]]:
    found: dict[str, list[Evidence]] = {}
    for row in rows:
        found.setdefault(row.source, []).append(row)
    return found


def _left_out(rows: Sequence[Evidence]) -> tuple[str, tuple[str, ...]]:
    """What is left out at a time, source or else group, and its values; "" and one value where all rows share both."""
    for by in ("source", "group"):
        values = tuple(dict.fromkeys(getattr(row, by) for row in rows))
        if len(values) > 1:
            return by, values
    return "", ("",)


def _part(row: Evidence, by: str) -> str:
    return str(getattr(row, by)) if by else ""


def _median_error(rows: Sequence[Evidence], logs: Sequence[float]) -> float:
    apart = [-row.log_ratio - row.elasticity * log for row, log in zip(rows, logs, strict=True)]
    return float(np.median(np.abs(np.expm1(apart))))
