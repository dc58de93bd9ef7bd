"""What was timed, each sample kept or dropped by the gate; and the fit of laws to it: least squares without negative coefficients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Generic, TypeVar

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from parsim.calibrate.gate import MOST_PACE, is_clean
from parsim.cluster.scalars import Floats

Case = TypeVar("Case")  # what is timed: a call of a kernel, an exchange, a plan
AnyLaw = TypeVar("AnyLaw")
Seen = tuple[float, float, float]  # of one sample on one rank: wall time, wait for a core meanwhile, and the core's pace [s]
ENOUGH: Final = 5  # clean samples of a shape
DIGITS: Final = 4  # of a fitted coefficient
_TOLERANCE: Final = 1e-10  # of the gradient, in columns of unit length
_TRIMMED: Final = 0.1  # of the clean samples, at either end


class Samples(Struct):
    """Clean samples of one shape [s], how many were dropped, and the pace of the cores beside each that was kept [s]."""

    seconds: list[float] = field(default_factory=list)
    num_dropped: int = 0
    paces: list[float] = field(default_factory=list)
    num_slow: int = 0  # of those dropped: for their pace; the others waited for a core

    def add(self, wall_s: float, wait_s: float, pace_s: float) -> None:
        """Keep a sample, or drop it for what it waited."""
        if is_clean(wall_s, wait_s):
            self.seconds.append(wall_s)
            self.paces.append(pace_s)
        else:
            self.num_dropped += 1

    def join(self, others: Samples) -> None:
        """Take in more samples of the same."""
        self.seconds += others.seconds
        self.num_dropped += others.num_dropped
        self.paces += others.paces
        self.num_slow += others.num_slow

    def at_pace(self, least_s: float) -> Samples:
        """Those that were taken at about the least pace; the others are dropped too."""
        kept = [(wall, pace) for wall, pace in zip(self.seconds, self.paces, strict=True) if pace <= MOST_PACE * least_s]
        slow = len(self.seconds) - len(kept)
        return Samples([wall for wall, _ in kept], self.num_dropped + slow, [pace for _, pace in kept], self.num_slow + slow)

    @property
    def enough(self) -> bool:
        """Whether a law may lean on them."""
        return len(self.seconds) >= ENOUGH

    @property
    def typical_s(self) -> float:
        """The mean of the clean ones but for the least and the most [s]: means add up from calls to steps, quantiles do not."""
        cut = math.ceil(_TRIMMED * len(self.seconds))
        return float(np.mean(sorted(self.seconds)[cut : len(self.seconds) - cut]))


def least_pace_s(samples: Iterable[Samples]) -> float:
    """The pace of cores that nobody slowed [s]; nan where nothing was kept."""
    return min((pace for each in samples for pace in each.paces), default=float("nan"))


def at_full_pace(
    samples: Mapping[Case, Samples], num_busy: Callable[[Case], int], known_s: Mapping[int, float] = MappingProxyType({})
) -> dict[Case, Samples]:
    """The samples of each case at full pace: the least that was seen of as many busy cores, now or when it became known."""
    least_s = {n: least_pace_s(each for case, each in samples.items() if num_busy(case) == n) for n in map(num_busy, samples)}
    least_s = {n: min(least, known_s.get(n, least)) for n, least in least_s.items()}
    return {case: each.at_pace(least_s[num_busy(case)]) for case, each in samples.items()}


def worst(ranks: Iterable[Seen]) -> Seen:
    """A sample of ranks that work together: as long, as late and as slow as the worst of them."""
    wall_s, wait_s, pace_s = (max(each) for each in zip(*ranks, strict=True))
    return wall_s, wait_s, pace_s


def merge(samples: dict[Case, Samples], more: Mapping[Case, Samples]) -> None:
    """Add more samples to those of the same case."""
    for case, each in more.items():
        samples.setdefault(case, Samples()).join(each)


def _by_name(samples: Mapping[Case, Samples], name_of: Callable[[Case], str]) -> dict[str, dict[Case, Samples]]:
    return {name: {case: each for case, each in samples.items() if name_of(case) == name} for name in dict.fromkeys(map(name_of, samples))}


def poor_names(samples: Mapping[Case, Samples], name_of: Callable[[Case], str]) -> tuple[str, ...]:
    """The names of which no more than half of the cases have enough clean samples."""
    named = _by_name(samples, name_of).items()
    return tuple(name for name, cases in named if 2 * sum(each.enough for each in cases.values()) <= len(cases))


class LawFit(Struct, Generic[AnyLaw], frozen=True):
    """The law of a kernel or of an exchange between ranks, and what it rests on."""

    name: str
    law: AnyLaw
    num_cases: int
    num_kept: int
    num_dropped: int
    median_error: float  # |fit / measured - 1| over the cases


def fit_laws(
    samples: Mapping[Case, Samples],
    name_of: Callable[[Case], str],
    features: Callable[[Sequence[Case]], Floats],
    law_of: Callable[[Floats], AnyLaw],
) -> tuple[LawFit[AnyLaw], ...]:
    """A law for each name, by least squares over its cases with enough samples; `features`: a row a case, which coefficients multiply."""
    fits = []
    for name, cases in _by_name(samples, name_of).items():
        used = {case: each.typical_s for case, each in cases.items() if each.enough}
        rows, seconds = features(list(used)), np.array(list(used.values()))
        coefficients = relative_fit(rows, seconds)
        error = float(np.median(np.abs(rows @ coefficients / seconds - 1.0)))
        kept, dropped = sum(len(each.seconds) for each in cases.values()), sum(each.num_dropped for each in cases.values())
        fits.append(LawFit(name, law_of(coefficients), len(used), kept, dropped, error))
    return tuple(fits)


def relative_fit(features: Floats, seconds: Floats) -> Floats:
    """The coefficients x >= 0 that make features @ x nearest to seconds, each row's error taken relative to its seconds.

    >>> relative_fit(np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]), np.array([3.0, 5.0, 7.0])).round(6).tolist()
    [1.0, 2.0]
    """
    return nnls(features / seconds[:, np.newaxis], np.ones_like(seconds))


def nnls(a: Floats, b: Floats) -> Floats:
    """The x >= 0 that minimises |a x - b|.

    Source: Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23: the active set algorithm.

    >>> nnls(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([2.0, -1.0])).tolist()
    [2.0, 0.0]
    """
    lengths = np.sqrt(np.sum(a * a, axis=0))
    lengths[lengths == 0] = 1.0
    unit, least = a / lengths, _TOLERANCE * float(np.sqrt(np.sum(b * b)))
    x, free = np.zeros(a.shape[1]), np.zeros(a.shape[1], dtype=bool)
    for _ in range(3 * a.shape[1] + 3):  # chapter 23 proves that it ends; in practice after about as many rounds as there are columns
        gradient = np.where(free, -np.inf, unit.T @ (b - unit @ x))
        if free.all() or float(np.max(gradient)) <= least:
            break
        free[np.argmax(gradient)] = True
        x = _descend(unit, b, x, free)
    return np.asarray(x / lengths)


def _descend(a: Floats, b: Floats, x: Floats, free: NDArray[np.bool_]) -> Floats:
    """The least squares of the free columns; one that would turn negative stops at 0 and is free no more (changes `free`)."""
    while True:
        goal = np.zeros_like(x)
        goal[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
        falling = free & (goal <= 0)
        if not falling.any():
            return goal
        share = (x[falling] / np.maximum(x[falling] - goal[falling], 1e-300)).min()
        x = x + share * (goal - x)
        stopped = free & (x <= 1e-14 * max(x.max(), 1e-300))
        free[stopped if stopped.any() else falling] = False
        x[~free] = 0.0


def to_digits(value: float) -> float:
    """A coefficient to four digits: the samples have three.

    >>> to_digits(0.000123456)
    0.0001235
    """
    return float(f"{value:.{DIGITS}g}")
