"""Named things that files of a package add to: schedules, collectives, topologies ...  The only global state of parsim."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Generic, TypeVar

from parsim.errors import ParsimError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """The things of one kind, by name.

    >>> schedules = Registry[str]("schedule")
    >>> schedules.register("1f1b", "one forward, one backward")
    'one forward, one backward'
    >>> schedules.names()
    ('1f1b',)
    >>> schedules.get("1f1")
    Traceback (most recent call last):
    ...
    parsim.errors.ParsimError: unknown schedule '1f1' (did you mean '1f1b'?)
      Known: 1f1b.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values: dict[str, T] = {}
        self._sorted: tuple[dict[str, T], tuple[str, ...], tuple[T, ...]] = ({}, (), ())  # of which items, names and values
        self._discovered: set[str] = set()

    def register(self, name: str, value: T) -> T:
        """The `value`, now known as `name`.

        Raises:
            ParsimError: the name is taken by another value.
        """
        if name in self._values and self._values[name] is not value:
            raise ParsimError(f"{self.kind} {name!r} is registered twice", remedy="Give one of the two another name.")
        self._values[name] = value
        return value

    def get(self, name: str) -> T:
        """The value registered as `name`.

        Raises:
            ParsimError: there is none; the message lists the known names and the nearest.
        """
        if name not in self._values:
            hint = did_you_mean(name, self._values)
            raise ParsimError(f"unknown {self.kind} {name!r}{hint}", remedy=f"Known: {', '.join(self.names()) or 'none'}.")
        return self._values[name]

    def names(self) -> tuple[str, ...]:
        """All registered names, sorted."""
        return self._in_order()[1]

    def values(self) -> tuple[T, ...]:
        """What they name, in that order."""
        return self._in_order()[2]

    def _in_order(self) -> tuple[dict[str, T], tuple[str, ...], tuple[T, ...]]:
        if self._sorted[0] != self._values:
            names = tuple(sorted(self._values))
            self._sorted = (dict(self._values), names, tuple(self._values[name] for name in names))
        return self._sorted

    def discover(self, package: str) -> None:
        """Import every module of `package` (its dotted name), so that each registers itself; a second call does nothing."""
        if package in self._discovered:
            return
        self._discovered.add(package)  # first: a module of the package may ask for discovery itself
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(module.name)
