"""Which plans fit their model, batch and devices.  Nothing is rounded: an axis that does not divide is a fault naming what would.

Layers that the stages do not divide are legal, since the stack's layer_split rule says who holds the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from parsim import schedules
from parsim.arguments import hints_of, misfits_of
from parsim.cluster.cluster import DeviceRun
from parsim.errors import ParsimError, did_you_mean
from parsim.model.spec import ModelSpec
from parsim.parallel import dimensions, recomputation, server_faults, sharding_faults
from parsim.parallel.dimensions.context import kinds
from parsim.parallel.fault import PlanFault, comma_list, divisors
from parsim.parallel.local_faults import PERIOD, local_model, local_precision, local_sgd
from parsim.parallel.node_kinds import mixed_stages
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.parallel.plan import KEYS, MESH, Batch, Plan, Stack
from parsim.parallel.precision import FP8, RECIPES
from parsim.parallel.tuning_faults import adapter_parts, frozen_stages, packed_weights

POSITIVE: Final = tuple(name for name, key in KEYS.items() if key.type == "int" and not key.legal and key.least)
NOT_NEGATIVE: Final = tuple(name for name, key in KEYS.items() if not key.least)
DEGREES: Final = tuple(name for name in POSITIVE if not KEYS[name].auto)
NAMED: Final[Mapping[str, Collection[str]]] = {
    **{name: key.legal for name, key in KEYS.items() if key.type == "str" and key.legal},
    "optimizer": OPTIMIZERS,  # those that are there when it is asked
}
MOST_COUNTED: Final = 2**62  # what arrays of plans hold
MOST_ACTIONS: Final = 2_000_000  # of a pipeline in one step: some seconds to fold


class Facts(Struct, frozen=True):
    """What plans are checked against; None: not known, and what depends on it is left out."""

    model: ModelSpec | None = None
    batch: Batch | None = None
    num_devices: int | None = None
    stack: Stack | None = None
    peaks: Mapping[str, float] | None = None  # of the accelerator, by dtype
    runs: tuple[DeviceRun, ...] = ()  # of the devices, where they are not all alike


class Rule(Struct, frozen=True):
    """What a legal plan keeps to, and the fields that it reads: whoever checks many plans asks once for each combination of these."""

    name: str
    reads: tuple[str, ...]
    faults: Callable[[Plan, Facts], Iterable[PlanFault]]
    after: str = ""  # the rule without whose keeping this one says nothing


def faults(
    plan: Plan, model: ModelSpec | None, batch: Batch | None, num_devices: int | None, *, stack: Stack | None = None
) -> list[PlanFault]:
    """All the ways in which the plan does not fit these; an empty list for a legal one.

    >>> from parsim.model.transformer import TransformerSpec
    >>> tiny = TransformerSpec(
    ...     name="tiny", num_layers=4, hidden_size=8, ffn_hidden_size=32, num_heads=2,
    ...     num_kv_heads=2, head_dim=4, vocab_size=64, max_positions=16
    ... )
    >>> for fault in faults(Plan(tensor_parallel=4), tiny, Batch(8, 16), 4):
    ...     print(fault)
    tensor_parallel = 4 does not divide num_heads = 2 of model "tiny". Legal: 1, 2
    """
    return faults_of(plan, Facts(model, batch, num_devices, stack))


def faults_of(plan: Plan, facts: Facts) -> list[PlanFault]:
    """The same of all that is known.

    The stack's rule of layers may let an end stage hold none, and its kernels are the ops that recompute_ops names.
    """
    if broken := value_faults(plan):
        return broken
    groups = {name: [*own(plan)] for name, own in GROUPS.items()}
    no_groups: dict[str, Any] = {name: None for name, own in groups.items() if own}
    meant = replace(plan, **no_groups)
    found: dict[str, list[PlanFault]] = {}
    for rule in RULES:
        told = found.get(rule.after)
        found[rule.name] = groups[rule.name] if rule.name in groups else [] if told else [*rule.faults(meant, facts)]
    return [fault for own in found.values() for fault in own]


def type_faults(plan: Plan) -> list[PlanFault]:
    """The values that are not of the types of their fields."""
    hints = hints_of(Plan)
    stated = {name: value for name, key in KEYS.items() if (value := getattr(plan, name)) is not key.default}
    large = (f"{name} = {value} is beyond all counts" for name, value in stated.items() if isinstance(value, int) and value >= MOST_COUNTED)
    wrong = [PlanFault(name, said, "") for name, value in stated.items() for said in misfits_of(name, value, hints[name])]
    return wrong or [PlanFault(said.split()[0], said, "") for said in large]


def value_faults(plan: Plan) -> list[PlanFault]:
    """What is wrong with single values: their types, and, where these are right, what else the value of a field must be."""
    wrong = type_faults(plan)
    meant = replace(plan, **{each.field: KEYS[each.field].default for each in wrong}) if wrong else plan
    return [*wrong, *(fault for rule in VALUES for fault in rule.faults(meant, Facts()))]


def legal_degrees(axis: str, model: ModelSpec, batch: Batch, num_devices: int) -> tuple[int, ...]:
    """The values of `axis`, ascending, that fit by themselves; together with other axes they may still not fit.

    Raises:
        ParsimError: the axis has no degrees.

    >>> from parsim.model.transformer import TransformerSpec
    >>> tiny = TransformerSpec(
    ...     name="tiny", num_layers=4, hidden_size=8, ffn_hidden_size=32, num_heads=2,
    ...     num_kv_heads=2, head_dim=4, vocab_size=64, max_positions=16
    ... )
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
        case "context_parallel":
            return divisors(math.gcd(num_devices, batch.sequence_length))
        case "micro_batch":
            return divisors(batch.global_batch)
        case "expert_parallel" | "expert_tensor_parallel":
            parts = model.extents.get("E" if axis == "expert_parallel" else "J", 1)
            return divisors(math.gcd(parts, num_devices))
    raise ParsimError(f"'{axis}' has no degrees{did_you_mean(axis, DEGREES)}", remedy=f"Axes with degrees: {', '.join(DEGREES)}.")


