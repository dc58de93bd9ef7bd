"""Plans as columns: each field of Plan an array with one value a plan.  One plan is an array of length 1.

A whole number stands for itself; anything else is an index into the field's distinct values.  What a function of a plan says is asked once
for each distinct combination of the fields that it reads, and gathered: nothing here is a loop over plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
from msgspec import Struct, StructMeta, field

from parsim.arguments import check_value
from parsim.cluster.scalars import Ints, distinct_rows, is_same, same
from parsim.parallel.plan import KEYS, Plan

NUMBERS: Final = frozenset(name for name, key in KEYS.items() if key.type == "int")
T = TypeVar("T")
_made: Callable[..., Plan] = partial(StructMeta.__call__, Plan)  # of names that are columns: Plan(...) looks for others, a microsecond


class Plans(Struct, frozen=True, eq=False):
    """Columns of some fields; where a field is left out, all plans have its default."""

    columns: Mapping[str, Ints]
    values: Mapping[str, tuple[Any, ...]]  # of the fields that are no numbers, by index
    num_plans: int
    _distinct: dict[tuple[str, ...], tuple[Ints, Ints]] = field(default_factory=dict)
    _asked: dict[tuple[str, ...], list[Plan]] = field(default_factory=dict)  # of each combination one

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> Plans:
        """The columns of these plans.

        >>> plans = Plans.of([Plan(tensor_parallel=2), Plan(recompute="full")])
        >>> plans.columns["tensor_parallel"].tolist(), plans.plan(1).recompute
        ([2, 1], 'full')
        """
        columns, values = {}, {}
        for name in KEYS:
            stated = [getattr(plan, name) for plan in plans]
            if name in NUMBERS:
                columns[name] = np.array(stated, dtype=np.int64)
            else:
                columns[name], values[name] = codes_of(stated)
        return cls(columns, values, len(plans))

    def to_dict(self) -> dict[str, Any]:
        """The plans, each as its own `to_dict`."""
        return {"plans": [plan.to_dict() for plan in self]}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Plans:
        """The plans that `to_dict` said.

        Raises:
            ParsimError: it said no such thing.
        """
        check_value("document of Plans", document, Mapping[str, Sequence[Mapping]])  # type: ignore[type-arg]
        return cls.of([Plan.from_dict(each) for each in document.get("plans", ())])

    def __len__(self) -> int:
        return self.num_plans

    def __getitem__(self, index: int) -> Plan:
        return self.plan(range(self.num_plans)[index])

    def __iter__(self) -> Iterator[Plan]:
        return self.some(np.arange(self.num_plans))

    def take(self, rows: Ints) -> Plans:
        """Some of the plans."""
        count = len(rows)
        columns = {name: same(column[0], count) if is_same(column) else column[rows] for name, column in self.columns.items()}
        return Plans(columns, self.values, count)

    def join(self, others: Plans) -> Plans:
        """These, and others behind them; all have every column."""
        columns, values = {}, {}
        for name, column in self.columns.items():
            more = others.columns[name]
            if name in self.values:
                values[name] = tuple(dict.fromkeys((*self.values[name], *others.values[name])))
                more = np.array([values[name].index(each) for each in others.values[name]], dtype=np.int64)[more]
            both, count = is_same(column) and is_same(more), len(column) + len(more)
            columns[name] = same(column[0], count) if both and column[0] == more[0] else np.concatenate([column, more])
        return Plans(columns, values, self.num_plans + others.num_plans)

    def put(self, name: str, stated: Sequence[Any], which: Ints) -> Plans:
        """With other values of a field: of each plan that of its combination."""
        codes, values = codes_of(stated)
        if name in NUMBERS:
            return Plans({**self.columns, name: np.array(stated, dtype=np.int64)[which]}, self.values, self.num_plans)
        return Plans({**self.columns, name: codes[which]}, {**self.values, name: values}, self.num_plans)

    def plan(self, index: int, fields: Iterable[str] | None = None) -> Plan:
        """One plan; `fields`: with these as stated, and the default of all others."""
        return next(self.some(np.array([index]), fields))

    def some(self, rows: Ints, fields: Iterable[str] | None = None) -> Iterator[Plan]:
        """The plans of some rows, one by one; `fields`: as in `plan`."""
        names = [name for name in (self.columns if fields is None else fields) if name in self.columns]
        stated = [self._field(name, self.columns[name][rows].tolist()) for name in names]
        return (_made(**dict(zip(names, each, strict=True))) for _, *each in zip(rows, *stated, strict=True))

    def _field(self, name: str, column: list[int]) -> Iterable[Any]:
        return map(self.values[name].__getitem__, column) if name in self.values else column

    def distinct(self, fields: tuple[str, ...]) -> tuple[Ints, Ints]:
        """The first plan of each combination of values that some fields have, and for each plan which combination it has."""
        if fields not in self._distinct:
            self._distinct[fields] = distinct_rows([self.columns[name] for name in fields if name in self.columns], self.num_plans)
        return self._distinct[fields]

    def each(self, fields: tuple[str, ...], value: Callable[[Plan], T]) -> tuple[list[T], Ints]:
        """What `value` says of each combination of the fields that it reads, and for each plan which combination it has."""
        first, which = self.distinct(fields)
        if fields not in self._asked:
            self._asked[fields] = [*self.some(first, fields)]
        return [*map(value, self._asked[fields])], which

    def numbers(self, fields: tuple[str, ...], value: Callable[[Plan], int]) -> Ints:
        """A whole number for each plan, of a function that reads these fields."""
        found, which = self.each(fields, value)
        return np.array(found, dtype=np.int64)[which]


def codes_of(stated: Sequence[Any]) -> tuple[Ints, tuple[Any, ...]]:
    """Indices into the distinct values, and these."""
    index: dict[Any, int] = {}
    codes = np.array([index.setdefault(value, len(index)) for value in stated], dtype=np.int64)
    return codes, tuple(index)
