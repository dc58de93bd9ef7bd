"""What public functions are given: each argument is what its annotation says, or a sentence tells what it should be."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import repeat
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Final, Literal, ParamSpec, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints, runtime_checkable

from msgspec import Struct

from parsim.errors import ParsimError

P = ParamSpec("P")
T = TypeVar("T")
_NUMBERS: Final[Mapping[Any, type]] = {int: Integral, float: Real}  # numpy's, too
_WORDS: Final[Mapping[Any, str]] = {
    **{int: "a whole number", float: "a number", str: "a text", bool: "True or False", NoneType: "None"},
    **{Mapping: "a mapping", Sequence: "a list", tuple: "a list", Callable: "a function"},
}
# Imported for type checkers only where they are stated.
_LATE: Final = {**dict.fromkeys(("Scenario", "Plan", "Estimate"), "parsim"), **dict.fromkeys(("Cluster", "Storage"), "parsim.cluster")}
_LONGEST: Final = 60  # characters of a value in a message


@runtime_checkable
class Checked(Protocol):
    """What people make by hand: nothing is asked where it is made, which a planner does thousands of times, but where it is given."""

    def misfits(self) -> Sequence[str]:
        """All that is wrong with it, a sentence each."""


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
        hints = hints_of(work)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            check_value(f"{work.__name__}: {name}", value, hints.get(name, Any))
        return work(*args, **kwargs)

    return polite


def check_value(name: str, value: object, hint: Any) -> None:
    """Refuse a value that is not what an annotation says, or that finds itself wrong.

    Raises:
        ParsimError: it is not, or does.
    """
    if not _is_a(value, hint):
        raise ParsimError(f"{name} = {_excerpt(value)} must be {_words(hint)}")
    if isinstance(value, Struct) and isinstance(value, Checked) and (wrong := value.misfits()):
        raise ParsimError("\n".join(wrong), name)


def misfits(part: Struct, place: str = "") -> Iterator[str]:
    """The fields of a struct, and of the structs in it, that are not what their annotations say: a sentence each.

    >>> from parsim.parallel.plan import Batch
    >>> [*misfits(Batch("8", 2048.0))]
    ["global_batch = '8' is not of type int", 'sequence_length = 2048.0 is not of type int']
    """
    hints = hints_of(type(part))
    for name in part.__struct_fields__:
        value = getattr(part, name)
        if type(value) is not hints[name] or isinstance(value, Struct):  # most are exactly that
            yield from misfits_of(f"{place}{name}", value, hints[name])


def misfits_of(place: str, value: Any, hint: Any) -> Iterator[str]:
    """The same of a value that stands there, and is to be what an annotation says."""
    kinds = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    found = next((each for each in kinds if _is_exactly(value, each)), None)
    if found is None:
        yield f"{place} = {_excerpt(value)} is not of type {hint.__name__ if isinstance(hint, type) and not get_args(hint) else hint}"
    elif isinstance(value, Struct):
        yield from misfits(value, f"{place}.")
    inner = get_args(found)
    if isinstance(value, Mapping) and inner:
        for key, each in value.items():
            yield from misfits_of(f"a key of {place}", key, inner[0])
            yield from misfits_of(f"{place}[{key!r}]", each, inner[1])
    elif isinstance(value, tuple) and inner:
        for index, (each, kind) in enumerate(zip(value, repeat(inner[0]) if inner[-1] is ... else inner, strict=False)):
            yield from misfits_of(f"{place}[{index}]", each, kind)


def _is_exactly(value: Any, hint: Any) -> bool:
    """As `_is_a`, but by one of Python's own numbers, and a tuple of so many: what is written as JSON, hashed, and equal to its copy."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is tuple:
        return isinstance(value, tuple) and (not inner or inner[-1] is ... or len(inner) == len(value))
    return _is_a(value, hint if kind is Literal else kind) and (kind not in _NUMBERS or isinstance(value, int | float))


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


@functools.cache
def hints_of(work: Callable[..., Any]) -> dict[str, Any]:
    """What the annotations of a function or a class say."""
    stated = [each.__annotations__ for each in getattr(work, "__mro__", (work,)) if hasattr(each, "__annotations__")]
    asked = " ".join(str(hint) for each in stated for hint in each.values())
    return get_type_hints(work, localns={name: getattr(import_module(home), name) for name, home in _LATE.items() if name in asked})


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
