"""What public functions are given: each argument is what its annotation says, or a sentence tells what it should be."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Final, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from parsim.errors import ParsimError

P = ParamSpec("P")
T = TypeVar("T")
_NUMBERS: Final[Mapping[Any, type]] = {int: Integral, float: Real}  # numpy's, too
_WORDS: Final[Mapping[Any, str]] = {
    **{int: "a whole number", float: "a number", str: "a text", bool: "True or False", NoneType: "None"},
    **{Mapping: "a mapping", Sequence: "a list", tuple: "a list", Callable: "a function"},
}
_LATE: Final = ("Scenario", "Plan", "Estimate")  # of parsim, imported for type checkers only where they are stated
_LONGEST: Final = 60  # characters of a value in a message


def check_arguments(work: Callable[P, T]) -> Callable[P, T]:
    """`work`, which refuses arguments that are not what its annotations say.

    Raises:
        ParsimError: one is something else.

    >>> @check_arguments
    ... def double(number: int) -> int:
    ...     return 2 * number
    >>> double("two")
    Traceback (most recent call last):
    parsim.errors.ParsimError: double: number = 'two' must be a whole number
    """
    signature = inspect.signature(work)

    @functools.wraps(work)
    def polite(*args: P.args, **kwargs: P.kwargs) -> T:
        hints = _hints(work)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            check_value(f"{work.__name__}: {name}", value, hints.get(name, Any))
        return work(*args, **kwargs)

    return polite


def check_value(name: str, value: object, hint: Any) -> None:
    """Refuse a value that is not what an annotation says.

    Raises:
        ParsimError: it is not.
    """
    if not _is_a(value, hint):
        text = repr(value)
        shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
        raise ParsimError(f"{name} = {shown} must be {_words(hint)}")


@functools.cache
def _hints(work: Callable[..., Any]) -> dict[str, Any]:
    import parsim

    asked = " ".join(map(str, work.__annotations__.values()))
    return get_type_hints(work, localns={name: getattr(parsim, name) for name in _LATE if name in asked})


def _is_a(value: Any, hint: Any) -> bool:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Any, object):
        return True
    if kind in (UnionType, Union):
        return any(_is_a(value, each) for each in inner)
    if kind is Literal:
        return value in inner
    if not isinstance(value, _NUMBERS.get(kind, kind)) or (kind in _NUMBERS and isinstance(value, bool)):
        return False
    if kind is Mapping and inner:
        return all(_is_a(key, inner[0]) and _is_a(each, inner[1]) for key, each in value.items())
    if kind is Sequence:
        return not isinstance(value, str) and (not inner or all(_is_a(each, inner[0]) for each in value))
    return True


def _words(hint: Any) -> str:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (UnionType, Union):
        return " or ".join(dict.fromkeys(map(_words, inner)))
    if kind is Literal:
        return " or ".join(map(repr, inner))
    if kind in _WORDS:
        each = f", each {_words(inner[0])}" if kind is Sequence and inner else ""
        return f"{_WORDS[kind]}{each}"
    return f"a{'n' if kind.__name__[0] in 'AEIOU' else ''} {kind.__name__}"
