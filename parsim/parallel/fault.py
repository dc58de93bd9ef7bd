"""What a plan's faults are told as: the field to change, what is wrong, and what would do."""

from __future__ import annotations

import math

from msgspec import Struct


class PlanFault(Struct, frozen=True):
    """One way in which a plan does not fit: the field of Plan to change, what is wrong, and what would do."""

    field: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message


def divisors(number: int) -> tuple[int, ...]:
    """The divisors of a positive number, ascending.

    >>> divisors(12)
    (1, 2, 3, 4, 6, 12)
    """
    small = [each for each in range(1, math.isqrt(number) + 1) if number % each == 0]
    return tuple(small + [number // each for each in reversed(small) if each * each != number])


def comma_list(numbers: tuple[int, ...]) -> str:
    """The numbers with commas, the middle of a long row left out."""
    shown = [str(each) for each in numbers]
    return ", ".join(shown if len(shown) <= 16 else [*shown[:12], "...", *shown[-3:]])
