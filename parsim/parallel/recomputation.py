"""What runs again in backward: modules of a layer by Megatron Core's names, single ops, or what a stack means by `selective`.

Source: Megatron-LM, megatron/core/transformer/transformer_config.py (recompute_modules) and transformer_layer.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from parsim.errors import did_you_mean
from parsim.model.blocks import CORE_ATTENTION, LAYER_NORM, MLP, MOE
from parsim.model.experts import ACTIVATION
from parsim.model.families import blocks_of
from parsim.model.latent import UP_PROJECTION
from parsim.model.op import Op
from parsim.model.spec import ModelSpec, layers_in
from parsim.parallel.fault import PlanFault
from parsim.parallel.plan import Plan, Stack

CHECKPOINTED: Final = (CORE_ATTENTION, MLP, MOE)  # each runs again as a whole, and what it hands on stays
DISCARDING: Final = (LAYER_NORM, ACTIVATION, UP_PROJECTION)  # lets what it hands on go, too, which is made again before its first use
_MODULES: Final = (*CHECKPOINTED, *DISCARDING)
_NOT_BUILT: Final = {"shared_experts": "what all tokens share runs again with moe only"}
FLASH_AGAIN: Final = "flash attention stores no scores: running it again (core_attn) frees next to nothing and costs its time"


def regions(plan: Plan, stack: Stack) -> tuple[str, ...]:
    """The regions of a layer that run again as a whole.

    >>> regions(Plan(recompute="selective"), Stack("any")), single_ops(Plan(recompute_modules=("layernorm",)), Stack("any"))
    (('core_attn',), ('layernorm',))
    """
    return tuple(sorted({*CHECKPOINTED}.intersection(_selection(plan, stack))))


def single_ops(plan: Plan, stack: Stack) -> tuple[str, ...]:
    """The ops of a layer, or their tags, that run again before the first use of what they make."""
    return tuple(sorted({*plan.recompute_ops, *_selection(plan, stack)}.difference(regions(plan, stack))))


def _selection(plan: Plan, stack: Stack) -> tuple[str, ...]:
    """Modules of the plan, or else, where it says selective, what the stack means by it."""
    return plan.recompute_modules or (stack.selective_recompute if plan.recompute == "selective" else ())


def every_faults(plan: Plan) -> Iterator[PlanFault]:
    """recompute_every picks the layers of a recomputation, so there is one."""
    if plan.recompute_every > 1 and plan.recompute == "none" and not (plan.recompute_ops or plan.recompute_modules):
        message = f"recompute_every = {plan.recompute_every} says which layers recompute, but recompute = none"
        remedy = "Set recompute to selective or full, name recompute_modules or recompute_ops, or leave recompute_every out"
        yield PlanFault("recompute_every", message, remedy)


def faults(plan: Plan, model: ModelSpec, stack: Stack) -> Iterator[PlanFault]:
    """Modules and ops are parts of a layer, and none is asked for twice."""
    if not (plan.recompute_modules or plan.recompute_ops):
        return
    ops, where = ops_of(model, stack), f'in a layer of model "{model.name}" on stack "{stack.name}"'
    yield from _modules(plan, ops, where, stack)
    known = tuple(dict.fromkeys(name for op in ops if op.kind != "relabel" for name in (op.name, op.tag) if name))
    for name in plan.recompute_ops:
        if name not in known:
            yield PlanFault("recompute_ops", f"no op '{name}' {where}{did_you_mean(name, known)}", f"Known: {', '.join(known)}")
    for field in ("recompute_modules", "recompute_ops"):
        if plan.recompute == "full" and getattr(plan, field):
            yield PlanFault(field, "recompute = full runs every op again already", f"Leave {field} out, or set recompute to none")
    whole = regions(plan, stack)
    twice = [op.name for op in ops if op.tag in whole and op.kind != "relabel" and {op.name, op.tag} & set(plan.recompute_ops)]
    if twice:
        said = f"recompute_modules = {', '.join(plan.recompute_modules)}" if plan.recompute_modules else "recompute = selective"
        yield PlanFault("recompute_ops", f"{said} runs {' and '.join(twice)} again already", "Leave it out, or set recompute to none")


def _modules(plan: Plan, ops: list[Op], where: str, stack: Stack) -> Iterator[PlanFault]:
    for name in plan.recompute_modules:
        if name in _NOT_BUILT:
            yield PlanFault("recompute_modules", f"module '{name}' is not built: {_NOT_BUILT[name]}", f"Built: {', '.join(_MODULES)}")
        elif name not in _MODULES:
            message = f"no module '{name}' of a layer{did_you_mean(name, _MODULES)}; an op is one of recompute_ops"
            yield PlanFault("recompute_modules", message, f"Known: {', '.join(_MODULES)}")
        elif not any(name in (op.tag, op.name) for op in ops) and not _is_inside_gemms(name, stack):
            there = dict.fromkeys(name for op in ops for name in (op.tag, op.name) if name in _MODULES)
            yield PlanFault("recompute_modules", f"no module '{name}' {where}", f"There: {', '.join(there)}")


def in_vain(plan: Plan, stack: Stack) -> Iterator[str]:
    """What is recomputed to no use: a sentence each."""
    if CORE_ATTENTION in regions(plan, stack) and stack.attention == "flash":
        yield FLASH_AGAIN
    for name in single_ops(plan, stack):
        if _is_inside_gemms(name, stack):
            yield f"{name} changes nothing: in {stack.name} a norm is part of the linear layer behind it, so that mlp runs its own again"


def _is_inside_gemms(name: str, stack: Stack) -> bool:
    return name == LAYER_NORM and "norm_gemm" in stack.fusions


def ops_of(model: ModelSpec, stack: Stack) -> list[Op]:
    """The ops of the model's layers, as the stack's kernels run them."""
    blocks = blocks_of(model.architecture, stack.attention, stack.fusions)
    return [op for name, _ in layers_in(model.layout) for op in blocks[name].ops]
