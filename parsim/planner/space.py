"""The legal plans of a space, as columns, and the rules that keep out others.

Global batch and sequence length are convergence settings: they are the scenario's and never varied here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.errors import PlanError, ScenarioError, did_you_mean
from parsim.parallel.legality import RULES, Facts, value_faults
from parsim.parallel.plan import Plan
from parsim.parallel.plans import Plans
from parsim.parallel.stack_limits import FIELDS, each_reason, reasons
from parsim.planner.accord import AUTO, DEFAULTS, Filter, default_axes, no_gain, no_pipeline, some_chunks, values_of
from parsim.planner.canonical import FORMS, Form, canonical
from parsim.planner.grid import Grid, Rejected
from parsim.scenario import PlanSpace

if TYPE_CHECKING:
    from parsim.scenario import Scenario

# Of a scenario: the name of a space, the only one where there is none, the axes of another, or one that is made.
AnySpace: TypeAlias = str | Mapping[str, object] | PlanSpace | None
_SAME: Final = "the same plan"
OTHERS_FAIL: Final = "What other rules leave fails: "


class Candidates(Struct, frozen=True):
    """The legal plans of a space in a fixed order, then those that the scenario names and that are none of it; and what kept out others."""

    plans: Plans
    rejected: tuple[Rejected, ...]
    num_in_space: int
    num_combinations: int  # of values of the space's axes: those in the space and those rejected
    names: Mapping[int, str]  # of those that the scenario names, by index
    nothing_legal: str  # where no plan of the space is legal, why not those that other rules leave; "" where one is


def candidates(scenario: Scenario, space: PlanSpace | None = None, *, runnable: bool = False) -> Candidates:
    """Every legal plan of a space, and the plans that the scenario names; without a space, every plan that the stack runs.

    Of plans that are the same, the first stands, or the one with a name.  `runnable` leaves out what the stack does not run of a space,
    too.

    Raises:
        PlanError: no combination is legal; the message says what stands in the way of those that other rules leave.
    """
    axes = {**DEFAULTS, **space.axes} if space else default_axes()
    if tuple(axes["context_kind"]) == (AUTO,) and not (space and "context_kind" in space.axes):
        usual = Plan(context_parallel=2, context_kind=scenario.stack.context)
        axes["context_kind"] = (AUTO if reasons(usual, scenario.model, scenario.stack) else usual.context_kind,)
    if space and "context_kind" in space.axes and "context_group" not in space.axes:  # those of kinds that have groups
        axes["context_group"] = (AUTO,)
    stated = {} if space is None else space.axes
    follows = {"data_parallel"} if tuple(axes["data_parallel"]) == (AUTO,) else set()
    follows |= {"schedule"} if space is not None and "schedule" not in stated else set()
    values = {name: _values(scenario, name, axes[name]) for name in axes if name not in follows}
    order = [name for name in axes if name not in ("data_parallel", "schedule")] + ["schedule"] * ("schedule" in values)
    facts = scenario.facts
    accord = [*no_gain(scenario)] if space is None else [*no_pipeline(values.get("schedule", ()))]
    rules = _filters(scenario, axes, values.get("schedule", ()), facts, runnable=runnable or space is None)
    grid = Grid(scenario, values, [*rules, *accord, *_same(facts, values)])
    # Those of one value first, since rules act the sooner; and splits that depend on where stages lie last.
    last = "layers_per_stage" if scenario.cluster.groups else ""
    for name in sorted(order, key=lambda name: (len(values[name]) != 1) * (1 + (name == last))):
        grid.expand(name)
    asked = {name: scenario.legal_plan(name) for name in scenario.plans}
    asked = {name: each for name, each in asked.items() if not runnable or not reasons(each, scenario.model, scenario.stack)}
    found = _each_once(grid, asked, facts)
    if not found.plans.num_plans:
        raise PlanError("no legal plan in this space", remedy=f"{OTHERS_FAIL}{found.nothing_legal}")
    return found


def _each_once(grid: Grid, asked: Mapping[str, Plan], facts: Facts) -> Candidates:
    """Of plans that are the same the first that is of the space, or the last one that has a name, in its place."""
    plans, own = grid.found, grid.plans.num_plans
    plans = plans.join(Plans.of([*asked.values()])) if asked else plans
    forms = canonical(plans, facts)
    first, which = forms.distinct(tuple(forms.columns))
    chosen, names = first.copy(), dict[int, str]()
    for place, name in enumerate(asked, own):
        code = int(which[place])
        chosen[code] = place
        names[code] = f"{names[code]}, {name}" if code in names else name
    order = np.argsort(first)
    place_of = {code: place for place, code in enumerate(order.tolist())} if names else {}
    num_in_space, rejected = int(np.sum(first < own)), list(grid.rejected.values())
    if own > num_in_space:
        grid.reject(_SAME, own - num_in_space, "it is the same as another")
        rejected = list(grid.rejected.values())
    total = num_in_space + sum(each.count for each in rejected)
    named = {place_of[code]: name for code, name in names.items()}
    why = "" if num_in_space else grid.last or "it is empty"
    return Candidates(plans.take(chosen[order]), tuple(rejected), num_in_space, total, named, why)


def _values(scenario: Scenario, name: str, stated: Sequence[object]) -> Sequence[object]:
    return values_of(name, scenario) if tuple(stated) == (AUTO,) else _legal(name, stated)


def _legal(name: str, values: Sequence[object]) -> Sequence[object]:
    """Refuse a value that no plan can have.

    Raises:
        PlanError: there is one.
    """
    for value in values:
        if wrong := value_faults(replace(Plan(), **{name: value})):
            raise PlanError(wrong[0].message, remedy=wrong[0].remedy and f"{wrong[0].remedy}.")
    return values


def _filters(
    scenario: Scenario, axes: Mapping[str, Sequence[object]], scheduled: Sequence[Any], facts: Facts, *, runnable: bool
) -> Iterator[Filter]:
    if (stated := tuple(axes["data_parallel"])) != (AUTO,):
        yield Filter(
            "asked for", ("data_parallel",), lambda plan: "" if plan.data_parallel in stated else f"data_parallel is not in {stated}"
        )
    for rule in RULES:
        yield Filter(rule.name, rule.reads, lambda plan, rule=rule: str(next(iter(rule.faults(plan, facts)), "")))  # type: ignore[misc]
    if tuple(axes["virtual_pipeline"]) == (AUTO,):
        yield from some_chunks(scenario.model.num_layers, scenario.stack.layer_split, scheduled)
    if runnable and scenario.stack.limits:
        model, stack = scenario.model, scenario.stack
        yield Filter("stack", FIELDS, lambda plan: next(each_reason(plan, model, stack), ""))


def _same(facts: Facts, values: Mapping[str, Sequence[object]]) -> Iterator[Filter]:
    """Of plans that are the same, those that another value of the same axes says more simply."""

    def wrong(plan: Plan, form: Form) -> str:
        simpler = form.of(plan, facts)
        changed = {name: getattr(simpler, name) for name in form.changes if getattr(simpler, name) != getattr(plan, name)}
        if not changed or not all(value in values.get(name, ()) for name, value in changed.items()):
            return ""
        return f"it is the same as with {' and '.join(f'{name} = {value}' for name, value in changed.items())}"

    for form in FORMS:
        yield Filter(_SAME, form.reads, lambda plan, form=form: wrong(plan, form))  # type: ignore[misc]


def space_named(scenario: Scenario, space: AnySpace) -> PlanSpace | None:
    """A space of the scenario by its name, the only one where none is named, or one that is given.

    Raises:
        ScenarioError: the scenario has no space of that name, or several and none is named.
        PlanError: an axis or a value of it is unknown.
    """
    if space is None and len(scenario.spaces) > 1:
        raise ScenarioError(f"which of its spaces: {', '.join(scenario.spaces)}?", scenario.path, "Name one.")
    if space is None:
        return next(iter(scenario.spaces.values()), None)
    if not isinstance(space, str):
        from parsim.scenario.spaces import space_of_axes

        return space_of_axes(space)
    if space not in scenario.spaces:
        known = ", ".join(scenario.spaces) or "none"
        hint = did_you_mean(space, scenario.spaces)
        raise ScenarioError(f"no plan '{space}' with open axes{hint}", scenario.path, f"Such plans here: {known}.")
    return scenario.spaces[space]
