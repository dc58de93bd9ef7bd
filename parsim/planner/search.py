"""`candidates`: the legal plans of a space, each axis a value, a list, or `auto` for all that can be legal; `plan`: the ranked ones.

Global batch and sequence length are convergence settings: they are the scenario's and never varied here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from parsim import schedules
from parsim.errors import PlanError, ScenarioError, did_you_mean
from parsim.estimator.estimate import bounds, estimate, estimates
from parsim.estimator.result import Estimate, Estimates
from parsim.parallel.fault import divisors
from parsim.parallel.legality import faults, legal_degrees
from parsim.parallel.plan import KEYS, Plan
from parsim.parallel.stack_limits import reasons

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
_BLOCK = 8  # plans priced at a time: few beyond the last place


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best plans, fastest first, and how many were considered.

    `nearest` is the plan that misses its memory, the device's or the host's, by least, where none fits.
    """

    rows: tuple[Estimate, ...]
    num_legal: int
    num_over_memory: int
    nearest: Estimate | None

    @property
    def num_fit(self) -> int:
        """Plans that fit their device."""
        return self.num_legal - self.num_over_memory


def default_axes() -> dict[str, tuple[object, ...]]:
    """The axes of a space that leaves all to the planner."""
    return {**_DEFAULTS, **dict.fromkeys(_OPEN, (AUTO,))}


def candidates(scenario: Scenario, space: PlanSpace | None = None) -> list[Plan]:
    """Every legal plan of a space, in a fixed order.

    Raises:
        PlanError: no combination is legal; the message says what stands in the way of the first.
    """
    axes = {**_DEFAULTS, **space.axes} if space else default_axes()
    names = [name for name in axes if name not in ("data_parallel", "schedule")]
    values = [_values(scenario, name, axes[name]) for name in names]
    found: list[Plan] = []
    first_fault = ""
    for combination in itertools.product(*values):
        chosen = dict(zip(names, combination, strict=True))
        for plan in _complete(scenario, chosen, axes):
            if axes["virtual_pipeline"] == (AUTO,) and plan.virtual_pipeline > 1 and scenario.model.num_layers % plan.num_stages:
                continue  # of its own accord the planner interleaves only even chunks
            wrong = faults(plan, scenario.model, scenario.batch, scenario.cluster.num_devices, stack=scenario.stack)
            if not wrong:
                found.append(plan)
            first_fault = first_fault or (str(wrong[0]) if wrong else "")
    if not found:
        raise PlanError("no legal plan in this space", remedy=f"The first candidate fails: {first_fault}" if first_fault else "")
    return list(dict.fromkeys(found))


def _values(scenario: Scenario, name: str, stated: Sequence[object]) -> Sequence[object]:
    if stated != (AUTO,):
        return stated
    key = KEYS[name]
    if name == "zero_group":
        return (None, *divisors(scenario.cluster.node.devices_per_node))
    if key.type == "bool":
        return (False, True)
    if key.auto or key.legal:
        return key.auto or key.legal
    return legal_degrees(name, scenario.model, scenario.batch, scenario.cluster.num_devices)


def _complete(scenario: Scenario, chosen: dict[str, object], axes: Mapping[str, tuple[object, ...]]) -> list[Plan]:
    """The plan with its data_parallel and schedule; none where the devices do not divide."""
    draft = Plan(**chosen)  # type: ignore[arg-type]
    inner = replace(draft, zero_group=None).num_devices
    rest, remainder = divmod(scenario.cluster.num_devices, inner)
    if remainder or (axes["data_parallel"] != (AUTO,) and rest not in axes["data_parallel"]):
        return []
    stated = axes["schedule"]
    names = (schedules.default(draft.virtual_pipeline),) if stated == (AUTO,) else stated
    group = None if draft.zero_group == rest else draft.zero_group  # a group of all is no group
    return [Plan(**{**chosen, "data_parallel": rest, "zero_group": group, "schedule": name}) for name in names]  # type: ignore[arg-type]


def plan(scenario: Scenario, space: str | None = None, *, top: int = 10, runnable: bool = False) -> Ranking:
    """The `top` fastest plans that fit, of one space of the scenario, or of all plans that its model and cluster allow.

    `runnable` leaves out what the scenario's stack cannot run.  Ties go to the plan with less memory, then to the smaller degrees.

    Raises:
        ScenarioError: the scenario has no space of that name, or several and none is named.
        PlanError: no plan of the space is legal.
    """
    plans = candidates(scenario, _space(scenario, space))
    if runnable:
        said = {each: reasons(each, scenario.model.num_layers, scenario.stack) for each in plans}
        plans = [each for each in plans if not said[each]]
        if not plans:
            raise PlanError(f'stack "{scenario.stack.name}" runs no plan of this space', remedy=f"{next(iter(said.values()))[0]}.")
    bounded = bounds(scenario, plans)
    fitting = [i for i in range(len(plans)) if bounded.fits[i]]
    best = _fastest(scenario, plans, bounded, fitting, top)
    rows = tuple(estimate(scenario, plans[i]) for i in best)
    nearest = None if fitting else estimate(scenario, plans[int(np.argmin(bounded.fill))])
    return Ranking(rows, len(plans), len(plans) - len(fitting), nearest)


def _fastest(scenario: Scenario, plans: Sequence[Plan], bounded: Estimates, fitting: Sequence[int], top: int) -> list[int]:
    """Plans are priced in the order of their lower bounds, until no bound is below the last place: the same ranking as pricing all."""
    order = sorted(fitting, key=lambda i: (bounded.step_s[i], i))
    keys: dict[int, tuple[object, ...]] = {}
    for first in range(0, len(order), _BLOCK):
        places = sorted(keys, key=keys.__getitem__)[:top]
        if len(places) == top and bounded.step_s[order[first]] > keys[places[-1]][0]:
            break
        block = order[first : first + _BLOCK]
        priced = estimates(scenario, [plans[i] for i in block])
        for index, step_s in zip(block, priced.step_s, strict=True):
            each = plans[index]
            degrees = each.tensor_parallel, each.pipeline_parallel, each.virtual_pipeline, each.micro_batch, each.recompute
            keys[index] = (float(step_s), int(bounded.peak_bytes[index]), degrees)
    return sorted(keys, key=keys.__getitem__)[:top]


def _space(scenario: Scenario, name: str | None) -> PlanSpace | None:
    if name is None and len(scenario.spaces) > 1:
        raise ScenarioError(f"which of its spaces: {', '.join(scenario.spaces)}?", scenario.path, "Name one.")
    if name is None:
        return next(iter(scenario.spaces.values()), None)
    if name not in scenario.spaces:
        known = ", ".join(scenario.spaces) or "none"
        hint = did_you_mean(name, scenario.spaces)
        raise ScenarioError(f"no plan '{name}' with open axes{hint}", scenario.path, f"Such plans here: {known}.")
    return scenario.spaces[name]
