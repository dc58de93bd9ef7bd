"""Faults of how tensors are cut, and kept: one function a subject, each with what would do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from parsim import schedules
from parsim.errors import did_you_mean
from parsim.model.dims import CUT_UNITS, DIMS, FULL, SEQUENCE, TOKEN_DIMS
from parsim.model.spec import ModelSpec
from parsim.parallel import dimensions
from parsim.parallel.dimensions.context import has_groups, kinds
from parsim.parallel.fault import PlanFault, comma_list, divisors
from parsim.parallel.mesh import fastest_first
from parsim.parallel.optimizer import LOCAL_SGD, OPTIMIZERS
from parsim.parallel.plan import KEYS, Batch, Plan, Stack

ZERO_STAGES: Final = KEYS["zero_stage"].legal


_OF_TOWERS: Final = (("vision_heads", "Ki"), ("vision_ffn_hidden_size", "Fi"), ("projector_hidden_size", "Fp"))
_OF_CHAINS: Final = tuple(("a width among units", dim) for dim in CUT_UNITS)


def tensor(plan: Plan, model: ModelSpec) -> Iterator[PlanFault]:
    """tensor_parallel divides the widths of what all tokens pass and, where there are any, kv heads; above these, the query heads."""
    degree, kv_heads = plan.tensor_parallel, model.extents.get("K", 0)
    heads, of_full = kv_heads * model.extents.get("R", 0), model.extents.get(FULL["K"], kv_heads)
    if kv_heads != of_full and (of_full % degree or kv_heads % degree):
        both = f"full_kv_heads = {of_full} and num_kv_heads = {kv_heads}"
        message = f'tensor_parallel = {degree} does not divide both {both} of model "{model.name}"'
        yield PlanFault(
            "tensor_parallel", message, f"Legal: {comma_list(divisors(tensor_parts(model)))}: no kv head is copied of two kinds"
        )
        return
    known = (("ffn_hidden_size", "F"), ("shared_ffn_hidden_size", "L"), ("mamba_groups", "g"), *_OF_TOWERS, *_OF_CHAINS)
    widths = [(name, model.extents[dim]) for name, dim in known if dim in model.extents]
    if not heads and not widths:
        if degree > 1:
            message = f'tensor_parallel = {degree}, but model "{model.name}" has one layer, that of its labels, which is not split'
            yield PlanFault("tensor_parallel", message, "Legal: 1")
        return
    legal = tuple(
        each for each in divisors(math.gcd(heads, *(extent for _, extent in widths))) if not (kv_heads % each and each % kv_heads)
    )
    if degree in legal:
        return
    name, extent = next(((name, extent) for name, extent in widths if extent % degree), ("", 0))
    if kv_heads % degree and (degree % kv_heads or heads % degree):
        name, extent = ("num_kv_heads", kv_heads) if degree % kv_heads else ("num_heads", heads)
    copied = f" (above {kv_heads}, kv heads are replicated)" if kv_heads and legal[-1] > kv_heads else ""
    message = f'tensor_parallel = {degree} does not divide {name} = {extent} of model "{model.name}"'
    yield PlanFault("tensor_parallel", message, f"Legal: {comma_list(legal)}{copied}")


def tensor_parts(model: ModelSpec) -> int:
    """The most parts that tensor parallelism can cut a layer into without a copy of a kv head; any divisor will do, too."""
    known = (*"KFLg", FULL["K"], *(dim for _, dim in (*_OF_TOWERS, *_OF_CHAINS)))
    return math.gcd(*(model.extents.get(dim, 0) for dim in known)) or 1


def experts(plan: Plan, model: ModelSpec) -> Iterator[PlanFault]:
    """Experts are there to be split, and their ranks divide them; the ranks of a layer do not all do the same."""
    for name, dim, what in (("expert_parallel", "E", "num_experts"), ("expert_tensor_parallel", "J", "expert_ffn_hidden_size")):
        degree, extent = getattr(plan, name), model.extents.get(dim, 0)
        if degree > 1 and not extent:
            yield PlanFault(name, f'{name} = {degree} splits experts, which model "{model.name}" does not have', f"Leave {name} out")
        elif extent % degree:
            message = f'{name} = {degree} does not divide {what} = {extent} of model "{model.name}"'
            yield PlanFault(name, message, f"Legal: {comma_list(divisors(extent))}")
    if (
        plan.expert_tensor_parallel > 1 and "E" in model.extents and model.architecture.biases_mlp
    ):  # as Megatron Core, transformer_config.py
        message = f'expert_tensor_parallel = {plan.expert_tensor_parallel} cuts experts of model "{model.name}", which have biases'
        yield PlanFault("expert_tensor_parallel", message, "Set expert_tensor_parallel = 1, and expert_parallel instead")
    alone = plan.expert_parallel * plan.expert_tensor_parallel == 1 and not plan.sequence_parallel
    if plan.tensor_parallel > 1 and alone and "E" in model.extents:
        message = f"all {plan.tensor_parallel} tensor-parallel ranks would send all their tokens through all experts"
        remedy = f"Set sequence_parallel = true, expert_parallel, or expert_tensor_parallel = {plan.tensor_parallel}"
        yield PlanFault("expert_tensor_parallel", message, remedy)


def sequence(plan: Plan, batch: Batch) -> Iterator[PlanFault]:
    """sequence_parallel needs tensor-parallel ranks that divide the sequence."""
    if not plan.sequence_parallel:
        return
    if plan.tensor_parallel == 1:
        message = "sequence_parallel splits over the tensor-parallel ranks, but tensor_parallel = 1"
        yield PlanFault("sequence_parallel", message, "Set tensor_parallel above 1, or sequence_parallel to false")
        return
    for name in ("sequence_length", "source_length"):
        if (length := getattr(batch, name)) % plan.tensor_parallel:
            message = f"sequence_parallel: tensor_parallel = {plan.tensor_parallel} does not divide {name} = {length}"
            yield PlanFault("sequence_parallel", message, f"Legal tensor_parallel: {comma_list(divisors(length))}")


def encoder(plan: Plan, model: ModelSpec) -> Iterator[PlanFault]:
    """What all layers of a decoder read, the memory, goes from rank to rank with the stream, and with it biases of scores."""
    if not model.has_encoder:
        return
    if "e" in model.extents and _cuts_biases(plan):
        message = f'context_kind = {plan.context_kind} cuts keys or heads of attention, to whose scores model "{model.name}" adds biases'
        whole = [name for name in kinds() if not _cuts_biases(replace(plan, context_kind=name, context_group=None))]
        yield PlanFault("context_kind", f"{message} (positions = relative): that is not built", f"Legal: {', '.join(whole)}")
    if lays := _lays_together(plan.schedule, plan.pipeline_parallel, plan.num_stages):
        message = f"schedule = {plan.schedule} {lays}, which is not built where all stages behind it read what an encoder makes"
        named = schedules.names_for(plan.pipeline_parallel, plan.virtual_pipeline)
        apart = [name for name in named if not _lays_together(name, plan.pipeline_parallel, plan.num_stages)]
        legal = [name for name in apart if not schedules.find(name, plan.pipeline_parallel).needs_experts]
        yield PlanFault("schedule", message, f"Legal: {', '.join(legal)}")


def _cuts_biases(plan: Plan) -> bool:
    return dimensions.split(plan, "Z") > 1 or dimensions.split(plan, "A") > dimensions.split(plan, "K")


def _lays_together(schedule: str | tuple[str, ...], ranks: int, num_stages: int) -> str:
    """How a schedule lays two stages on one rank between which nothing is sent; "" if it does not."""
    found = schedules.find(schedule, ranks)
    home = [found.rank_of(stage, ranks) for stage in range(num_stages)]
    follows = any(one == other for one, other in itertools.pairwise(home))
    return "holds the model twice" if found.num_copies > 1 else "lays stages that follow one another on one rank" if follows else ""


def whole_sequences(plan: Plan, model: ModelSpec) -> Iterator[PlanFault]:
    """What goes through all tokens stays on a rank."""
    if model.whole_because and plan.context_parallel > 1:
        said = f'context_parallel = {plan.context_parallel} cuts sequences of model "{model.name}"'
        message = f"{said}, {model.whole_because}: that is not built"
        yield PlanFault("context_parallel", message, "Set context_parallel = 1; data, tensor, sequence and pipeline parallelism are built")


def context_group(plan: Plan) -> Iterator[PlanFault]:
    """context_group divides the ranks of a sequence into several groups of several, where the kind of context parallelism has groups."""
    group, degree, kind = plan.context_group, plan.context_parallel, plan.context_kind
    nested = [name for name in kinds() if has_groups(name)]
    if kind not in nested:
        if group is not None:
            message = f"context_group = {group} forms groups of ranks, which context_kind = {kind} does not have"
            yield PlanFault("context_group", message, f"Leave context_group out, or set context_kind = {' or '.join(nested)}")
        return
    legal = divisors(degree)[1:-1]
    if degree > 1 and group not in legal:
        stated = f"context_group = {group} does not cut" if group is not None else "there is no context_group, to cut"
        message = f"context_kind = {kind}: {stated} context_parallel = {degree} into several groups of several ranks"
        alone = f"None divides {degree}: choose another context_kind"
        yield PlanFault("context_group", message, f"Legal: {comma_list(legal)}" if legal else alone)
    elif degree == 1 and group is not None:
        yield PlanFault("context_group", f"context_group = {group} forms groups of ranks, but context_parallel = 1", "Leave it out")


def context(plan: Plan, model: ModelSpec | None, batch: Batch | None, stack: Stack | None) -> Iterator[PlanFault]:
    """context_parallel cuts each sequence into equal chunks, and heads that attention has, where it cuts these."""
    if plan.context_parallel == 1:
        return
    degree, kind, inner = plan.context_parallel, plan.context_kind, plan.tensor_parallel
    heads, kv_heads = dimensions.split(plan, "A"), model.extents.get("A", 0) if model else 0
    of_full = model.extents.get(FULL["A"], kv_heads) if model else 0
    held = math.gcd(*(max(1, each // inner) for each in (kv_heads, of_full)))  # of kv heads, by a rank
    if model and kv_heads and held % (heads // inner):
        message = f'context_kind = {kind} cuts the {kv_heads} kv heads of model "{model.name}" into {heads} parts'
        yield PlanFault("context_parallel", message, f"Legal context_parallel: {comma_list(divisors(held))}; or another context_kind")
    if stack and stack.attention in ("unfused", "fused_softmax") and dimensions.split(plan, "Z") > 1 and kv_heads:
        message = f"context_kind = {kind} merges what attention makes of one block of keys after another, which takes flash attention"
        yield PlanFault("context_kind", message, "Choose another context_kind, or a stack with attention = flash")
    num_chunks = len(dimensions.chunks(plan)) or degree
    parts = math.lcm(num_chunks, dimensions.split(plan, "T"))
    if batch and batch.sequence_length % parts:
        tokens = f"context_parallel = {degree} cuts a sequence into {num_chunks} chunks"
        finer = "sequence_parallel" if plan.sequence_parallel else "context_group"
        cut = f", and {finer} into {dimensions.split(plan, 'T')} parts" if parts > num_chunks else ""
        message = f"{tokens}{cut}, which do not divide sequence_length = {batch.sequence_length}"
        yield PlanFault("context_parallel", message, f"Make sequence_length a multiple of {parts}, or lower context_parallel")
    elif batch and model and model.has_encoder and batch.source % (parts := dimensions.split(plan, "t")):
        message = f"context_parallel = {degree} cuts a source into {parts} parts, which do not divide source_length = {batch.source}"
        yield PlanFault("context_parallel", message, f"Make source_length a multiple of {parts}, or lower context_parallel")
    elif batch and stack and stack.loss_chunks > 1 and batch.sequence_length % (parts := stack.loss_chunks * dimensions.split(plan, "s")):
        message = f"context_parallel = {degree} leaves a rank no whole tokens of each of {stack.loss_chunks} loss_chunks"
        yield PlanFault("context_parallel", message, f"Make sequence_length a multiple of {parts}, or lower loss_chunks of the stack")


def others(plan: Plan, model: ModelSpec, batch: Batch | None) -> Iterator[PlanFault]:
    """A dimension without a field of its own divides what it shards, and the model has some of that; the micro_batch and the padded
    vocabulary are made to fit.

    One with a table shares out any extent.
    """
    extents = {**model.extents, **(dict.fromkeys(SEQUENCE, batch.sequence_length) if batch else {})}
    for name, degree in plan.dimensions:
        dimension = dimensions.DIMENSIONS.get(name)
        if degree > 1 and not TOKEN_DIMS.union(extents).intersection(dimension.shards):
            lacking = " and ".join(DIMS[dim] for dim in dimension.shards)
            message = f'{name} = {degree} splits {lacking}, which model "{model.name}" does not have'
            yield PlanFault("dimensions", message, f"Leave {name} out")
        for dim in () if dimension.share else dimension.shards:
            parts = dimensions.split(plan, dim)
            if dim not in "BMGV" and extents.get(dim, 0) % parts:
                message = f"{name} = {degree} cuts {DIMS[dim]} = {extents[dim]} into {parts} parts, which do not divide it"
                yield PlanFault("dimensions", message, f"Legal {name}: with it, the parts are one of {comma_list(divisors(extents[dim]))}")


def views(plan: Plan) -> Iterator[PlanFault]:
    """Dimensions of the expert view take all ranks of a stage, which lie side by side, and each of those updates what it holds."""
    found = dimensions.degrees(plan)
    experts, dense = (dimensions.axes_of(view) for view in (dimensions.EXPERT, dimensions.DENSE))
    ranks = math.prod(found[axis] for axis in dense)
    named, every = dict(plan.dimensions), dimensions.all_dimensions()
    own = [each for each in every if each.axis in experts and each.nesting is not None and not each.fills]
    asked = {each.name: found[each.axis] for each in own if found[each.axis] > 1 or each.name in named}
    if not asked:
        return
    fills = [each.name for each in every if each.fills]
    if len(fills) > 1:
        message = f"{' and '.join(fills)} each take all the ranks of a stage that other dimensions of experts leave"
        yield PlanFault("dimensions", message, "Register one of them")
        return
    if math.prod(found[axis] for axis in experts) != ranks:
        said, legal = ("does not divide", divisors(ranks)) if fills else ("is not", (ranks,))
        message = f"{' x '.join(asked)} = {' x '.join(map(str, asked.values()))} {said} the {ranks} ranks of a stage"
        yield PlanFault(next((name for name in asked if name in KEYS), "dimensions"), message, f"Legal products: {comma_list(legal)}")
    order = [] if [*rank_order(plan)] else [axis for axis in fastest_first(plan.rank_order) if found[axis] > 1]
    places = [place for place, axis in enumerate(order) if axis in dense]
    if places and len(places) <= places[-1] - places[0]:
        between = next(axis for axis in order[places[0] :] if axis not in dense)
        beside = f"which lie side by side where there is {' or '.join(asked)}"
        message = f"rank_order = '{plan.rank_order}' puts {between} between the ranks of a stage, {beside}"
        yield PlanFault("rank_order", message, f"Name {between} first or last")
    if plan.gradient_sync == "master":
        message = f"gradient_sync = master updates all weights on one rank, which holds a part of the experts with {' and '.join(asked)}"
        yield PlanFault("gradient_sync", message, "Set gradient_sync = all_reduce")


def tokens(plan: Plan, model: ModelSpec, batch: Batch) -> Iterator[PlanFault]:
    """The tokens of a micro_batch are shared out in whole runs: to the parts of a sequence, and to all ranks where experts have a view."""
    found, run = dimensions.degrees(plan), model.run_length(batch.sequence_length)
    view = [axis for axis in dimensions.axes_of(dimensions.EXPERT) if found[axis] > 1]
    if not view and run == 1:
        return
    pieces = len(dimensions.chunks(plan)) or 1  # that lie apart on the ranks of context parallelism
    parts, runs = math.lcm(pieces, dimensions.split(plan, "T")), f"runs of {run} tokens (the least that experts share)"
    if batch.sequence_length % parts == 0 and batch.sequence_length // parts % run:
        message = f"the {parts} parts of a sequence of {batch.sequence_length} tokens are no {runs}"
        enough = parts * run
        while enough // parts % model.run_length(enough):  # a longer sequence may have longer runs
            enough *= 2
        field, off = ("sequence_parallel", "false") if plan.sequence_parallel else ("context_parallel", "1")
        yield PlanFault(field, message, f"Make sequence_length a multiple of {enough}, or {field} {off}")
        return
    over = dimensions.rules(dimensions.switched_on(plan)).get("M", ())
    around = set(over) & set(dimensions.axes_of(dimensions.OUTSIDE))
    ranks = math.prod(found[axis] for axis in (dimensions.axes_of(dimensions.DENSE) if view else set(over) - around))
    count = plan.micro_batch * batch.sequence_length * dimensions.split(plan, "B") // math.prod(found[axis] for axis in around) // run
    if count % ranks:
        what = f"{count} tokens" if run == 1 else f"{count} {runs}"
        message = f"the {ranks} ranks of a stage do not share out {what}, which they have of a micro_batch, evenly to experts"
        yield PlanFault("micro_batch", message, f"Make micro_batch a multiple of {plan.micro_batch * ranks // math.gcd(count, ranks)}")


def unknown_dimensions(plan: Plan) -> Iterator[PlanFault]:
    """`dimensions` names such as have no key of their own."""
    free = (each for name in dimensions.names() if (each := dimensions.DIMENSIONS.get(name)).degree is None and not each.fills)
    known = tuple(each.name for each in free if each.name not in KEYS)
    for name, degree in plan.dimensions:
        if name not in known:
            remedy = f"Give {name} as a key of the plan" if name in KEYS else f"Known: {', '.join(known) or 'none'}"
            yield PlanFault("dimensions", f"unknown dimension '{name}'{did_you_mean(name, known)}", remedy)
        elif degree < 1:
            yield PlanFault("dimensions", f"{name} = {degree} is not a positive whole number", "Legal: 1, 2, 3, ...")
    if len(dict(plan.dimensions)) < len(plan.dimensions):
        yield PlanFault("dimensions", f"dimensions = {plan.dimensions} names one twice", "Give each one degree")


def rank_order(plan: Plan) -> Iterator[PlanFault]:
    """rank_order names each axis once; one that nests in another may be left out."""
    given, named = plan.rank_order.split("-"), ("dp", "pp", "tp")
    known = set(dimensions.axes()) - set(dimensions.axes_of(dimensions.EXPERT))  # which have the order of their own view
    if len(set(given)) < len(given) or not set(named) <= set(given) <= known:
        message = f"rank_order = '{plan.rank_order}' does not name each axis once, from the fastest"
        yield PlanFault("rank_order", message, f"Legal: {', '.join('-'.join(order) for order in itertools.permutations(named))}")


def zero(plan: Plan) -> Iterator[PlanFault]:
    """The ZeRO stage, and what goes with it."""
    if plan.zero_stage not in ZERO_STAGES:
        yield PlanFault("zero_stage", f"zero_stage = {plan.zero_stage} is no stage of ZeRO", f"Legal: {comma_list(ZERO_STAGES)}")
    elif plan.zero_stage and plan.gradient_sync == "master":
        message = f"gradient_sync = master updates on one rank, but zero_stage = {plan.zero_stage} shares the update out"
        yield PlanFault("gradient_sync", message, "Set gradient_sync = all_reduce, or zero_stage = 0")
    if plan.reshard_after_forward is not False or plan.zero_stage not in ZERO_STAGES:
        return
    if plan.zero_stage < 3:
        message = f"reshard_after_forward = false keeps parameters that ZeRO 3 gathers, but zero_stage = {plan.zero_stage}"
        yield PlanFault("reshard_after_forward", message, "Set zero_stage = 3, or leave reshard_after_forward out")
    elif plan.pipeline_parallel == 1 and plan.schedule != "1f1b":
        message = "reshard_after_forward = false keeps parameters from a forward to its backward, which must follow at once"
        yield PlanFault("reshard_after_forward", message, "Set schedule = 1f1b, or leave reshard_after_forward out")


def pairs(plan: Plan) -> Iterator[PlanFault]:
    """What a schedule does not hide the exchanges of experts of.

    Source: NVIDIA/Megatron-LM@d98e8a64, megatron/core/transformer/transformer_config.py (overlap_moe_expert_parallel_comm).
    """
    if not isinstance(plan.schedule, str) or not schedules.find(plan.schedule, 1).needs_experts:
        return
    usual = f"schedule = {schedules.default(plan.virtual_pipeline)}"
    if plan.expert_parallel == 1:
        message = f"schedule '{plan.schedule}' hides exchanges of experts behind another micro batch, but expert_parallel = 1"
        yield PlanFault("schedule", message, f"Set expert_parallel above 1, or {usual}")
    others = {"zero_stage": plan.zero_stage > 1, "optimizer_in_backward": plan.optimizer_in_backward}
    for field in (name for name, runs in others.items() if runs):
        message = f"schedule '{plan.schedule}' runs two micro batches at once, which passes with {field} = {getattr(plan, field)} do not"
        yield PlanFault(field, message, f"Set {field} = {1 if field == 'zero_stage' else 'false'}, or {usual}")
    if plan.recompute == "full" or "moe" in plan.recompute_modules:
        message = f"schedule '{plan.schedule}' hides exchanges of experts that run once, but what is recomputed exchanges again"
        yield PlanFault("recompute", message, f"Recompute no exchanges, or set {usual}")


def keeps_parameters(plan: Plan, stack: Stack) -> bool:
    """Whether parameters that ZeRO 3 gathers stay for the backward: as the plan says, or under a pipeline as the stack does."""
    stated = not plan.reshard_after_forward
    if plan.reshard_after_forward is None:
        stated = stack.pipeline_keeps_parameters and plan.pipeline_parallel > 1
    return stated and plan.zero_stage == 3


def zero_group(plan: Plan) -> Iterator[PlanFault]:
    """zero_group divides the replicas that ZeRO shards over."""
    if plan.zero_group is None:
        return
    if plan.zero_group < 1 or plan.data_parallel % plan.zero_group:
        message = f"zero_group = {plan.zero_group} does not divide data_parallel = {plan.data_parallel}"
        yield PlanFault("zero_group", message, f"Legal: {comma_list(divisors(plan.data_parallel))}")
    elif not plan.zero_stage and plan.gradient_sync != LOCAL_SGD:  # of which groups may train apart that share nothing out
        yield PlanFault("zero_group", "zero_group says over how many ranks ZeRO shards, but zero_stage = 0", "Set zero_stage to 1, 2 or 3")


def optimizer(plan: Plan, batch: Batch | None) -> Iterator[PlanFault]:
    """Paged states are on the host already; what runs in the backward needs gradients that are complete there."""
    if plan.offload_optimizer and OPTIMIZERS[plan.optimizer].paged:
        message = f"optimizer = {plan.optimizer} keeps states on the host and updates on the device, but offload_optimizer updates there"
        yield PlanFault("offload_optimizer", message, "Set offload_optimizer to false, or optimizer to one that is not paged")
    if not plan.optimizer_in_backward:
        return
    others = {"pipeline_parallel": 1, "offload_optimizer": False, "gradient_sync": "all_reduce"}
    for name, legal in others.items():
        if getattr(plan, name) != legal:
            message = f"optimizer_in_backward with {name} = {getattr(plan, name)} is not built"
            yield PlanFault("optimizer_in_backward", message, f"Set {name} to {str(legal).lower()}, or optimizer_in_backward to false")
    if batch is not None and (count := plan.num_micro_batches(batch)) > 1:
        whole = batch.global_batch // dimensions.split(plan, "B")
        message = f"optimizer_in_backward applies gradients at once, but a replica adds up those of {count} micro-batches"
        yield PlanFault("optimizer_in_backward", message, f"Set micro_batch = {whole}, or optimizer_in_backward to false")
