"""The legal plans of a space, as columns: axis by axis, and each rule as soon as the columns that it reads are there.

Global batch and sequence length are convergence settings: they are the scenario's and never varied here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from parsim import schedules
from parsim.cluster.scalars import Ints
from parsim.errors import PlanError
from parsim.parallel.dimensions import all_dimensions
from parsim.parallel.fault import divisors
from parsim.parallel.legality import RULES, VALUES, Facts, legal_degrees
from parsim.parallel.plan import KEYS, Plan
from parsim.parallel.plans import NUMBERS, Plans, codes_of
from parsim.parallel.sharding_faults import keeps_parameters
from parsim.parallel.stack_limits import FIELDS, reasons

if TYPE_CHECKING:
    from parsim.scenario import PlanSpace, Scenario

AUTO: Final = "auto"
# The axes in the order in which candidates vary, on which ties hang, the slowest first; others follow in the order of Plan.
_OPEN: Final = ("tensor_parallel", "pipeline_parallel", "virtual_pipeline", "micro_batch", "sequence_parallel", "recompute")
_NEXT: Final = ("gradient_sync", "zero_stage", "zero_group", "reshard_after_forward", "recompute_every", "offload_optimizer", "optimizer")
# What an axis is where a space does not name it.
_DEFAULTS: Final[Mapping[str, tuple[object, ...]]] = {
    name: (AUTO,) if KEYS[name].follows else (KEYS[name].default,) for name in dict.fromkeys((*_OPEN, *_NEXT, *KEYS))
}
_SHARDED: Final = ("zero_stage", "zero_group")
_STAGES: Final = ("pipeline_parallel", "virtual_pipeline")
_INNER: Final = ("tensor_parallel", "pipeline_parallel", "dimensions")  # leave the rest of the devices to data_parallel


@dataclass(frozen=True, slots=True)
class FewerLayers:
    """So many layers fewer on the first and the last stage, which hold the embedding and the head: what `auto` tries."""

    first: int
    last: int


_SPLITS: Final = (None, *(FewerLayers(*each) for each in ((0, 1), (1, 1), (0, 2), (1, 2), (2, 2))))


@dataclass(frozen=True, slots=True)
class Rejected:
    """What a rule keeps out: how many combinations of values, and why the first of them."""

    rule: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class Candidates:
    """The legal plans of a space in a fixed order, and what kept out the others."""

    plans: Plans
    rejected: tuple[Rejected, ...]


def default_axes() -> dict[str, tuple[object, ...]]:
    """The axes of a space that leaves all to the planner."""
    return {**_DEFAULTS, **dict.fromkeys((*_OPEN, *_SHARDED, "dimensions"), (AUTO,)), "reshard_after_forward": (None, True, False)}


def candidates(scenario: Scenario, space: PlanSpace | None = None, *, runnable: bool = False) -> Candidates:
    """Every legal plan of a space, and the plans that the scenario names; without a space, every plan that the stack runs.

    `runnable` leaves out what the stack does not run of a space, too.

    Raises:
        PlanError: no combination is legal; the message says what stands in the way of the first.
    """
    axes = {**_DEFAULTS, **space.axes} if space else default_axes()
    follows = {name for name in ("data_parallel", "schedule") if tuple(axes[name]) == (AUTO,)}
    values = {name: _values(scenario, name, axes[name]) for name in axes if name not in follows}
    order = [name for name in axes if name not in ("data_parallel", "schedule")] + ["schedule"] * ("schedule" in values)
    grid = _Grid(scenario, values, [*_filters(scenario, axes, runnable=runnable or space is None), *([] if space else [_twice(scenario)])])
    for name in sorted(order, key=lambda name: len(values[name]) != 1):  # those of one value first: rules act the sooner
        grid.expand(name)
    legal, rejected = _each_once(grid.plans), list(grid.rejected.values())
    if twice := grid.plans.num_plans - legal.num_plans:
        rejected.append(Rejected("the same plan", twice, "it is the same plan as another combination"))
    asked = scenario.plans.values()
    named = Plans.of([each for each in asked if not runnable or not reasons(each, scenario.model.num_layers, scenario.stack)])
    if not grid.plans.num_plans and not named.num_plans:
        raise PlanError("no legal plan in this space", remedy=f"The first candidate fails: {rejected[0].example}" if rejected else "")
    return Candidates(_each_once(legal.join(named)), tuple(rejected))


def _each_once(plans: Plans) -> Plans:
    first, _ = plans.distinct(tuple(plans.columns))
    return plans if len(first) == plans.num_plans else plans.take(np.sort(first))


def _values(scenario: Scenario, name: str, stated: Sequence[object]) -> Sequence[object]:
    if tuple(stated) != (AUTO,):
        return _legal(name, stated)
    key = KEYS[name]
    if name == "zero_group":
        return (None, *divisors(scenario.cluster.node.devices_per_node)[1:])
    if name == "layers_per_stage":
        return _SPLITS
    if name == "dimensions":
        return _dimensions(scenario.cluster.num_devices)
    if key.type == "bool":
        return (False, True)
    if key.auto or key.legal:
        return key.auto or key.legal
    return legal_degrees(name, scenario.model, scenario.batch, scenario.cluster.num_devices)


def _dimensions(num_devices: int) -> Sequence[tuple[tuple[str, int], ...]]:
    """Degrees of each dimension that has no field of its own, 1 for off."""
    free = [each.name for each in all_dimensions() if each.degree is None and not each.fills and each.name not in KEYS]
    every = itertools.product(*(divisors(num_devices) for _ in free))
    return [
        tuple((name, n) for name, n in zip(free, degrees, strict=True) if n > 1) for degrees in every if math.prod(degrees) <= num_devices
    ]


def _split(plan: Plan, num_layers: int) -> tuple[int, ...] | None:
    """Layers of each stage: as stated, or where the first and the last hold fewer than the others; None for no such split."""
    fewer: object = plan.layers_per_stage
    if not isinstance(fewer, FewerLayers):
        return plan.layers_per_stage
    less = [0] * plan.num_stages
    less[0], less[-1] = fewer.first, fewer.last
    each, rest = divmod(num_layers + sum(less), plan.num_stages)
    more = sorted(range(plan.num_stages), key=less.__getitem__)[:rest]  # the stages in the middle hold what remains
    layers = [each + (stage in more) - lacking for stage, lacking in enumerate(less)]
    return tuple(layers) if plan.num_stages > 1 and min(layers) >= 1 and len(set(layers)) > 1 else None


def _legal(name: str, values: Sequence[object]) -> Sequence[object]:
    """Refuse a value that no plan can have.

    Raises:
        PlanError: there is one.
    """
    for value in values:
        plan = replace(Plan(), **{name: value})  # type: ignore[arg-type]
        if wrong := [fault for rule in VALUES if name in rule.reads for fault in rule.faults(plan, Facts())]:
            raise PlanError(wrong[0].message, remedy=wrong[0].remedy and f"{wrong[0].remedy}.")
    return values


@dataclass(frozen=True, slots=True)
class _Filter:
    """A rule with the fields that it reads, and what is wrong with a plan that it keeps out."""

    name: str
    reads: tuple[str, ...]
    wrong: Callable[[Plan], str]


def _filters(scenario: Scenario, axes: Mapping[str, Sequence[object]], *, runnable: bool) -> Iterator[_Filter]:
    facts = Facts(scenario.model, scenario.batch, scenario.cluster.num_devices, scenario.stack)
    if (stated := tuple(axes["data_parallel"])) != (AUTO,):
        yield _Filter(
            "asked for", ("data_parallel",), lambda plan: "" if plan.data_parallel in stated else f"data_parallel is not in {stated}"
        )
    if tuple(axes["virtual_pipeline"]) == (AUTO,):
        layers, why = scenario.model.num_layers, "of its own accord the planner interleaves only even chunks"
        yield _Filter("even chunks", _STAGES, lambda plan: why if plan.virtual_pipeline > 1 and layers % plan.num_stages else "")
    for rule in RULES:
        yield _Filter(rule.name, rule.reads, lambda plan, rule=rule: str(next(iter(rule.faults(plan, facts)), "")))  # type: ignore[misc]
    if runnable and scenario.stack.limits:
        num_layers, stack = scenario.model.num_layers, scenario.stack
        yield _Filter("stack", FIELDS, lambda plan: next(iter(reasons(plan, num_layers, stack)), ""))


def _twice(scenario: Scenario) -> _Filter:
    """Of its own accord the planner does not state what holds where nothing is stated."""

    def wrong(plan: Plan) -> str:
        others = (plan, replace(plan, reshard_after_forward=None))
        same = keeps_parameters(others[0], scenario.stack) == keeps_parameters(others[1], scenario.stack)
        return "it is the same as one that leaves reshard_after_forward out" if same and plan.reshard_after_forward is not None else ""

    return _Filter("said already", ("reshard_after_forward", "zero_stage", "pipeline_parallel"), wrong)


@dataclass(slots=True)
class _Grid:
    """The combinations of the axes so far that no rule keeps out."""

    scenario: Scenario
    values: Mapping[str, Sequence[object]]  # of all axes that do not follow from others
    filters: list[_Filter]  # that wait for their columns
    plans: Plans = field(default_factory=lambda: Plans({}, {}, 1))
    rejected: dict[str, Rejected] = field(default_factory=dict)

    def expand(self, name: str) -> None:
        """Each plan so far with each value of an axis."""
        values, plans = self.values[name], self.plans
        codes, distinct = codes_of(values)
        column = np.array(values, dtype=np.int64) if name in NUMBERS else codes
        columns = {other: np.repeat(own, len(values)) for other, own in plans.columns.items()}
        named = plans.values if name in NUMBERS else {**plans.values, name: distinct}
        self.plans = Plans({**columns, name: np.tile(column, plans.num_plans)}, named, plans.num_plans * len(values))
        self._derive()
        for each in [each for each in self.filters if self.plans.columns.keys() >= set(each.reads)]:
            self.filters.remove(each)
            self._keep(each)

    def _derive(self) -> None:
        """What follows from the columns that are there."""
        there = self.plans.columns.keys()
        if "data_parallel" not in there and there >= set(_INNER):
            inner = self.plans.numbers(_INNER, lambda plan: plan.num_devices)
            self._set("data_parallel", np.maximum(self.scenario.cluster.num_devices // inner, 1))  # a rule says what does not divide
        if "schedule" not in (*self.values, *there) and "virtual_pipeline" in there:
            self._follow("schedule", ("virtual_pipeline",), lambda plan: schedules.default(plan.virtual_pipeline))
        if there >= {"layers_per_stage", *_STAGES}:
            layers = self.scenario.model.num_layers
            self._follow("layers_per_stage", ("layers_per_stage", *_STAGES), lambda plan: _split(plan, layers))
        if there >= {"zero_group", "data_parallel"}:  # a group of all is no group
            fields = ("zero_group", "data_parallel")
            self._follow("zero_group", fields, lambda plan: None if plan.zero_group == plan.data_parallel else plan.zero_group)

    def _follow(self, name: str, reads: tuple[str, ...], value: Callable[[Plan], object]) -> None:
        found, which = self.plans.each(reads, value)
        codes, values = codes_of(found)
        self._set(name, codes[which], values)

    def _set(self, name: str, column: Ints, values: tuple[object, ...] | None = None) -> None:
        named = self.plans.values if values is None else {**self.plans.values, name: values}
        self.plans = Plans({**self.plans.columns, name: column}, named, self.plans.num_plans)

    def _keep(self, each: _Filter) -> None:
        """Only the plans with which nothing is wrong."""
        found, which = self.plans.each(each.reads, each.wrong)
        bad = np.array([bool(said) for said in found])[which]
        if not bad.any():
            return
        left = [len(values) for name, values in self.values.items() if name not in self.plans.columns]
        count = int(bad.sum()) * int(np.prod(left, dtype=object))
        self.rejected[each.name] = Rejected(each.name, count, found[which[np.argmax(bad)]])
        self.plans = self.plans.take(np.flatnonzero(~bad))
