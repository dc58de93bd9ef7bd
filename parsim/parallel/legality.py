"""Which plans fit their model, batch and devices.  Nothing is rounded: an axis that does not divide is a fault naming what would.

Layers that the stages do not divide are legal, since the stack's layer_split rule says who holds the rest.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from parsim.errors import ParsimError, PlanError, did_you_mean
from parsim.model.dims import DIMS
from parsim.model.families import blocks_of
from parsim.model.spec import ModelSpec
from parsim.parallel import dimensions
from parsim.parallel.plan import Batch, Plan, Stack

DEGREES: Final = ("data_parallel", "tensor_parallel", "pipeline_parallel", "virtual_pipeline", "micro_batch")
POSITIVE: Final = (*DEGREES, "recompute_every")
RECOMPUTE: Final = ("none", "selective", "full")
GRADIENT_SYNC: Final = ("all_reduce", "master")
ZERO_STAGES: Final = (0, 1, 2, 3)
MOST_ACTIONS: Final = 2_000_000  # of a pipeline in one step: some seconds to fold


class Schedules(Protocol):
    """What a plan's schedule is held against: the module parsim.schedules, which knows the rule of each."""

    def names(self) -> tuple[str, ...]:
        """All known names."""
        ...

    def accepting(self, num_ranks: int, chunks: int) -> tuple[str, ...]:
        """The names of those that run so many chunks a rank."""
        ...

    def fault(self, schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int | None = None) -> str | None:
        """Why a named or written schedule cannot run such a pipeline; None where it can."""
        ...


@dataclass(frozen=True, slots=True)
class PlanFault:
    """One way in which a plan does not fit: the field of Plan to change, what is wrong, and what would do."""

    field: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message


def faults(
    plan: Plan,
    model: ModelSpec | None,
    batch: Batch | None,
    num_devices: int | None,
    schedules: Schedules,
    *,
    stack: Stack | None = None,
) -> list[PlanFault]:
    """All the ways in which the plan does not fit; an empty list for a legal one.

    Args:
        plan: the plan.
        model, batch, num_devices: what it has to fit; the checks against one that is None are left out.
        schedules: the known schedules.
        stack: the software; its rule of layers may let an end stage hold none, and its kernels are the ops that recompute_ops names.

    >>> from parsim import schedules
    >>> tiny = ModelSpec("tiny", 4, 8, 32, 2, 2, 4, 64, 16)
    >>> for fault in faults(Plan(tensor_parallel=4), tiny, Batch(8, 16), 4, schedules):
    ...     print(fault)
    tensor_parallel = 4 does not divide num_kv_heads = 2 of model "tiny" (replicating kv heads comes later). Legal: 1, 2
    """
    broken = [*_not_positive(plan), *_unknown_names(plan, schedules), *_unknown_dimensions(plan)]
    if broken:
        return broken
    groups = [*_zero_group(plan)]
    if groups:
        plan = dataclasses.replace(plan, zero_group=None)
    world = [] if num_devices is None else [*_world(plan, num_devices)]
    found = [*_pipeline(plan, schedules), *_zero(plan), *groups, *_rank_order(plan), *world]
    if model is not None:
        found += [*_tensor(plan, model), *_layers(plan, model, stack.layer_split if stack else "even")]
        if stack is not None:
            found += _recompute_ops(plan, model, stack)
        found += _others(plan, {**model.extents, **(dict.fromkeys("STZ", batch.sequence_length) if batch else {})})
    if batch is not None:
        found += _sequence(plan, batch)
    if batch is not None and not world:  # with another number of replicas they get other micro batches
        found += _micro_batches(plan, batch, schedules)
    return found


def check(plan: Plan, model: ModelSpec, batch: Batch, num_devices: int, schedules: Schedules) -> None:
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
            return tuple(each for each in divisors(num_devices) if each <= max(1, model.num_layers))
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
    for field in POSITIVE:
        value = getattr(plan, field)
        if type(value) is not int or value < 1:
            yield PlanFault(field, f"{field} = {value!r} is not a positive whole number", "Legal: 1, 2, 3, ...")
    if plan.layers_per_stage is not None and any(type(each) is not int or each < 1 for each in plan.layers_per_stage):
        message = f"layers_per_stage = {_list(plan.layers_per_stage)}: every stage holds a positive whole number of layers"
        yield PlanFault("layers_per_stage", message, "Legal: 1, 2, 3, ... for each stage")


def _unknown_names(plan: Plan, schedules: Schedules) -> Iterator[PlanFault]:
    for field, known in (("schedule", schedules.names()), ("recompute", RECOMPUTE), ("gradient_sync", GRADIENT_SYNC)):
        value = getattr(plan, field)
        if value not in known and not (field == "schedule" and isinstance(value, tuple)):
            yield PlanFault(field, f"unknown {field} '{value}'{did_you_mean(str(value), known)}", f"Legal: {', '.join(known)}")


