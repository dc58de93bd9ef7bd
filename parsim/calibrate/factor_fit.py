"""A few factors together, found from what somebody measured and shrunk to 1 by the points that feel them; who predicts is the caller's.

One factor by itself is shrink.py's; here each is found beside the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from parsim import units
from parsim.cluster.scalars import Floats
from parsim.confidence.shrink import Deviations, Evidence, fit, shrink

Flags = NDArray[np.bool_]
Predict = Callable[[Mapping[str, float]], Floats]  # from factors by name to seconds, one a point
MOST: Final = 50.0  # times faster or slower than the catalog: beyond, something else is measured
_ROUNDS: Final = 8  # of secants
_TURNS: Final = 12  # of one factor beside the others
_MANY: Final = 3  # factors
_PROBE: Final = 0.9  # where a factor is 1, so that no secant can be drawn
_NEAR: Final = 1e-3  # of a logarithm: below it, a factor is found
_COUNTED: Final = 10**9  # times: more are told by their power of ten
_PARTS: Final = 40  # that are left out one by one, at most


def slow_fault(seconds: float, predicted_s: float) -> str:
    """Why a time is none of what is predicted, so many times longer is it; "" where it may be."""
    if seconds <= MOST * predicted_s:
        return ""
    shown = " where ".join(units.format(each, "s") for each in (seconds, predicted_s))
    times = seconds / predicted_s
    told = f"{times:,.0f}" if times < _COUNTED else f"{times:.0e}"
    return f"takes {shown} are predicted, {told} times as long: is the unit right, and is it what was run?"


class Point(Struct, frozen=True):
    """A measurement: which file it is of, and what is left out with it where there is one file."""

    source: str
    group: str
    seconds: float


class Knob(Struct, frozen=True):
    """A factor on a rate, 1 by default: its name, how far such factors lie from 1, and the most that is physical."""

    name: str
    deviations: Deviations
    most: float = MOST


class FoundFactor(Struct, frozen=True):
    """What points say of a factor, and what is kept of it."""

    fitted: float
    shrunk: float
    weight: float  # share of the logarithm that is kept
    num_points: int  # all
    points_in_effect: float  # each by the square of the share of its time that the factor moves
    at_most: bool  # what is kept would be more, but for what is physical
    is_fitted_at_most: bool  # the same of what is fitted, of which less may be kept


class JointFit(Struct, frozen=True):
    """Factors by name, and medians of |predicted / measured - 1|."""

    factors: Mapping[str, FoundFactor]
    before: float
    after: float
    left_out: float  # of points that the factors were found without
    left_out_by: str  # source (a file), or else point (a size, a shape, a row); "" where there is one: then as before

    @property
    def scales(self) -> dict[str, float]:
        """Factors as they are kept, by name."""
        return {name: each.shrunk for name, each in self.factors.items()}


class _Slopes(Struct, frozen=True):
    """Of each point the logarithm of measured over predicted by default, and by how much each factor's shortens that of its time."""

    log_ratio: Floats
    elasticity: Floats  # a column a factor

    def residual(self, logs: Floats) -> Floats:
        """Logarithms of measured over predicted."""
        residual: Floats = self.log_ratio + self.elasticity @ logs
        return residual


def fit_jointly(points: Sequence[Point], predict: Predict, knobs: Sequence[Knob]) -> JointFit:
    """The factors of the knobs, each beside the others, with errors before, after, and on points left out.

    Raises:
        ValueError: there is no point.

    >>> points = [Point("a.log", str(size), 2e-6 + size / 80e9) for size in (1, 10**6, 10**7, 10**8, 10**9)]
    >>> sizes = np.array([float(each.group) for each in points])
    >>> predict = lambda scales: 1e-6 / scales["latency"] + sizes / (100e9 * scales["bandwidth"])
    >>> wide = Deviations(0.01, 0.0, 1.0)
    >>> found = fit_jointly(points, predict, [Knob("bandwidth", wide), Knob("latency", wide)])
    >>> {name: round(each.fitted, 3) for name, each in found.factors.items()}, round(found.after, 3)
    ({'bandwidth': 0.8, 'latency': 0.5}, 0.0)
    """
    if not points:
        raise ValueError("no point")
    predict = _Memory(predict)
    plain = _find(points, predict, knobs, np.zeros(len(knobs)), is_kept=False)
    kept = _find(points, predict, knobs, plain, is_kept=True)
    slopes = _slopes(points, predict, knobs, kept)
    factors = {}
    for place, knob in enumerate(knobs):
        felt = slopes.elasticity[:, place] ** 2
        factors[knob.name] = FoundFactor(
            fitted=math.exp(plain[place]),
            shrunk=math.exp(kept[place]),
            weight=knob.deviations.weight(np.array([felt.sum()])),
            num_points=len(points),
            points_in_effect=float(felt.sum()),
            at_most=bool(kept[place] >= math.log(knob.most) - _NEAR),
            is_fitted_at_most=bool(plain[place] >= math.log(knob.most) - _NEAR),
        )
    by, parts = _left_out(points)
    before = _errors(slopes.log_ratio)
    apart = before.copy()
    for own in parts if by else ():
        other = ~own
        logs = _solve([each for each, is_in in zip(points, other, strict=True) if is_in], _rows(slopes, other), knobs, kept, is_kept=True)
        apart[own] = _errors(_rows(slopes, own).residual(logs))
    after = _errors(slopes.residual(kept))
    return JointFit(factors, float(np.median(before)), float(np.median(after)), float(np.median(apart)), by)


