"""What of a model can be frozen or adapted, and which plans train what is left."""

from __future__ import annotations

from collections.abc import Iterator

from parsim.model.adapters import EXPERTS, SINGLE, stems_in
from parsim.model.families import blocks_of
from parsim.model.op import JOINT, Block, Op
from parsim.model.spec import ModelSpec
from parsim.model.transformer import TransformerSpec
from parsim.model.tuning import PARTS, SIDES, WITHOUT_ADAPTERS, Tuning, untuned_name
from parsim.parallel.fault import PlanFault, comma_list, divisors
from parsim.parallel.plan import Plan, Stack
from parsim.parallel.precision import FP8, RECIPES
from parsim.parallel.stages import layers_of


def tuning_faults(model: ModelSpec) -> Iterator[tuple[str, str]]:
    """Why a model cannot be tuned as it says, each with the key that is wrong."""
    told = [("freeze", said) for said in model.tuning.faults(model.num_layers)]
    yield from told
    if model.tuning.quantization and not model.tuning.lora_rank:
        yield "quantization", "is of what adapters stand beside; give lora_rank"
    if model.tuning == Tuning():
        return
    sides, others = model.tuning.sides, [name for name in model.tuning.freeze if name not in SIDES]
    if sides and not model.image_tokens:
        named = ", ".join(sorted(sides))
        yield "freeze", f'names {named} of a vision-language model, but model "{model.name}" is none'
    elif model.image_tokens and others:
        known = ", ".join(SIDES)
        said = f"of a vision-language model is built for {known}, not '{others[0]}'"
        yield "freeze", f"{said}; name some of these, with adapters language among them, or leave tuning out"
    elif model.image_tokens and not (told or model.tuning.lora_rank):
        return
    elif "g" in model.extents and {*PARTS} & {*model.tuning.freeze}:
        yield "freeze", f"{', '.join(PARTS)} are not told apart in models with Mamba layers; freeze base, ends, or layers by number"
    elif getattr(model, "mtp_layers", 0):
        yield "freeze", "is not built with mtp_layers; set mtp_layers = 0"
    elif not told and model.tuning.lora_rank:
        yield from _adapter_faults(model)
    elif not told and (form := model.architecture.tuned):
        blocks = blocks_of(model.architecture).values()
        if not any({*block.weights} - {*block.frozen} - {*block.shared} for block in blocks):
            yield "freeze", f'freezes all weights of model "{model.name}", so that nothing is trained; leave one of its parts out'
        frozen = {weight for block in blocks for weight in block.frozen}
        for part in form.idle_parts(frozen):
            yield "freeze", f"'{part}' names no weights of model \"{model.name}\""
        if model.architecture.tied and model.tuning.is_trained("embedding") and not model.tuning.is_trained("head"):
            yield "freeze", "names head, whose matrix is the embedding's (tied_embedding = true), which is trained; name embedding, too"


def _adapter_faults(model: ModelSpec) -> Iterator[tuple[str, str]]:
    if not isinstance(model, TransformerSpec) or "g" in model.extents:
        what = {"g": "Mamba layers", "x": "patches of images"}.get(next((dim for dim in "gx" if dim in model.extents), ""), "a plain MLP")
        yield "lora_rank", f'adapters beside {what} are not built; model "{model.name}" has it'
        return
    targets, (_, *blocks, _) = model.tuning.lora_targets, blocks_of(model.architecture).values()
    blocks = [block for block in blocks if block.name != JOINT and untuned_name(block.name) not in WITHOUT_ADAPTERS]
    every = [{op.name for op in _frozen_ops(block)} for block in blocks]
    named = {target: {stem for ops in every for stems in stems_in(ops, target) for stem in stems} for target in targets}
    found = [stem for stems in named.values() for stem in stems]
    if twice := next((stem for stem in sorted(found) if found.count(stem) > 1), ""):
        yield "lora_targets", f"{' and '.join(target for target in targets if twice in named[target])} name one linear layer; leave one out"
    for target in targets if not {*SINGLE} <= {*targets} else ():
        if not named[target]:
            yield "lora_targets", f'model "{model.name}" has no {target}'
    if model.tuning.share_expert_adapters and not any(stem.startswith(EXPERTS) for stem in found):
        yield "share_expert_adapters", f'is of adapters beside experts, and model "{model.name}" has none that are targets; leave it out'
    if model.tuning.lora_dropout and any(stem.startswith(EXPERTS) for stem in found):
        yield "lora_dropout", "is not built beside experts, whose tokens have left their places; leave it out, or name targets of attention"


