"""What a plan that does not fit is short of, and which changes of one key would help: each is priced, none is guessed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from parsim import units
from parsim.errors import CapacityError
from parsim.estimator.estimate import estimate
from parsim.estimator.result import Estimate
from parsim.parallel.legality import faults
from parsim.parallel.plan import Plan
from parsim.parallel.stack_limits import reasons
from parsim.scenario import Scenario

_MOST: Final = 4  # changes that fit are told
_HELPS: Final = 0.99  # of what is held: less than that is a change worth telling
_FULL: Final[Mapping[str, Any]] = {"recompute": "full", "recompute_every": 1, "recompute_modules": (), "recompute_ops": ()}


def overrun(found: Estimate, name: str, scenario: Scenario) -> CapacityError:
    """The error that says by how much a plan misses its device or its host, with what, and what would help."""
    if found.peak_bytes > found.capacity_bytes:
        stage = max(range(len(found.memory_bytes)), key=lambda rank: sum(found.memory_bytes[rank].values()))
        parts = _largest(found.memory_bytes[stage])
        need = f"stage {stage} needs {gib(found.peak_bytes)} of {gib(found.capacity_bytes)} GiB ({parts})"
    else:
        needs = f"{gib(found.host_peak_bytes)} of {gib(found.host_capacity_bytes or 0)} GiB"
        need = f'the host of node "{scenario.cluster.node.name}" needs {needs} ({_largest(found.host_memory_bytes)})'
    return CapacityError(need, name, _way_out(found, scenario))


def gib(num_bytes: float) -> str:
    """The GiB, without their unit."""
    least = units.parse("0.001 GiB", "bytes")
    return units.format(num_bytes, "GiB").partition(" ")[0] if num_bytes >= least or not num_bytes else "<0.001"


def _way_out(found: Estimate, scenario: Scenario) -> str:
    ways = [(change, each) for change, each in _ways(found.plan, scenario) if each.fill < _HELPS * found.fill]
    enough = [(change, each) for change, each in ways if each.fits][:_MOST]
    told = ", ".join(f"{change} ({_memory_of(each)})" for change, each in enough or ways)
    if enough:
        return f"Each of these alone fits: {told}."
    devices = scenario.cluster.num_devices
    more = f"take more than {devices} device{'s' if devices > 1 else ''}, which share the model out."
    return f"Each of these alone helps, and is not enough: {told}.\n  Combine them, or {more}" if ways else f"No key helps: {more}"


def _memory_of(changed: Estimate) -> str:
    """What the fuller memory holds."""
    on_device = changed.peak_bytes / changed.capacity_bytes == changed.fill
    return f"{gib(changed.peak_bytes)} GiB" if on_device else f"{gib(changed.host_peak_bytes)} GiB on the host"


def _ways(plan: Plan, scenario: Scenario) -> Iterator[tuple[str, Estimate]]:
    """Changes that are legal and that the stack can run, those first that change no result, each with its estimate."""
    for change in _changes(plan):
        changed = replace(plan, **change)
        if changed != plan and _runs(changed, scenario):
            key, value = next(iter(change.items()))
            yield f"{key} = {str(value).lower()}", estimate(scenario, changed)
    narrow = replace(scenario.batch, dtype="bf16_pure")
    if narrow != scenario.batch and not narrow.recipe.without_peak(scenario.cluster.node.accelerator.peak_flops_per_s):
        yield "dtype = bf16_pure", estimate(replace(scenario, batch=narrow), plan)


def _runs(plan: Plan, scenario: Scenario) -> bool:
    is_legal = not faults(plan, scenario.model, scenario.batch, scenario.cluster.num_devices, stack=scenario.stack)
    return is_legal and not reasons(plan, scenario.model.num_layers, scenario.stack)


def _changes(plan: Plan) -> Iterator[dict[str, Any]]:
    """Each with the key that is told first."""
    yield {"micro_batch": 1}
    yield {"sequence_parallel": True}
    yield dict(_FULL)
    if plan.data_parallel > 1:
        yield from ({"zero_stage": stage} for stage in (3, 1) if stage > plan.zero_stage)  # some stacks shard states alone
        half = {"data_parallel": plan.data_parallel // 2, "zero_group": None, "layers_per_stage": None}
        yield {"tensor_parallel": 2 * plan.tensor_parallel, **half}
        yield {"pipeline_parallel": 2 * plan.pipeline_parallel, **half}
    yield {"offload_optimizer": not plan.offload_optimizer}
    yield {"optimizer_in_backward": True}
    yield {"optimizer": "paged_adamw_8bit"}


def _largest(parts: Mapping[str, int]) -> str:
    """The largest parts of a memory."""
    found = sorted(parts.items(), key=lambda part: -part[1])[:4]
    return ", ".join(f"{part} {gib(size)}" for part, size in found)