class _Memory:
    """What predicts, asked once for the same factors."""

    def __init__(self, predict: Predict) -> None:
        self.predict, self.known = predict, dict[tuple[float, ...], Floats]()

    def __call__(self, scales: Mapping[str, float]) -> Floats:
        key = tuple(scales.values())
        if key not in self.known:
            self.known[key] = self.predict(scales)
        return self.known[key]


def _find(points: Sequence[Point], predict: Predict, knobs: Sequence[Knob], logs: Floats, *, is_kept: bool) -> Floats:
    """Logarithms at which secants from the default end where they began."""
    for _ in range(_ROUNDS):
        found = _solve(points, _slopes(points, predict, knobs, logs), knobs, logs, is_kept=is_kept)
        if np.max(np.abs(found - logs)) < _NEAR:
            return found
        logs = found
    return logs


def _slopes(points: Sequence[Point], predict: Predict, knobs: Sequence[Knob], logs: Floats) -> _Slopes:
    """Secants along a path from the default on which one factor changes after another: exact at its end."""
    scales = {knob.name: 1.0 for knob in knobs}
    reached = np.log(predict(scales))
    log_ratio = np.log([point.seconds for point in points]) - reached
    columns = []
    for knob, log in zip(knobs, logs, strict=True):
        is_probe = abs(log) < _NEAR
        step = math.log(_PROBE) if is_probe else float(log)
        after = np.log(predict({**scales, knob.name: math.exp(step)}))
        columns.append((reached - after) / step)
        if not is_probe:
            scales[knob.name], reached = math.exp(step), after
    return _Slopes(log_ratio, np.stack(columns, axis=1))


def _solve(points: Sequence[Point], slopes: _Slopes, knobs: Sequence[Knob], start: Floats, *, is_kept: bool) -> Floats:
    """Each factor in turn from what the others leave over; kept: shrunk.  Turns of medians stop short where there are many."""
    if len(knobs) >= _MANY:
        return _least_squares(slopes, knobs, is_kept=is_kept)
    logs = start.copy()
    for _ in range(_TURNS if len(knobs) > 1 else 1):
        before = logs.copy()
        for place, knob in enumerate(knobs):
            own = slopes.elasticity[:, place]
            left = slopes.residual(logs) - own * logs[place]
            rows = [Evidence(point.source, "", float(r), float(e)) for point, r, e in zip(points, left, own, strict=True)]
            found = shrink(rows, knob.deviations).factor if is_kept else fit(rows)
            logs[place] = min(math.log(max(found, 1.0 / MOST)), math.log(knob.most))
        if np.max(np.abs(logs - before)) < _NEAR / 10:
            break
    return logs


def _least_squares(slopes: _Slopes, knobs: Sequence[Knob], *, is_kept: bool) -> Floats:
    """Where all factors together are nearest to the points; kept: each as near to 1 as such factors lie.  One that would be beyond what is
    physical stays there, and the others are found beside it."""
    least = _NEAR if not is_kept else 0.0
    pull = np.diag([least + is_kept * knob.deviations.row / max(knob.deviations.stack, _NEAR) for knob in knobs])
    held, aims = np.vstack([slopes.elasticity, pull]), np.concatenate([-slopes.log_ratio, np.zeros(len(knobs))])
    top, logs, is_free = np.array([math.log(knob.most) for knob in knobs]), np.zeros(len(knobs)), np.ones(len(knobs), dtype=bool)
    for _ in knobs:
        logs[is_free] = np.linalg.lstsq(held[:, is_free], aims - held[:, ~is_free] @ logs[~is_free], rcond=None)[0]
        if not (beyond := is_free & (logs > top)).any():
            break
        logs[beyond], is_free = top[beyond], is_free & ~beyond
    return np.maximum(logs, -math.log(MOST))


def _rows(slopes: _Slopes, which: Flags) -> _Slopes:
    return _Slopes(slopes.log_ratio[which], slopes.elasticity[which])


def _errors(residual: Floats) -> Floats:
    return np.abs(np.expm1(-residual))


def _left_out(points: Sequence[Point]) -> tuple[str, list[Flags]]:
    """What is left out at a time, and which points that are, each time."""
    for by in ("source", "group"):
        names = [getattr(point, by) for point in points]
        values = list(dict.fromkeys(names))
        if len(values) > 1:
            part = {value: place % _PARTS for place, value in enumerate(values)}
            own = np.array([part[name] for name in names])
            return {"source": "source", "group": "point"}[by], [own == each for each in range(min(len(values), _PARTS))]
    return "", []
