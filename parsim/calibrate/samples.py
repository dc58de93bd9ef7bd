"""What was timed: seconds by kernel and shape, each sample kept or dropped by the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from parsim.calibrate.gate import is_clean
from parsim.step.work import Work

ENOUGH: Final = 5  # clean samples of a shape
DIGITS: Final = 4  # of a fitted coefficient
# Of the clean samples of a shape: neighbours on the other cores slow memory, and no gate sees that; the least of many is a lucky one.
_QUANTILE: Final = 0.25


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
    """Clean samples of one shape [s], and how many were dropped."""

    seconds: list[float] = field(default_factory=list)
    num_dropped: int = 0

    def add(self, wall_s: float, wait_s: float) -> None:
        """Keep a sample, or drop it."""
        if is_clean(wall_s, wait_s):
            self.seconds.append(wall_s)
        else:
            self.num_dropped += 1

    @property
    def enough(self) -> bool:
        """Whether a law may lean on them."""
        return len(self.seconds) >= ENOUGH

    @property
    def typical_s(self) -> float:
        """A low quantile of the clean ones [s]."""
        return float(np.quantile(self.seconds, _QUANTILE))


def rounded(value: float) -> float:
    """A coefficient to four digits: the samples have three.

    >>> rounded(0.000123456)
    0.0001235
    """
    return float(f"{value:.{DIGITS}g}")


Measured = Mapping[str, Mapping[Shape, Samples]]  # by the name of a law
