"""The legal plans of a space: each axis a value, a list, or `auto` for all that can be legal.

Global batch and sequence length are convergence settings: they are the scenario's and never varied here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from parsim import schedules
from parsim.errors import PlanError
from parsim.parallel.fault import divisors
from parsim.parallel.legality import faults, legal_degrees
from parsim.parallel.plan import KEYS, Plan

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
            wrong = faults(plan, scenario.model, scenario.batch, scenario.cluster.num_devices, schedules, stack=scenario.stack)
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
