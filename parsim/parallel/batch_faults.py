"""What of a batch and a stack does not go with a model, whatever the plan."""

from __future__ import annotations

from collections.abc import Iterable

from parsim.model.ends import ENTER_HEAD
from parsim.model.families import blocks_of
from parsim.model.spec import ModelSpec
from parsim.parallel.fault import PlanFault, comma_list, divisors
from parsim.parallel.plan import ENDS, PER_NODE, Batch, Stack
from parsim.parallel.precision import RECIPES


def bf16_layers_fault(model: ModelSpec, batch: Batch, of_plans: Iterable[str] = ()) -> PlanFault | None:
    """Why layers at the ends of a model cannot stay in bf16; None where they can.  `of_plans`: the precisions that plans state."""
    stated = {name: getattr(batch, name) for name in ENDS if getattr(batch, name)}
    name = next(iter(stated), "")
    if stated and not any(each.narrows for each in (batch.recipe, *(RECIPES[name] for name in of_plans))):
        message = f"{name} = {stated[name]} keeps layers in bf16 beside those of a lower precision, but dtype = {batch.dtype}"
        return PlanFault(name, message, "Leave it out, or set dtype, or precision of a plan, to one of 8 or 4 bits")
    if sum(stated.values()) > model.num_layers:
        said = " + ".join(f"{each} = {count}" for each, count in stated.items())
        return PlanFault(name, f'{said} is above num_layers = {model.num_layers} of model "{model.name}"', "")
    return None


def loss_chunks_fault(model: ModelSpec, batch: Batch, stack: Stack) -> str:
    """Why the tokens of a sequence cannot pass output layer and loss in the stack's chunks; "" where they can."""
    count, length = stack.loss_chunks, batch.sequence_length
    if count > 1 and not blocks_of(model.architecture)[model.layout[-1][0]].has_op(ENTER_HEAD):
        return f'loss_chunks = {count} cuts the logits of a vocabulary, but the head of model "{model.name}" has labels; leave it out'
    if length % count:
        legal = comma_list(divisors(length))
        return f"loss_chunks = {count} does not divide sequence_length = {length}, whose tokens pass in equal chunks. Legal: {legal}"
    return ""


def empty_slots_fault(model: ModelSpec, batch: Batch, stack: Stack) -> str:
    """Why the stack does not send slots of experts that hold no token; "" where it does, or there are none."""
    if stack.dispatch != PER_NODE or all(-1 not in model.slots(batch.sequence_length, row).tokens for row in model.load_rows):
        return ""
    return "pads slots of experts, and dispatch = per_node sends tokens only. Set pad_to_capacity = false, or another dispatch of the stack"
