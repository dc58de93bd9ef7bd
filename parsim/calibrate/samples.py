"""What was timed: seconds by kernel and shape, each sample kept or dropped by the gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeVar

import numpy as np

from parsim.calibrate.gate import MOST_PACE, is_clean
from parsim.cost.work import Work

Case = TypeVar("Case")  # what is timed
ENOUGH: Final = 5  # clean samples of a shape
DIGITS: Final = 4  # of a fitted coefficient
_TRIMMED: Final = 0.1  # of the clean samples, at either end


@dataclass(frozen=True, slots=True)
class Shape:
    """The work of one call, as what a law is asked."""

    flops: float
    moved_bytes: float
    written_bytes: float = 0.0
    num_matrices: float = 0.0

    @classmethod
    def of(cls, work: Work) -> Shape:
        """The work of a single plan."""
        parts = (work.flops, work.moved_bytes, work.written_bytes, work.num_matrices)
        return cls(*(float(np.asarray(part).reshape(-1)[0]) for part in parts))


@dataclass(slots=True)
class Samples:
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


def rounded(value: float) -> float:
    """A coefficient to four digits: the samples have three.

    >>> rounded(0.000123456)
    0.0001235
    """
    return float(f"{value:.{DIGITS}g}")


Measured = Mapping[str, Mapping[Shape, Samples]]  # by the name of a law