def _frozen_ops(block: Block) -> Iterator[Op]:
    return (op for op in block.ops if op.inputs[1:] and op.inputs[1] in block.frozen)


def frozen_stages(plan: Plan, model: ModelSpec, stack: Stack | None) -> Iterator[PlanFault]:
    """A first stage without any backward is not built: Megatron Core sends gradients to all stages."""
    if plan.num_stages == 1:
        return
    if not model.num_layers and not next(iter(blocks_of(model.architecture).values())).weights:
        message = f'pipeline_parallel = {plan.pipeline_parallel}, but model "{model.name}" has one layer with weights, the last'
        yield PlanFault("pipeline_parallel", message, "Set pipeline_parallel = 1")
        return
    lowest = model.tuning.lowest_trained(model.num_layers, model.first_stack if model.tuning.sides else 0)
    if lowest <= 0:
        return
    first, *_ = layers_of(plan, model.num_layers, stack.layer_split if stack else "even")
    if lowest >= first:
        what = f"layer {lowest}" if lowest < model.num_layers else "the head"
        message = f"the first stage has no trained weights: of its {first} layers and the embedding all are frozen, up to {what}"
        yield PlanFault("pipeline_parallel", message, "Freeze less, or set pipeline_parallel = 1")


def packed_weights(plan: Plan, model: ModelSpec) -> Iterator[PlanFault]:
    """ZeRO shards no weights in 4 bits, and nothing that is multiplied in 8 or 4 bits stands beside them."""
    if not (kind := model.tuning.quantization):
        return
    if plan.zero_stage == 3:
        yield PlanFault("zero_stage", f"zero_stage = 3 shards weights, but quantization = {kind} keeps them whole", "Legal: 0, 1, 2")
    if plan.precision == FP8 or (plan.precision in RECIPES and RECIPES[plan.precision].narrows):
        message = f"precision = {plan.precision} multiplies in 8 or 4 bits, beside which quantization = {kind} is not built"
        yield PlanFault("precision", message, "Leave one of the two out")


def adapter_parts(plan: Plan, model: ModelSpec) -> Iterator[PlanFault]:
    """Tensor parallelism cuts adapters along their rank and the stream's width where they end, that of experts those beside these."""
    for name, extent in (("lora_rank", model.tuning.lora_rank), ("hidden_size", model.hidden_size if model.tuning.lora_rank else 0)):
        if extent % plan.tensor_parallel:
            message = f"tensor_parallel = {plan.tensor_parallel} does not divide {name} = {extent}, along which adapters are cut"
            yield PlanFault("tensor_parallel", message, f"Legal: {comma_list(divisors(extent))}")
    degree, rank = plan.expert_tensor_parallel, model.tuning.lora_rank
    if rank % degree and any(stem.startswith(EXPERTS) for stem in _adapted_layers(model)):
        message = f"expert_tensor_parallel = {degree} does not divide lora_rank = {rank}, along which adapters of experts are cut"
        yield PlanFault("expert_tensor_parallel", message, f"Legal: {comma_list(divisors(rank))}")


def _adapted_layers(model: ModelSpec) -> set[str]:
    """The linear layers that have adapters, by the names of their ops' stems."""
    every = [{op.name for op in block.ops} for block in blocks_of(model.architecture).values()]
    return {stem for ops in every for target in model.tuning.lora_targets for stems in stems_in(ops, target) for stem in stems}
