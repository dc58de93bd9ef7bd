"""The signature of kernels: arrays and attributes in, arrays and a FLOP count out.  The kernels themselves stand in their own files.

A kernel asks `out` once for the memory of each result, in their order, and returns exactly those arrays; they are C-contiguous.
Results have the dtype of the real inputs: float32 in, float32 out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # float64 or float32, except tokens and labels: integers
Attributes = Mapping[str, object]
Interval = tuple[int, int]  # of neighbouring positions: the first, and the one behind the last
KernelResult = tuple[tuple[Array, ...], int]  # outputs, and FLOPs counted from the shapes
Out = Callable[[tuple[int, ...], np.dtype[Any]], Array]  # memory for a result of that shape and dtype, whatever it holds

_REQUIRED = object()
_FLOAT64 = np.dtype(np.float64)


class Kernel(Protocol):
    """A function of inputs and attributes, with a say in where its results lie."""

    def __call__(self, inputs: Sequence[Array], attributes: Attributes, out: Out = ...) -> KernelResult:
        """Outputs, in memory from `out`, and FLOPs."""


def fresh(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array."""
    return np.empty(shape, dtype)


def real(*arrays: Array) -> np.dtype[Any]:
    """The dtype of a result of these arrays: theirs, or float64 where none is real.

    >>> real(np.ones(1, np.float32), np.ones(1, np.float32)), real(np.arange(2))
    (dtype('float32'), dtype('float64'))
    """
    dtype = joint(*arrays)
    return dtype if dtype.kind == "f" else _FLOAT64


def joint(*arrays: Array) -> np.dtype[Any]:
    """The dtype to which numpy promotes that of these arrays."""
    dtype = arrays[0].dtype
    for array in arrays:
        if array.dtype != dtype:
            return np.result_type(*(each.dtype for each in arrays))
    return dtype


def number(attributes: Attributes, name: str, default: object = _REQUIRED) -> float:
    """Attribute `name` as a float.

    Raises:
        ValueError: it is absent and has no default, or is no number.

    >>> number({"scale": 2}, "scale")
    2.0
    """
    value = attributes.get(name, default)
    if type(value) is float:  # as nearly always; the question below takes ten times as long
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(_complaint(name, value, "a number"))
    return float(value)


def integer(attributes: Attributes, name: str, default: object = _REQUIRED) -> int:
    """Attribute `name` as an int.

    Raises:
        ValueError: it is absent and has no default, or is no integer.

    >>> integer({}, "offset", 0)
    0
    """
    value = attributes.get(name, default)
    if type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(_complaint(name, value, "an integer"))
    return int(value)


def runs(attributes: Attributes, name: str, length: int, default: object = _REQUIRED) -> tuple[Interval, ...]:
    """Attribute `name` as runs of positions of so many tokens: their bounds, or of one run its first position.

    Raises:
        ValueError: it is absent and has no default, is neither, has another length, or a position before the first.

    >>> runs({"offset": 3}, "offset", 2), runs({"offset": ((0, 1), (6, 7))}, "offset", 2)
    (((3, 5),), ((0, 1), (6, 7)))
    """
    value = attributes.get(name, default)
    if not isinstance(value, tuple):
        first = integer(attributes, name, default)
        value = ((first, first + length),)
    if sum(stop - start for start, stop in value) != length or any(start < 0 for start, _ in value):
        raise ValueError(f"attribute {name!r} is {value}, no runs of {length} tokens from position 0 on")
    return value


def places(positions: Iterable[Interval]) -> Iterator[tuple[slice, Interval]]:
    """Where each run lies among the tokens, and the run.

    >>> list(places([(4, 6), (0, 3)]))
    [(slice(0, 2, None), (4, 6)), (slice(2, 5, None), (0, 3))]
    """
    place = 0
    for start, stop in positions:
        yield slice(place, place + stop - start), (start, stop)
        place += stop - start


def expression(attributes: Attributes) -> str:
    """Attribute "expr".  What follows from it and the shapes of the operands, a kernel keeps by these.

    Raises:
        ValueError: it is absent or no string.
    """
    expr = attributes.get("expr")
    if not isinstance(expr, str):
        raise ValueError(_form_complaint(expr))
    return expr


def terms(expr: str, num_operands: int) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """The named dims of each operand and of the output of an expression.

    Raises:
        ValueError: it is no expression, has another number of operands, or a dim twice in one term.

    >>> terms("B S D, D F -> B S F", 2)
    ((('B', 'S', 'D'), ('D', 'F')), ('B', 'S', 'F'))
    """
    if expr.count("->") != 1:
        raise ValueError(_form_complaint(expr))
    left, right = expr.split("->")
    operands, out = tuple(tuple(term.split()) for term in left.split(",")), tuple(right.split())
    if len(operands) != num_operands:
        raise ValueError(f"{expr!r} has {len(operands)} operands, not {num_operands}")
    if any(len(set(term)) != len(term) for term in (*operands, out)):
        raise ValueError(f"{expr!r} names a dim twice in one term")
    return operands, out


def extents(*pairs: tuple[tuple[str, ...], tuple[int, ...]]) -> dict[str, int]:
    """The extent of every named dim, read from the shapes of the arrays that bear it.

    Raises:
        ValueError: an array has another number of dims than names, or two arrays disagree on a dim.

    >>> extents((("B", "D"), (2, 3)), (("D", "F"), (3, 5)))
    {'B': 2, 'D': 3, 'F': 5}
    """
    found: dict[str, int] = {}
    for dims, shape in pairs:
        if len(dims) != len(shape):
            raise ValueError(f"dims {' '.join(dims)} name {len(dims)} dims, the array has shape {shape}")
        for dim, extent in zip(dims, shape, strict=True):
            if found.setdefault(dim, extent) != extent:
                raise ValueError(f"dim {dim} is {found[dim]} in one operand and {extent} in another")
    return found


def same_shape(*arrays: Array) -> None:
    """Raise where an element-wise kernel would have to broadcast, so that a wrong shard shows.

    Raises:
        ValueError: the shapes differ.
    """
    shape = arrays[0].shape
    for array in arrays:
        if array.shape != shape:
            raise ValueError(f"shapes differ: {', '.join(str(each.shape) for each in arrays)}")


def _form_complaint(expr: object) -> str:
    return f"attribute 'expr' is {expr!r}, not of the form 'B S D, D F -> B S F'"


def _complaint(name: str, value: object, wanted: str) -> str:
    return f"attribute {name!r} is missing" if value is _REQUIRED else f"attribute {name!r} is {value!r}, not {wanted}"
