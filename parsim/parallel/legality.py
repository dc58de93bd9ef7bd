"""Which plans fit their model, batch and devices.  Nothing is rounded: an axis that does not divide is a fault naming what would.

Layers that the stages do not divide are legal, since the stack's layer_split rule says who holds the rest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from parsim.errors import ParsimError, PlanError, did_you_mean
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Batch, Plan

DEGREES: Final = ("data_parallel", "tensor_parallel", "pipeline_parallel", "virtual_pipeline", "micro_batch")
RECOMPUTE: Final = ("none", "selective", "full")
GRADIENT_SYNC: Final = ("all_reduce", "master")
PLAIN, INTERLEAVED = "1f1b", "interleaved_1f1b"


@dataclass(frozen=True, slots=True)
class PlanFault:
    """One way in which a plan does not fit: the field of Plan to change, what is wrong, and what would do."""

    field: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message


def faults(
    plan: Plan, model: ModelSpec | None, batch: Batch | None, num_devices: int | None, schedules: Collection[str]
) -> list[PlanFault]:
    """All the ways in which the plan does not fit; an empty list for a legal one.

    Args:
        plan: the plan.
        model, batch, num_devices: what it has to fit; the checks against one that is None are left out.
        schedules: the names of the known schedules.

    >>> tiny = ModelSpec("tiny", 4, 8, 32, 2, 2, 4, 64, 16)
    >>> for fault in faults(Plan(tensor_parallel=4), tiny, Batch(8, 16), 4, ["1f1b"]):
    ...     print(fault)
    tensor_parallel = 4 does not divide num_kv_heads = 2 of model "tiny" (replicating kv heads comes later). Legal: 1, 2
    """
    broken = [*_not_positive(plan), *_unknown_names(plan, schedules)]
    if broken:
        return broken
    world = [] if num_devices is None else [*_world(plan, num_devices)]
    found = [*_pipeline(plan), *world]
    if model is not None:
        found += [*_tensor(plan, model), *_layers(plan, model)]
    if batch is not None:
        found += _sequence(plan, batch)
    if batch is not None and not world:  # with another number of replicas they get other micro batches
        found += _micro_batches(plan, batch)
    return found


def check(plan: Plan, model: ModelSpec, batch: Batch, num_devices: int, schedules: Collection[str]) -> None:
    """Nothing, if the plan fits.

    Raises:
        PlanError: it does not; the message holds every fault.
    """
    found = faults(plan, model, batch, num_devices, schedules)
    if found:
        raise PlanError("\n".join(str(fault) for fault in found))


def legal_degrees(axis: str, model: ModelSpec, batch: Batch, num_devices: int) -> tuple[int, ...]:
    """The values of `axis`, ascending, that fit by themselves; together with other axes they may still not fit.

    Raises:
        ParsimError: the axis has no degrees.

    >>> legal_degrees("tensor_parallel", ModelSpec("tiny", 4, 8, 32, 2, 2, 4, 64, 16), Batch(8, 16), 8)
    (1, 2)
    """
    match axis:
        case "tensor_parallel":
            return divisors(math.gcd(model.num_kv_heads, model.ffn_hidden_size, num_devices))
        case "pipeline_parallel":
            return tuple(each for each in divisors(num_devices) if each <= model.num_layers)
        case "data_parallel":
            return divisors(math.gcd(num_devices, batch.global_batch))
        case "virtual_pipeline":
            return tuple(range(1, max(1, model.num_layers // 2) + 1))
        case "micro_batch":
            return divisors(batch.global_batch)
    raise ParsimError(f"'{axis}' has no degrees{did_you_mean(axis, DEGREES)}", remedy=f"Axes with degrees: {', '.join(DEGREES)}.")


def divisors(number: int) -> tuple[int, ...]:
    """The divisors of a positive number, ascending.

    >>> divisors(12)
    (1, 2, 3, 4, 6, 12)
    """
    small = [each for each in range(1, math.isqrt(number) + 1) if number % each == 0]
    return tuple(small + [number // each for each in reversed(small) if each * each != number])


def _not_positive(plan: Plan) -> Iterator[PlanFault]:
    for field in DEGREES:
        value = getattr(plan, field)
        if type(value) is not int or value < 1:
            yield PlanFault(field, f"{field} = {value!r} is not a positive whole number", "Legal: 1, 2, 3, ...")
    if plan.layers_per_stage is not None and any(type(each) is not int or each < 1 for each in plan.layers_per_stage):
        message = f"layers_per_stage = {_list(plan.layers_per_stage)}: every stage holds a positive whole number of layers"
        yield PlanFault("layers_per_stage", message, "Legal: 1, 2, 3, ... for each stage")


def _unknown_names(plan: Plan, schedules: Collection[str]) -> Iterator[PlanFault]:
    for field, known in (("schedule", sorted(schedules)), ("recompute", RECOMPUTE), ("gradient_sync", GRADIENT_SYNC)):
        value = getattr(plan, field)
        if value not in known:
            yield PlanFault(field, f"unknown {field} '{value}'{did_you_mean(str(value), known)}", f"Legal: {', '.join(known)}")


def _world(plan: Plan, num_devices: int) -> Iterator[PlanFault]:
    inner = plan.tensor_parallel * plan.pipeline_parallel
    if num_devices % inner:
        field = "tensor_parallel" if num_devices % plan.tensor_parallel else "pipeline_parallel"
        message = (
            f"tensor_parallel x pipeline_parallel = {plan.tensor_parallel} x {plan.pipeline_parallel} = {inner} does not divide "
            f"the {num_devices} devices of the cluster"
        )
        legal = divisors(num_devices if field == "tensor_parallel" else num_devices // plan.tensor_parallel)
        yield PlanFault(field, message, f"Legal {field}: {_list(legal)}")
    elif plan.num_devices != num_devices:
        message = (
            f"data_parallel x tensor_parallel x pipeline_parallel = {plan.data_parallel} x {plan.tensor_parallel} x "
            f"{plan.pipeline_parallel} = {plan.num_devices}, but the cluster has {num_devices} devices"
        )
        yield PlanFault("data_parallel", message, f"Set data_parallel = {num_devices // inner}, or leave it out")


def _tensor(plan: Plan, model: ModelSpec) -> Iterator[PlanFault]:
    legal = f"Legal: {_list(divisors(math.gcd(model.num_kv_heads, model.ffn_hidden_size)))}"
    degree = plan.tensor_parallel
    if model.num_kv_heads % degree:
        later = " (replicating kv heads comes later)" if degree % model.num_kv_heads == 0 else ""
        message = f'tensor_parallel = {degree} does not divide num_kv_heads = {model.num_kv_heads} of model "{model.name}"{later}'
        yield PlanFault("tensor_parallel", message, legal)
    elif model.ffn_hidden_size % degree:
        message = f'tensor_parallel = {degree} does not divide ffn_hidden_size = {model.ffn_hidden_size} of model "{model.name}"'
        yield PlanFault("tensor_parallel", message, legal)


def _sequence(plan: Plan, batch: Batch) -> Iterator[PlanFault]:
    if not plan.sequence_parallel:
        return
    if plan.tensor_parallel == 1:
        message = "sequence_parallel splits over the tensor-parallel ranks, but tensor_parallel = 1"
        yield PlanFault("sequence_parallel", message, "Set tensor_parallel above 1, or sequence_parallel to false")
    elif batch.sequence_length % plan.tensor_parallel:
        message = f"sequence_parallel: tensor_parallel = {plan.tensor_parallel} does not divide sequence_length = {batch.sequence_length}"
        yield PlanFault("sequence_parallel", message, f"Legal tensor_parallel: {_list(divisors(batch.sequence_length))}")


def _pipeline(plan: Plan) -> Iterator[PlanFault]:
    if plan.virtual_pipeline == 1:
        return
    if plan.pipeline_parallel == 1:
        message = f"virtual_pipeline = {plan.virtual_pipeline} needs a pipeline, but pipeline_parallel = 1"
        yield PlanFault("virtual_pipeline", message, "Set pipeline_parallel above 1, or virtual_pipeline = 1")
    if plan.schedule != INTERLEAVED:
        message = f"schedule '{plan.schedule}' runs one chunk of the model a rank, but virtual_pipeline = {plan.virtual_pipeline}"
        yield PlanFault("schedule", message, f"Set schedule = {INTERLEAVED}, or virtual_pipeline = 1")


def _layers(plan: Plan, model: ModelSpec) -> Iterator[PlanFault]:
    if plan.num_stages > model.num_layers:
        product = f"pipeline_parallel x virtual_pipeline = {plan.pipeline_parallel} x {plan.virtual_pipeline} = {plan.num_stages}"
        field = "virtual_pipeline" if plan.pipeline_parallel <= model.num_layers else "pipeline_parallel"
        most = model.num_layers // (plan.pipeline_parallel if field == "virtual_pipeline" else plan.virtual_pipeline)
        message = f'{product} stages are more than the {model.num_layers} layers of model "{model.name}"'
        yield PlanFault(field, message, f"Legal {field}: at most {max(1, most)}")
    layers = plan.layers_per_stage
    if layers is not None and (len(layers) != plan.num_stages or sum(layers) != model.num_layers):
        message = (
            f"layers_per_stage has {len(layers)} entries that sum to {sum(layers)}, but there are {plan.num_stages} stages "
            f'(pipeline_parallel x virtual_pipeline) and {model.num_layers} layers in model "{model.name}"'
        )
        yield PlanFault("layers_per_stage", message, f"Give {plan.num_stages} numbers that sum to {model.num_layers}")


def _micro_batches(plan: Plan, batch: Batch) -> Iterator[PlanFault]:
    product = plan.data_parallel * plan.micro_batch
    if batch.global_batch % product:
        replica = batch.global_batch % plan.data_parallel == 0
        field = "micro_batch" if replica else "data_parallel"
        message = (
            f"data_parallel x micro_batch = {plan.data_parallel} x {plan.micro_batch} = {product} does not divide "
            f"global_batch = {batch.global_batch}"
        )
        legal = divisors(batch.global_batch // plan.data_parallel) if replica else divisors(batch.global_batch)
        yield PlanFault(field, message, f"Legal {field}: {_list(legal)}")
    elif plan.virtual_pipeline > 1 and plan.num_micro_batches(batch) % plan.pipeline_parallel:
        message = (
            f"virtual_pipeline = {plan.virtual_pipeline} needs micro batches in rounds of pipeline_parallel = {plan.pipeline_parallel}, "
            f"but a replica has {plan.num_micro_batches(batch)}"
        )
        remedy = f"Make global_batch a multiple of {product * plan.pipeline_parallel}, or choose another micro_batch"
        yield PlanFault("virtual_pipeline", message, remedy)


def _list(numbers: tuple[int, ...]) -> str:
    """The numbers with commas, the middle of a long row left out."""
    shown = [str(each) for each in numbers]
    return ", ".join(shown if len(shown) <= 16 else [*shown[:12], "...", *shown[-3:]])
