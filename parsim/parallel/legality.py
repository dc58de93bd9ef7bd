"""Which plans fit their model, batch and devices.  Nothing is rounded: an axis that does not divide is a fault naming what would.

Layers that the stages do not divide are legal, since the stack's layer_split rule says who holds the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Final

from parsim import schedules
from parsim.errors import ParsimError, did_you_mean
from parsim.model.spec import ModelSpec
from parsim.parallel import dimensions, recomputation, sharding_faults
from parsim.parallel.fault import PlanFault, comma_list, divisors
from parsim.parallel.plan import KEYS, Batch, Plan, Stack

POSITIVE: Final = tuple(name for name, key in KEYS.items() if key.type == "int" and not key.legal)
DEGREES: Final = tuple(name for name in POSITIVE if not KEYS[name].auto)
NAMED: Final = {name: key.legal for name, key in KEYS.items() if key.type == "str" and key.legal}
MOST_ACTIONS: Final = 2_000_000  # of a pipeline in one step: some seconds to fold


def faults(
    plan: Plan, model: ModelSpec | None, batch: Batch | None, num_devices: int | None, *, stack: Stack | None = None
) -> list[PlanFault]:
    """All the ways in which the plan does not fit; an empty list for a legal one.

    Checks against a model, batch or num_devices of None are left out; the stack's rule of layers may let an end stage hold none, and its
    kernels are the ops that recompute_ops names.

    >>> from parsim.model.transformer import TransformerSpec
    >>> tiny = TransformerSpec("tiny", 4, 8, 32, 2, num_kv_heads=2, head_dim=4, vocab_size=64, max_positions=16)
    >>> for fault in faults(Plan(tensor_parallel=4), tiny, Batch(8, 16), 4):
    ...     print(fault)
    tensor_parallel = 4 does not divide num_kv_heads = 2 of model "tiny" (replicating kv heads is not built). Legal: 1, 2
    """
    if broken := [*_not_positive(plan), *_unknown_names(plan), *sharding_faults.unknown_dimensions(plan)]:
        return broken
    if groups := [*sharding_faults.zero_group(plan)]:
        plan = dataclasses.replace(plan, zero_group=None)
    world = [] if num_devices is None else [*_world(plan, num_devices)]
    found = [
        *_pipeline(plan),
        *sharding_faults.zero(plan),
        *groups,
        *sharding_faults.rank_order(plan),
        *world,
        *sharding_faults.views(plan),
    ]
    found += [*recomputation.every_faults(plan), *sharding_faults.optimizer(plan, None if world else batch)]
    if model is not None:
        found += [*sharding_faults.tensor(plan, model), *_layers(plan, model, stack.layer_split if stack else "even")]
        if stack is not None:
            found += recomputation.faults(plan, model, stack)
        found += sharding_faults.others(plan, model, batch)
    if batch is not None:
        found += [*sharding_faults.sequence(plan, batch), *sharding_faults.tokens(plan, batch)]
    if batch is not None and not world:  # with another number of replicas they get other micro batches
        found += _micro_batches(plan, batch)
    return found


def legal_degrees(axis: str, model: ModelSpec, batch: Batch, num_devices: int) -> tuple[int, ...]:
    """The values of `axis`, ascending, that fit by themselves; together with other axes they may still not fit.

    Raises:
        ParsimError: the axis has no degrees.

    >>> from parsim.model.transformer import TransformerSpec
    >>> tiny = TransformerSpec("tiny", 4, 8, 32, 2, num_kv_heads=2, head_dim=4, vocab_size=64, max_positions=16)
    >>> legal_degrees("tensor_parallel", tiny, Batch(8, 16), 8)
    (1, 2)
    """
    match axis:
        case "tensor_parallel":
            return divisors(math.gcd(sharding_faults.tensor_parts(model), num_devices))
        case "pipeline_parallel":
            return tuple(each for each in divisors(num_devices) if each <= max(1, model.num_layers))
        case "data_parallel":
            return divisors(math.gcd(num_devices, batch.global_batch))
        case "virtual_pipeline":
            return tuple(range(1, max(1, model.num_layers // 2) + 1))
        case "micro_batch":
            return divisors(batch.global_batch)
    raise ParsimError(f"'{axis}' has no degrees{did_you_mean(axis, DEGREES)}", remedy=f"Axes with degrees: {', '.join(DEGREES)}.")


def _not_positive(plan: Plan) -> Iterator[PlanFault]:
    for field in POSITIVE:
        value = getattr(plan, field)
        if type(value) is not int or value < 1:
            yield PlanFault(field, f"{field} = {value!r} is not a positive whole number", "Legal: 1, 2, 3, ...")
    if plan.layers_per_stage is not None and any(type(each) is not int or each < 1 for each in plan.layers_per_stage):
        message = f"layers_per_stage = {comma_list(plan.layers_per_stage)}: every stage holds a positive whole number of layers"
        yield PlanFault("layers_per_stage", message, "Legal: 1, 2, 3, ... for each stage")


def _unknown_names(plan: Plan) -> Iterator[PlanFault]:
    for field, known in (("schedule", schedules.names()), *NAMED.items()):
        value = getattr(plan, field)
        if value not in known and not (field == "schedule" and isinstance(value, tuple)):
            yield PlanFault(field, f"unknown {field} '{value}'{did_you_mean(str(value), known)}", f"Legal: {', '.join(known)}")


def _world(plan: Plan, num_devices: int) -> Iterator[PlanFault]:
    inner = plan.num_devices // plan.data_parallel
    known = {name: dimensions.DIMENSIONS.get(name) for name, _ in plan.dimensions}
    numbered = {name for name, each in known.items() if each.nesting is not None and each.view != dimensions.EXPERT}
    others = {name: degree for name, degree in plan.dimensions if name in numbered}
    names = " x ".join(("tensor_parallel", "pipeline_parallel", *others))
    factors = " x ".join(str(each) for each in (plan.tensor_parallel, plan.pipeline_parallel, *others.values()))
    if num_devices % inner:
        field = "tensor_parallel" if num_devices % plan.tensor_parallel else "pipeline_parallel"
        message = f"{names} = {factors} = {inner} does not divide the {num_devices} devices of the cluster"
        legal = divisors(num_devices if field == "tensor_parallel" else num_devices // plan.tensor_parallel)
        yield PlanFault(field, message, f"Legal {field}: {comma_list(legal)}")
    elif plan.num_devices != num_devices:
        asked = f"data_parallel x {names} = {plan.data_parallel} x {factors} = {plan.num_devices}"
        message = f"{asked}, but the cluster has {num_devices} devices"
        yield PlanFault("data_parallel", message, f"Set data_parallel = {num_devices // inner}, or leave it out")


def _pipeline(plan: Plan) -> Iterator[PlanFault]:
    ranks, chunks = plan.pipeline_parallel, plan.virtual_pipeline
    if chunks > 1 and ranks == 1:
        message = f"virtual_pipeline = {plan.virtual_pipeline} needs a pipeline, but pipeline_parallel = 1"
        yield PlanFault("virtual_pipeline", message, "Set pipeline_parallel above 1, or virtual_pipeline = 1")
    if fault := schedule_fault(plan):
        yield fault


def schedule_fault(plan: Plan, batch: Batch | None = None) -> PlanFault | None:
    """Why its schedule cannot run so many ranks and chunks, and the micro_batches of a batch; None where it can."""
    ranks, chunks = plan.pipeline_parallel, plan.virtual_pipeline
    if (said := schedules.fault(plan.schedule, ranks, chunks)) is not None:
        others = f"Set schedule = {' or '.join(schedules.names_for(ranks, chunks))}" + (", or virtual_pipeline = 1" if chunks > 1 else "")
        return PlanFault("schedule", said, others if isinstance(plan.schedule, str) else "")
    if batch is None or (said := schedules.fault(plan.schedule, ranks, chunks, count := plan.num_micro_batches(batch))) is None:
        return None
    if not isinstance(plan.schedule, str):
        return PlanFault("schedule", said, "")
    more = (each for each in range(count + 1, 2 * (count + ranks)) if schedules.fault(plan.schedule, ranks, chunks, each) is None)
    product = dimensions.split(plan, "B") * plan.micro_batch
    enough = next((f"Make global_batch {each * product}, or choose" for each in more), "Choose")
    return PlanFault("virtual_pipeline" if chunks > 1 else "schedule", said, f"{enough} another micro_batch")


def _layers(plan: Plan, model: ModelSpec, layer_split: str) -> Iterator[PlanFault]:
    ends = 2 if layer_split == "embedding_and_head" and plan.layers_per_stage is None else 0
    if plan.num_stages > max(1, model.num_layers + ends):
        product = f"pipeline_parallel x virtual_pipeline = {plan.pipeline_parallel} x {plan.virtual_pipeline} = {plan.num_stages}"
        field = "virtual_pipeline" if plan.pipeline_parallel <= model.num_layers else "pipeline_parallel"
        most = (model.num_layers + ends) // (plan.pipeline_parallel if field == "virtual_pipeline" else plan.virtual_pipeline)
        message = f'{product} stages are more than the {model.num_layers} layers of model "{model.name}"'
        yield PlanFault(field, message, f"Legal {field}: at most {max(1, most)}")
    layers = plan.layers_per_stage
    if layers is not None and (len(layers) != plan.num_stages or sum(layers) != model.num_layers):
        given = f"layers_per_stage has {len(layers)} entries that sum to {sum(layers)}"
        stages = f"there are {plan.num_stages} stages (pipeline_parallel x virtual_pipeline)"
        message = f'{given}, but {stages} and {model.num_layers} layers in model "{model.name}"'
        yield PlanFault("layers_per_stage", message, f"Give {plan.num_stages} numbers that sum to {model.num_layers}")


def _micro_batches(plan: Plan, batch: Batch) -> Iterator[PlanFault]:
    replicas = dimensions.split(plan, "B")
    product = replicas * plan.micro_batch
    if batch.global_batch % product:
        replica = batch.global_batch % replicas == 0
        field = "micro_batch" if replica else "data_parallel"
        asked = f"data_parallel x micro_batch = {replicas} x {plan.micro_batch} = {product}"
        legal = divisors(batch.global_batch // replicas if replica else batch.global_batch)
        yield PlanFault(field, f"{asked} does not divide global_batch = {batch.global_batch}", f"Legal {field}: {comma_list(legal)}")
        return
    actions = 2 * plan.num_stages * plan.num_micro_batches(batch)
    if actions > MOST_ACTIONS:
        message = f"a step of {actions:,} forwards and backwards is above the {MOST_ACTIONS:,} that are predicted"
        yield PlanFault("micro_batch", message, f"Raise micro_batch (now {plan.micro_batch}), or lower global_batch")
    elif not schedule_fault(plan) and (fault := schedule_fault(plan, batch)):  # what is wrong with any number, _pipeline tells
        yield fault
