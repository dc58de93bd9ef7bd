"""Few rows for many plans: what is asked of sizes is asked once for each combination of values of the columns that it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from parsim.cluster.scalars import distinct_rows, one_each
from parsim.cost.sizes import Ints, Sizes


class _Columns(dict[str, Ints]):
    """Columns by name that note which are read; who goes through them reads all."""

    def __init__(self, columns: Iterable[tuple[str, Ints]], seen: set[str]) -> None:
        super().__init__(columns)
        self.seen = seen

    def __getitem__(self, name: str) -> Ints:
        self.seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        return super().get(name, default)

    def values(self) -> Any:
        self.seen.update(self)
        return super().values()

    def items(self) -> Any:
        self.seen.update(self)
        return super().items()


class Read(NamedTuple):
    """What was found, and which of it each plan has."""

    values: Ints
    which: Ints


class _Part(NamedTuple):
    """Rows that differ in some columns."""

    sizes: Sizes  # which may know what it was asked before
    which: Ints  # of its rows each plan has
    seen: set[str]  # what was ever read of them


class Reads(Struct, frozen=True):
    """Sizes of many plans, and the parts of them that were asked."""

    sizes: Sizes
    _parts: dict[frozenset[str], _Part] = field(default_factory=dict)

    def of(self, key: object, ask: Callable[[Sizes], Ints]) -> Read:
        """What `ask` finds for each plan.  The names in `key` say what it is expected to read: if it reads more, it is asked again."""
        if self.sizes.num_plans == 1:
            return Read(ask(self.sizes), np.zeros(1, dtype=np.int64))
        known = self.sizes.dims.keys() | self.sizes.degrees.keys()
        names = known & _texts(key)
        while True:
            part = self._part(frozenset(names))
            if part.seen <= names:
                found = one_each(ask(part.sizes), part.sizes.num_plans)
                if part.seen <= names:
                    return Read(found, part.which)
            names |= part.seen

    def _part(self, names: frozenset[str]) -> _Part:
        if names not in self._parts:
            self._parts[names] = self._distinct(names)
        return self._parts[names]

    def _distinct(self, names: frozenset[str]) -> _Part:
        every = self.sizes
        columns = [each[name] for each in (every.dims, every.degrees) for name in sorted(names) if name in each]
        tables = {table.which.tobytes(): table.which for table in every.tables.values()}  # those of many layers are of the same kinds
        where = (*tables.values(), *every.stands.values(), every.order, every.layout, every.kv_copies)
        first, which = distinct_rows([*columns, *where], every.num_plans)
        own, seen = every.take(first), set[str]()
        dims, degrees = (_Columns(each.items(), seen) for each in (own.dims, own.degrees))
        return _Part(replace(own, dims=dims, degrees=degrees), which, seen)


def _texts(key: object) -> set[str]:
    """All texts in nested tuples."""
    found, left = set[str](), [key]
    while left:
        each = left.pop()
        if isinstance(each, str):
            found.add(each)
        elif isinstance(each, tuple):
            left += each
    return found