def _not_positive(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    for field in POSITIVE:
        value = getattr(plan, field)
        if value < 1:
            yield PlanFault(field, f"{field} = {value} is not a positive whole number", "Legal: 1, 2, 3, ...")
    for field in NOT_NEGATIVE:
        if (value := getattr(plan, field)) is not None and value < 0:
            yield PlanFault(field, f"{field} = {value} is below 0", "Legal: 0, 1, 2, ...")
    if plan.layers_per_stage is not None and any(each < 1 for each in plan.layers_per_stage):
        message = f"layers_per_stage = {comma_list(plan.layers_per_stage)}: every stage holds a positive whole number of layers"
        yield PlanFault("layers_per_stage", message, "Legal: 1, 2, 3, ... for each stage")


def _unknown_names(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    precisions = (FP8, *RECIPES)
    for field, known in (("schedule", schedules.names()), ("context_kind", kinds()), ("precision", precisions), *NAMED.items()):
        value = getattr(plan, field)
        if value is not None and value not in known and not (field == "schedule" and isinstance(value, tuple)):
            yield PlanFault(field, f"unknown {field} '{value}'{did_you_mean(value, known)}", f"Legal: {', '.join(known)}")


def _world(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    if (num_devices := facts.num_devices) is None:
        return
    inner = plan.num_devices // plan.data_parallel
    known = {name: dimensions.DIMENSIONS.get(name) for name, _ in plan.dimensions}
    numbered = {name for name, each in known.items() if each.nesting is not None and each.view != dimensions.EXPERT}
    others = {name: degree for name, degree in plan.dimensions if name in numbered}
    if plan.context_parallel > 1:
        others = {"context_parallel": plan.context_parallel, **others}
    names = " x ".join(("tensor_parallel", "pipeline_parallel", *others))
    factors = " x ".join(str(each) for each in (plan.tensor_parallel, plan.pipeline_parallel, *others.values()))
    if num_devices % inner:
        degrees = {"tensor_parallel": plan.tensor_parallel, "pipeline_parallel": plan.pipeline_parallel, **others}
        room, each = num_devices, iter(degrees)
        while room % degrees[field := next(each)] == 0:
            room //= degrees[field]
        message = f"{names} = {factors} = {inner} does not divide the {num_devices} devices of the cluster"
        yield PlanFault(field if field in KEYS else "dimensions", message, f"Legal {field}: {comma_list(divisors(room))}")
    elif plan.num_devices != num_devices:
        asked = f"data_parallel x {names} = {plan.data_parallel} x {factors} = {plan.num_devices}"
        message = f"{asked}, but the cluster has {num_devices} devices"
        yield PlanFault("data_parallel", message, f"Set data_parallel = {num_devices // inner}, or leave it out")


def _kinds_of_node(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    return mixed_stages(plan, facts.runs) if facts.num_devices in (None, plan.num_devices) else iter(())


def _chunks(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    if plan.virtual_pipeline > 1 and plan.pipeline_parallel == 1:
        message = f"virtual_pipeline = {plan.virtual_pipeline} needs a pipeline, but pipeline_parallel = 1"
        yield PlanFault("virtual_pipeline", message, "Set pipeline_parallel above 1, or virtual_pipeline = 1")


def _pipeline(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
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
    product = dimensions.split(plan, "B") * plan.micro_batch * plan.num_copies
    enough = next((f"Make global_batch {each * product}, or choose" for each in more), "Choose")
    return PlanFault("virtual_pipeline" if chunks > 1 else "schedule", said, f"{enough} another micro_batch")


def _layers(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    if (model := facts.model) is None:
        return
    layer_split = facts.stack.layer_split if facts.stack else "even"
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
        stages = "there is 1 stage" if plan.num_stages == 1 else f"there are {plan.num_stages} stages"
        message = f'{given}, but {stages} (pipeline_parallel x virtual_pipeline) and {model.num_layers} layers in model "{model.name}"'
        remedy = f"Give {plan.num_stages} numbers that sum to {model.num_layers}" if plan.num_stages > 1 else "Leave it out"
        yield PlanFault("layers_per_stage", message, remedy)


def _frozen_stages(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    if facts.model is not None:
        yield from frozen_stages(plan, facts.model, facts.stack)


def _micro_batches(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    if (batch := facts.batch) is None:
        return
    copies = plan.num_copies
    batch_cut = Plan(data_parallel=plan.data_parallel, dimensions=plan.dimensions)  # by no other field: many plans ask, and few lie apart
    replicas = dimensions.split(batch_cut, "B") * copies
    product = replicas * plan.micro_batch
    if batch.global_batch % product:
        replica = batch.global_batch % replicas == 0
        field = "micro_batch" if replica else "data_parallel"
        what, numbers = ["data_parallel", "micro_batch"], [replicas // copies, plan.micro_batch]
        if copies > 1:
            what, numbers = [*what, f"copies of the model ({plan.schedule})"], [*numbers, copies]
        asked = f"{' x '.join(what)} = {' x '.join(map(str, numbers))} = {product}"
        remedy = f"Legal {field}: {comma_list(divisors(batch.global_batch // (replicas if replica else copies)))}"
        if batch.global_batch % copies:
            field, remedy = "schedule", f"Make global_batch a multiple of {product}, or choose another schedule"
        yield PlanFault(field, f"{asked} does not divide global_batch = {batch.global_batch}", remedy)
        return
    count = batch.global_batch // product
    actions = 2 * plan.num_stages * count
    if actions > MOST_ACTIONS:
        message = f"a step of {actions:,} forwards and backwards is above the {MOST_ACTIONS:,} that are predicted"
        yield PlanFault("micro_batch", message, f"Raise micro_batch (now {plan.micro_batch}), or lower global_batch")
    elif schedules.fault(plan.schedule, plan.pipeline_parallel, plan.virtual_pipeline, count) is None:
        return
    elif not schedule_fault(plan) and (fault := schedule_fault(plan, batch)):  # what is wrong with any number, _pipeline tells
        yield fault


def _others(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    if facts.model is not None:
        yield from sharding_faults.others(plan, facts.model, facts.batch)


def _recompute_faults(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    if facts.model is not None and facts.stack is not None:
        yield from recomputation.faults(plan, facts.model, facts.stack)


def _context(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    yield from sharding_faults.context(plan, facts.model, facts.batch, facts.stack)


def _tokens(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    if facts.model is not None and facts.batch is not None:
        yield from sharding_faults.tokens(plan, facts.model, facts.batch)


def _optimizer(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    return sharding_faults.optimizer(plan, facts.batch)


def _precision(plan: Plan, facts: Facts) -> Iterator[PlanFault]:
    if plan.precision is None or facts.peaks is None:
        return
    name = facts.stack.precision(plan.precision) if facts.stack else plan.precision
    if name in RECIPES and (missing := RECIPES[name].without_peak(facts.peaks)):
        legal = [each for each, recipe in RECIPES.items() if not recipe.without_peak(facts.peaks)]
        message = f"precision = {plan.precision} multiplies {missing}, for which the accelerator has no peak"
        yield PlanFault("precision", message, f"Legal: {', '.join(legal)}")


def _of_plan(found: Callable[[Plan], Iterable[PlanFault]]) -> Callable[[Plan, Facts], Iterable[PlanFault]]:
    return lambda plan, facts: found(plan)


def _of_model(found: Callable[[Plan, ModelSpec], Iterable[PlanFault]]) -> Callable[[Plan, Facts], Iterable[PlanFault]]:
    return lambda plan, facts: () if facts.model is None else found(plan, facts.model)


def _of_batch(found: Callable[[Plan, Batch], Iterable[PlanFault]]) -> Callable[[Plan, Facts], Iterable[PlanFault]]:
    return lambda plan, facts: () if facts.batch is None else found(plan, facts.batch)


_PIPELINE: Final = ("pipeline_parallel", "virtual_pipeline", "schedule")
_BATCH: Final = ("data_parallel", "dimensions", "micro_batch", *_PIPELINE)
_APART: Final = (
    "gradient_sync",
    *PERIOD,
    "data_parallel",
    "zero_group",
    "zero_stage",
    "optimizer",
    "optimizer_in_backward",
    "offload_optimizer",
)
_EXPERTS: Final = ("expert_parallel", "expert_tensor_parallel", "tensor_parallel", "sequence_parallel")
_AGAIN: Final = ("recompute", "recompute_modules", "recompute_ops")
_PAIRED: Final = ("zero_stage", "optimizer_in_backward", "recompute", "recompute_modules")
# A legal group changes no number of ranks.
_DEVICES: Final = ("data_parallel", "tensor_parallel", "pipeline_parallel", "context_parallel", "dimensions")
# Of each key that says how many ranks form a group, what is wrong with it: other rules are asked without a group that is no divisor.
GROUPS: Final = {"zero_group": sharding_faults.zero_group, "context_group": sharding_faults.context_group}
# Rules of single values, and those of values together, which a plan whose values are legal is asked.
VALUES: Final = (
    Rule("positive numbers", (*POSITIVE, *NOT_NEGATIVE, "layers_per_stage"), _not_positive),
    Rule("names", ("schedule", "context_kind", "precision", *NAMED), _unknown_names),
    Rule("dimensions", ("dimensions",), _of_plan(sharding_faults.unknown_dimensions)),
)
RULES: Final = (
    Rule("virtual pipeline", _PIPELINE[:2], _chunks),
    Rule("pipeline", _PIPELINE, _pipeline),
    Rule("ZeRO", ("zero_stage", "gradient_sync", "reshard_after_forward", "pipeline_parallel", "schedule"), _of_plan(sharding_faults.zero)),
    Rule("parameter servers", server_faults.READS, _of_plan(server_faults.servers)),
    Rule("pairs", ("schedule", "virtual_pipeline", "expert_parallel", *_PAIRED), _of_plan(sharding_faults.pairs)),
    Rule("zero_group", ("zero_group", "data_parallel", "zero_stage", "gradient_sync"), _of_plan(sharding_faults.zero_group)),
    Rule("context_group", ("context_group", "context_parallel", "context_kind"), _of_plan(sharding_faults.context_group)),
    Rule("rank order", ("rank_order",), _of_plan(sharding_faults.rank_order)),
    Rule("devices", _DEVICES, _world),
    Rule("kinds of node", (*MESH, "rank_order", "offload_optimizer", "optimizer"), _kinds_of_node, after="rank order"),
    Rule("local SGD", (*_APART, "expert_parallel", "expert_tensor_parallel"), _of_plan(local_sgd)),
    Rule("local SGD of experts", ("gradient_sync",), _of_model(local_model)),
    Rule("local SGD in 8 bits", ("gradient_sync", "precision"), _of_batch(local_precision)),
    Rule("experts", (*MESH, "rank_order", "gradient_sync"), _of_plan(sharding_faults.views)),
    Rule("recomputed layers", (*_AGAIN, "recompute_every"), _of_plan(recomputation.every_faults)),
    Rule("optimizer", ("optimizer", "optimizer_in_backward", "offload_optimizer", "gradient_sync", *_BATCH), _optimizer, after="devices"),
    Rule("precision", ("precision",), _precision),
    Rule("tensor parallelism", ("tensor_parallel",), _of_model(sharding_faults.tensor)),
    Rule("adapters", ("tensor_parallel", "expert_tensor_parallel"), _of_model(adapter_parts)),
    Rule("quantized weights", ("zero_stage", "precision"), _of_model(packed_weights)),
    Rule("steered experts", ("gradient_sync",), _of_model(server_faults.steered_experts)),
    Rule("layers", ("pipeline_parallel", "virtual_pipeline", "layers_per_stage"), _layers),
    Rule("frozen stages", ("pipeline_parallel", "virtual_pipeline", "layers_per_stage"), _frozen_stages, after="layers"),
    Rule("recomputed ops", _AGAIN, _recompute_faults),
    Rule("other dimensions", MESH, _others),
    Rule("context parallelism", MESH, _context),
    Rule("sequence parallelism", ("sequence_parallel", "tensor_parallel"), _of_batch(sharding_faults.sequence)),
    Rule("encoder", (*_PIPELINE, *MESH), _of_model(sharding_faults.encoder), after="pipeline"),
    Rule("whole sequences", ("context_parallel",), _of_model(sharding_faults.whole_sequences)),
    Rule("expert parallelism", _EXPERTS, _of_model(sharding_faults.experts)),
    Rule("tokens", (*MESH, "micro_batch"), _tokens),
    Rule("micro_batches", _BATCH, _micro_batches, after="devices"),
)
