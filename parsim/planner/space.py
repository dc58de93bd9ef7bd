"""The legal plans of a space: each axis a value, a list, or `auto` for all that can be legal.

Global batch and sequence length are convergence settings: they are the scenario's and never varied here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from parsim import schedules
from parsim.errors import PlanError
from parsim.parallel.fault import divisors
from parsim.parallel.legality import GRADIENT_SYNC, RECOMPUTE, faults, legal_degrees
from parsim.parallel.plan import Plan
from parsim.parallel.sharding_faults import ZERO_STAGES

if TYPE_CHECKING:
    from parsim.scenario import PlanSpace, Scenario

AUTO = "auto"
# What an axis is where a space does not name it.
_DEFAULTS: Mapping[str, tuple[object, ...]] = {
    "tensor_parallel": (1,),
    "pipeline_parallel": (1,),
    "virtual_pipeline": (1,),
    "micro_batch": (1,),
    "sequence_parallel": (False,),
    "recompute": ("none",),
    "gradient_sync": ("all_reduce",),
    "zero_stage": (0,),
    "zero_group": (None,),
    "reshard_after_forward": (True,),
    "recompute_ops": ((),),
    "recompute_every": (1,),
    "offload_optimizer": (False,),
    "dimensions": ((),),
    "optimizer": ("adamw",),
    "rank_order": ("tp-dp-pp",),
    "layers_per_stage": (None,),
    "data_parallel": (AUTO,),  # what remains of the devices
    "schedule": (AUTO,),  # follows from virtual_pipeline
}


def everything() -> dict[str, tuple[object, ...]]:
    """The axes of a space that leaves all to the planner."""
    open_axes = ("tensor_parallel", "pipeline_parallel", "virtual_pipeline", "micro_batch", "sequence_parallel", "recompute")
    return {**_DEFAULTS, **dict.fromkeys(open_axes, (AUTO,))}


def candidates(scenario: Scenario, space: PlanSpace | None = None) -> list[Plan]:
    """Every legal plan of a space, in a fixed order.

    Raises:
        PlanError: no combination is legal; the message says what stands in the way of the first.
    """
    axes = {**_DEFAULTS, **space.axes} if space else everything()
    names = [name for name in axes if name not in ("data_parallel", "schedule")]
    values = [_values(scenario, name, axes[name]) for name in names]
    found: list[Plan] = []
    first_fault = ""
    for combination in itertools.product(*values):
        chosen = dict(zip(names, combination, strict=True))
        for plan in _completed(scenario, chosen, axes):
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
    if name == "recompute":
        return RECOMPUTE
    if name == "gradient_sync":
        return GRADIENT_SYNC
    if name == "rank_order":
        return tuple("-".join(order) for order in itertools.permutations(("tp", "dp", "pp")))
    if name == "optimizer":
        return _DEFAULTS[name]  # a choice of convergence, not of speed: never varied of the planner's own accord
    if name == "zero_stage":
        return ZERO_STAGES
    if name == "zero_group":
        return (None, *divisors(scenario.cluster.node.devices_per_node))
    if name in ("sequence_parallel", "reshard_after_forward", "offload_optimizer"):
        return (False, True)
    if name == "recompute_every":
        return (1, 2, 4)
    if name == "layers_per_stage":
        return (None,)
    return legal_degrees(name, scenario.model, scenario.batch, scenario.cluster.num_devices)


def _completed(scenario: Scenario, chosen: dict[str, object], axes: Mapping[str, tuple[object, ...]]) -> list[Plan]:
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