def _world(plan: Plan, num_devices: int) -> Iterator[PlanFault]:
    inner = plan.num_devices // plan.data_parallel
    others = {name: degree for name, degree in plan.dimensions if dimensions.DIMENSIONS.get(name).nesting is not None}
    names = " x ".join(("tensor_parallel", "pipeline_parallel", *others))
    factors = " x ".join(str(each) for each in (plan.tensor_parallel, plan.pipeline_parallel, *others.values()))
    if num_devices % inner:
        field = "tensor_parallel" if num_devices % plan.tensor_parallel else "pipeline_parallel"
        message = f"{names} = {factors} = {inner} does not divide the {num_devices} devices of the cluster"
        legal = divisors(num_devices if field == "tensor_parallel" else num_devices // plan.tensor_parallel)
        yield PlanFault(field, message, f"Legal {field}: {_list(legal)}")
    elif plan.num_devices != num_devices:
        message = (
            f"data_parallel x {names} = {plan.data_parallel} x {factors} = {plan.num_devices}, but the cluster has {num_devices} devices"
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


def _others(plan: Plan, extents: Mapping[str, int]) -> Iterator[PlanFault]:
    """A dimension without a field of its own divides what it shards; the micro_batch and the padded vocabulary are made to fit."""
    for name, degree in plan.dimensions:
        for dim in dimensions.DIMENSIONS.get(name).shards:
            parts = dimensions.split(plan, dim)
            if dim not in "BV" and extents.get(dim, 0) % parts:
                message = f"{name} = {degree} cuts {DIMS[dim]} = {extents[dim]} into {parts} parts, which do not divide it"
                yield PlanFault("dimensions", message, f"Legal {name}: with it, the parts are one of {_list(divisors(extents[dim]))}")


def _unknown_dimensions(plan: Plan) -> Iterator[PlanFault]:
    fields = {field.name for field in dataclasses.fields(Plan)}
    known = tuple(n for n in dimensions.names() if n not in fields and dimensions.DIMENSIONS.get(n).degree is None)
    for name, degree in plan.dimensions:
        if name not in known:
            remedy = f"Give {name} as a key of the plan" if name in fields else f"Known: {', '.join(known) or 'none'}"
            yield PlanFault("dimensions", f"unknown dimension '{name}'{did_you_mean(name, known)}", remedy)
        elif degree < 1:
            yield PlanFault("dimensions", f"{name} = {degree!r} is not a positive whole number", "Legal: 1, 2, 3, ...")


def _rank_order(plan: Plan) -> Iterator[PlanFault]:
    given, named = plan.rank_order.split("-"), ("dp", "pp", "tp")
    if len(set(given)) < len(given) or not set(named) <= set(given) <= set(dimensions.axes()):
        message = f"rank_order = '{plan.rank_order}' does not name each axis once, from the fastest"
        yield PlanFault("rank_order", message, f"Legal: {', '.join('-'.join(order) for order in itertools.permutations(named))}")


def _zero(plan: Plan) -> Iterator[PlanFault]:
    if plan.zero_stage not in ZERO_STAGES:
        yield PlanFault("zero_stage", f"zero_stage = {plan.zero_stage!r} is no stage of ZeRO", f"Legal: {_list(ZERO_STAGES)}")
    elif plan.zero_stage and plan.gradient_sync == "master":
        message = f"gradient_sync = master updates on one rank, but zero_stage = {plan.zero_stage} shares the update out"
        yield PlanFault("gradient_sync", message, "Set gradient_sync = all_reduce, or zero_stage = 0")
    if plan.reshard_after_forward or plan.zero_stage not in ZERO_STAGES:
        return
    if plan.zero_stage < 3:
        message = f"reshard_after_forward = false keeps parameters that ZeRO 3 gathers, but zero_stage = {plan.zero_stage}"
        yield PlanFault("reshard_after_forward", message, "Set zero_stage = 3, or leave reshard_after_forward out")
    elif plan.pipeline_parallel > 1 or plan.schedule != "1f1b":
        message = "reshard_after_forward = false keeps parameters from a forward to its backward, which must follow at once"
        remedy = "Set pipeline_parallel = 1 with schedule = 1f1b, or leave reshard_after_forward out"
        yield PlanFault("reshard_after_forward", message, remedy)


def _zero_group(plan: Plan) -> Iterator[PlanFault]:
    if plan.zero_group is None:
        return
    if type(plan.zero_group) is not int or plan.zero_group < 1 or plan.data_parallel % plan.zero_group:
        message = f"zero_group = {plan.zero_group!r} does not divide data_parallel = {plan.data_parallel}"
        yield PlanFault("zero_group", message, f"Legal: {_list(divisors(plan.data_parallel))}")
    elif not plan.zero_stage:
        yield PlanFault("zero_group", "zero_group says over how many ranks ZeRO shards, but zero_stage = 0", "Set zero_stage to 1, 2 or 3")


def _pipeline(plan: Plan, schedules: Schedules) -> Iterator[PlanFault]:
    ranks, chunks = plan.pipeline_parallel, plan.virtual_pipeline
    if chunks > 1 and ranks == 1:
        message = f"virtual_pipeline = {plan.virtual_pipeline} needs a pipeline, but pipeline_parallel = 1"
        yield PlanFault("virtual_pipeline", message, "Set pipeline_parallel above 1, or virtual_pipeline = 1")
    if (said := schedules.fault(plan.schedule, ranks, chunks)) is not None:
        others = f"Set schedule = {' or '.join(schedules.accepting(ranks, chunks))}" + (", or virtual_pipeline = 1" if chunks > 1 else "")
        yield PlanFault("schedule", said, others if isinstance(plan.schedule, str) else "")


def _recompute_ops(plan: Plan, model: ModelSpec, stack: Stack) -> Iterator[PlanFault]:
    """Ops that work in one buffer, in place, run again together or not at all."""
    if not plan.recompute_ops:
        return
    _, layer, _ = blocks_of(model.architecture, stack.attention, stack.fusions, model.tied_embedding)
    known = tuple(dict.fromkeys(name for op in layer.ops if op.kind != "relabel" for name in (op.name, op.tag) if name))
    for name in plan.recompute_ops:
        if name not in known:
            where = f'in a layer of model "{model.name}" on stack "{stack.name}"'
            yield PlanFault("recompute_ops", f"no op '{name}' {where}{did_you_mean(name, known)}", f"Known: {', '.join(known)}")
    if plan.recompute == "full":
        remedy = "Leave recompute_ops out, or set recompute to none"
        yield PlanFault("recompute_ops", "recompute = full runs every op again already", remedy)
    buffer: dict[str, str] = {}
    writers: dict[str, list[str]] = {}  # of each buffer
    for op in layer.ops:
        shares = op.in_place or op.kind == "relabel"
        for out in op.outputs:
            buffer[out] = buffer.get(op.inputs[0], op.inputs[0]) if shares and out == op.outputs[0] else out
        if op.kind != "relabel":
            writers.setdefault(buffer[op.outputs[0]], []).append(op.name)
    picked = {op.name for op in layer.ops if {op.name, op.tag} & set(plan.recompute_ops)}
    for names in writers.values():
        if 0 < len(picked & set(names)) < len(names):
            message = f"recompute_ops: {' and '.join(names)} work in one buffer, in place"
            yield PlanFault("recompute_ops", message, "Name all of them or none")


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
        message = (
            f"layers_per_stage has {len(layers)} entries that sum to {sum(layers)}, but there are {plan.num_stages} stages "
            f'(pipeline_parallel x virtual_pipeline) and {model.num_layers} layers in model "{model.name}"'
        )
        yield PlanFault("layers_per_stage", message, f"Give {plan.num_stages} numbers that sum to {model.num_layers}")


def _micro_batches(plan: Plan, batch: Batch, schedules: Schedules) -> Iterator[PlanFault]:
    replicas = dimensions.split(plan, "B")
    product = replicas * plan.micro_batch
    if batch.global_batch % product:
        replica = batch.global_batch % replicas == 0
        field = "micro_batch" if replica else "data_parallel"
        message = (
            f"data_parallel x micro_batch = {replicas} x {plan.micro_batch} = {product} does not divide global_batch = {batch.global_batch}"
        )
        legal = divisors(batch.global_batch // replicas) if replica else divisors(batch.global_batch)
        yield PlanFault(field, message, f"Legal {field}: {_list(legal)}")
        return
    ranks, chunks, count = plan.pipeline_parallel, plan.virtual_pipeline, plan.num_micro_batches(batch)
    actions = 2 * plan.num_stages * count
    if actions > MOST_ACTIONS:
        message = f"a step of {actions:,} forwards and backwards is above the {MOST_ACTIONS:,} that are predicted"
        yield PlanFault("micro_batch", message, f"Raise micro_batch (now {plan.micro_batch}), or lower global_batch")
        return
    said = schedules.fault(plan.schedule, ranks, chunks, count)
    if said is None or schedules.fault(plan.schedule, ranks, chunks) is not None:  # what is wrong with any number, _pipeline tells
        return
    if not isinstance(plan.schedule, str):
        yield PlanFault("schedule", said, "")
        return
    more = (each for each in range(count + 1, 2 * (count + ranks)) if schedules.fault(plan.schedule, ranks, chunks, each) is None)
    enough = next((f"Make global_batch {each * product}, or choose" for each in more), "Choose")
    yield PlanFault("virtual_pipeline" if chunks > 1 else "schedule", said, f"{enough} another micro_batch")


def _list(numbers: tuple[int, ...]) -> str:
    """The numbers with commas, the middle of a long row left out."""
    shown = [str(each) for each in numbers]
    return ", ".join(shown if len(shown) <= 16 else [*shown[:12], "...", *shown[-3:]])
