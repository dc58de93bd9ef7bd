"""Structs whose fields say more than a type and a default, for all who list them: scenario files, their schema, legality, the planner."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import NODEFAULT, Struct, StructMeta


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


class Described(Struct, frozen=True, metaclass=_Describing):
    """A Struct of which fields may be Told.

    >>> class Point(Described, frozen=True):
    ...     x: int = Told(0, "to the right")
    >>> Point(), Point.told["x"].about
    (Point(x=0), 'to the right')
    """
