"""Bytes of an element, which need not be whole: 32 elements of a byte that share a scale of a byte take 33."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar


class PartBytes(int):
    """Bytes of an element as a fraction: a count of elements times it is whole bytes, rounded up; by itself it is rounded up, too.

    >>> import numpy as np
    >>> PartBytes(Fraction(33, 32)) * 64, np.array([32, 33]) * PartBytes(Fraction(33, 32))
    (66, array([33, 35]))
    """

    __array_ufunc__: ClassVar[None] = None  # an array times it asks it
    exact: Fraction

    def __new__(cls, exact: Fraction) -> PartBytes:
        """From the exact bytes."""
        made = super().__new__(cls, -(-exact.numerator // exact.denominator))
        made.exact = exact
        return made

    def __mul__(self, count: Any) -> Any:
        """Whole bytes of so many elements."""
        return -(-count * self.exact.numerator // self.exact.denominator)

    __rmul__ = __mul__

    def __reduce__(self) -> tuple[type[PartBytes], tuple[Fraction]]:
        """For processes."""
        return PartBytes, (self.exact,)


def exact_bytes(itemsize: int) -> Fraction:
    """The bytes of an element."""
    return itemsize.exact if isinstance(itemsize, PartBytes) else Fraction(itemsize)


def itemsize_of(exact: Fraction) -> int:
    """What an element is charged at, as a number to multiply counts with."""
    return int(exact) if exact.denominator == 1 else PartBytes(exact)
