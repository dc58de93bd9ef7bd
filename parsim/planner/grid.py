"""The combinations of a space's axes that no rule keeps out: axis by axis, and each rule as soon as the columns that it reads are there.

A rule is asked of each combination of what it reads with the values of the new axis, and only what no rule keeps out becomes a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from parsim import schedules
from parsim.cluster.scalars import Ints
from parsim.parallel.plan import Plan
from parsim.parallel.plans import NUMBERS, Plans, codes_of
from parsim.planner.accord import Filter
from parsim.planner.splits import BySpeed, FewerLayers, split_of, split_reads
from parsim.schedules.columnar import Bools

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_INNER: Final = ("tensor_parallel", "pipeline_parallel", "context_parallel", "dimensions")  # leave the rest of the devices to data_parallel
_NO_AXIS: Final = Plans({}, {}, 1)


class Rejected(Struct, frozen=True):
    """What a rule keeps out: how many combinations of values, and why the first of them."""

    rule: str
    count: int
    example: str


class _Follows(Struct, frozen=True):
    """A field that follows from others, and the rule that what they say must keep, if there is one."""

    name: str
    reads: tuple[str, ...]
    value: Callable[[Plan], object]
    rules: tuple[Filter, ...] = ()
    known: dict[tuple[object, ...], object] = field(default_factory=dict)

    def of(self, plan: Plan) -> object:
        """What it is in a plan; found once for all that agree in what it follows from."""
        stated = tuple(getattr(plan, name) for name in self.reads)
        if stated not in self.known:
            self.known[stated] = self.value(plan)
        return self.known[stated]


class Grid(Struct):
    """The combinations of the axes so far that no rule keeps out."""

    scenario: Scenario
    values: Mapping[str, Sequence[object]]  # of all axes that do not follow from others
    filters: list[Filter]  # that wait for their columns
    plans: Plans = _NO_AXIS
    rejected: dict[str, Rejected] = field(default_factory=dict)
    last: str = ""  # why what was kept out last is

    def expand(self, name: str) -> None:
        """Each plan so far with each value of an axis, but for those that a rule keeps out."""
        axis = _axis(name, self.values[name])
        follows = [*self._follows(axis)]
        ready = self._ready({*self.plans.columns, name, *(each.name for each in follows)})
        self._sift([*(rule for each in follows for rule in each.rules), *(_after(follows, rule) for rule in ready)], axis)
        for each in follows:
            self.plans = self.plans.put(each.name, *self.plans.each(each.reads, each.of))

    def _follows(self, axis: Plans) -> Iterator[_Follows]:
        """What follows as soon as there is an axis more."""
        scenario, before = self.scenario, self.plans.columns.keys()
        there, reads = before | axis.columns.keys(), split_reads(self.scenario)
        if "data_parallel" not in before and there >= set(_INNER):  # a rule says what does not divide
            yield _Follows("data_parallel", _INNER, lambda plan: max(scenario.cluster.num_devices // plan.num_devices, 1))
        if "schedule" not in (*self.values, *before) and "virtual_pipeline" in there:
            yield _Follows("schedule", ("virtual_pipeline",), lambda plan: schedules.default(plan.virtual_pipeline))
        splits = {**self.plans.values, **axis.values}.get("layers_per_stage", ())
        if there >= {*reads} and any(isinstance(each, FewerLayers | BySpeed) for each in splits):
            split = _Follows("layers_per_stage", reads, lambda plan: split_of(plan, scenario))
            said = "the layers of this pipeline have no such split"
            rule = Filter("uneven layers", reads, lambda plan: "" if plan.layers_per_stage is None or split.of(plan) else said)
            yield replace(split, rules=(rule,))

    def _ready(self, there: set[str]) -> list[Filter]:
        """The rules that read only such columns; they wait no more."""
        found = [each for each in self.filters if there >= {*each.reads}]
        self.filters = [each for each in self.filters if not there >= {*each.reads}]
        return found

    def _sift(self, rules: Iterable[Filter], axis: Plans) -> None:
        """Each plan with each value of an axis with which nothing is wrong; what is counts at the first rule that says so."""
        plans, kept = self.plans, np.ones((len(axis), len(self.plans)), dtype=bool)
        for rule in rules:
            there = kept.any(axis=0)
            if 2 * np.count_nonzero(there) < len(plans):  # so that looking up stays cheap
                rows = np.flatnonzero(there)
                plans, kept = plans.take(rows), kept[:, rows]
            self._keep(rule, plans, axis, kept)
        rows, places = np.nonzero(kept.T)
        self.plans = _product(plans, rows, axis, places)

    def _keep(self, rule: Filter, plans: Plans, axis: Plans, kept: Bools) -> None:
        """Only what a rule finds nothing wrong with, [value, plan]; it is asked once for each combination of what it reads."""
        first, which = plans.distinct(tuple(name for name in rule.reads if name not in axis.columns))
        asked = np.zeros((len(axis), len(first)), dtype=bool)
        for own, there in zip(asked, kept, strict=True):
            own[slice(None) if there.all() else which[there]] = True
        places, combinations = np.nonzero(asked)
        said = [*map(rule.wrong, _product(plans, first[combinations], axis, places).some(np.arange(len(places)), rule.reads))]
        asked[places, combinations] = [bool(each) for each in said]
        count, begin = 0, (len(plans), len(axis))
        for place in np.flatnonzero(asked.any(axis=1)).tolist():
            wrong = asked[place][which] & kept[place]
            count += int(np.count_nonzero(wrong))
            begin = min(begin, (int(np.argmax(wrong)), place))
            kept[place] ^= wrong
        if count:
            row, place = begin
            self.last = said[np.flatnonzero((combinations == which[row]) & (places == place))[0]]
            left = [len(values) for name, values in self.values.items() if name not in plans.columns and name not in axis.columns]
            self.reject(rule.name, count * int(np.prod(left, dtype=object)), self.last)

    @property
    def found(self) -> Plans:
        """What is kept, as plans that one can calculate with."""
        columns = {name: column.astype(np.int64, copy=False) for name, column in self.plans.columns.items()}
        return Plans(columns, self.plans.values, self.plans.num_plans)

    def reject(self, rule: str, count: int, example: str) -> None:
        """Count what a rule keeps out."""
        before = self.rejected.get(rule)
        self.rejected[rule] = Rejected(rule, count + before.count, before.example) if before else Rejected(rule, count, example)


def _after(follows: Sequence[_Follows], rule: Filter) -> Filter:
    """A rule, asked of plans in which nothing is yet what follows from the rest."""
    if not (follows := [each for each in follows if each.name in rule.reads]):
        return rule
    own = {each.name for each in follows}
    reads = dict.fromkeys((*(name for name in rule.reads if name not in own), *(name for each in follows for name in each.reads)))
    return Filter(rule.name, (*reads,), lambda plan: rule.wrong(replace(plan, **{each.name: each.of(plan) for each in follows})))


def _axis(name: str, values: Sequence[Any]) -> Plans:
    """The values of an axis as plans that say nothing else."""
    codes, distinct = codes_of(values)
    column = np.array(values, dtype=np.int64) if name in NUMBERS else codes
    return Plans({name: _narrow(column)}, {} if name in NUMBERS else {name: distinct}, len(values))


def _narrow(column: Ints) -> Ints:
    """The same in 2 bytes each, where they hold it: of millions of combinations few become plans."""
    limits = np.iinfo(np.int16)
    return column.astype(np.int16) if len(column) and limits.min <= column.min() and column.max() <= limits.max else column


def _product(plans: Plans, rows: Ints, axis: Plans, places: Ints) -> Plans:
    """Some of the plans, each with one of the values of an axis."""
    columns = {**plans.take(rows).columns, **axis.take(places).columns}
    return Plans(columns, {**plans.values, **axis.values}, len(rows))
