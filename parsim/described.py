"""Structs whose fields say more than a type and a default, for all who list them: scenario files, their schema, legality, the planner."""

from __future__ import annotations

import operator
from abc import ABCMeta
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from msgspec import NODEFAULT, Struct, StructMeta

from parsim.errors import ParsimError, did_you_mean

# The limits of a number by pydantic's names, each with its words.
BOUNDS: Final[Mapping[str, tuple[str, Callable[[Any, Any], bool]]]] = {
    "gt": ("above", operator.gt),
    "ge": ("at least", operator.ge),
    "lt": ("below", operator.lt),
    "le": ("at most", operator.le),
}


def breach(number: float, limits: Mapping[str, Any]) -> str:
    """Which of its limits, among what else is said of it, a number does not keep; "" where it keeps them all.

    >>> breach(1.0, {"ge": 0, "lt": 1})
    'must be below 1, not 1.0'
    """
    broken = [name for name, (_, holds) in BOUNDS.items() if name in limits and not holds(number, limits[name])]
    return f"must be {BOUNDS[broken[0]][0]} {limits[broken[0]]:g}, not {number}" if broken else ""


class Told(NamedTuple):
    """What stands behind a field; a default of NODEFAULT is none."""

    default: Any
    about: Any


class _Describing(StructMeta, ABCMeta):
    """Gives msgspec the defaults, and the class `told`: what is said of its fields, its bases' first."""

    told: Mapping[str, Told]

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **options: Any) -> _Describing:
        own = {key: value for key, value in namespace.items() if isinstance(value, Told)}
        defaults = {key: value.default for key, value in own.items() if value.default is not NODEFAULT}
        others = {key: value for key, value in namespace.items() if key not in own}
        made = super().__new__(cls, name, bases, others | defaults, **options)
        inherited = {key: value for base in reversed(made.__mro__[1:]) for key, value in getattr(base, "told", {}).items()}
        made.told = {key: value for key, value in inherited.items() if key not in namespace} | own
        return made

    def __call__(cls, *args: Any, **named: Any) -> Any:
        """A struct of these fields.

        Raises:
            ParsimError: it has no field of a name; the nearest is told.
        """
        try:
            return super().__call__(*args, **named)
        except TypeError:
            for name in named.keys() - set(cls.__struct_fields__):
                known = ", ".join(cls.__struct_fields__)
                said = f"{cls.__name__} has no field '{name}'{did_you_mean(name, cls.__struct_fields__)}"
                raise ParsimError(said, remedy=f"Known: {known}.") from None
            raise


class Described(Struct, frozen=True, metaclass=_Describing):
    """A Struct of which fields may be Told.

    >>> class Point(Described, frozen=True):
    ...     x: int = Told(0, "to the right")
    >>> Point(), Point.told["x"].about
    (Point(x=0), 'to the right')
    """
