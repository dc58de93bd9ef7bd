"""Toy models in narrow precisions, and which checks are red."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import stages_of
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.parallel.precision import RECIPES
from parsim.schedules.phase import Phase
from parsim.step.task import Task
from parsim.verify import verify_plan
from support import GPT, STACK, enough, forget_steps, scenario

NARROW = [name for name, recipe in RECIPES.items() if recipe.narrows]
LLAMA = replace(GPT, activation="swiglu", norm="rms_norm", positions="rotary", bias=False, qkv_bias=False, dropout=0.0)
FUSED = replace(STACK, attention="flash", fusions=("norm_gemm", "rms_norm", "swiglu", "gradient_accumulation"))
ALONE = replace(FUSED, narrow_parameters=tuple(name for name, recipe in RECIPES.items() if recipe.narrows and not recipe.narrows.by_row))
SHARDS = replace(ALONE, master_shards=True, gradient_overlap=True)
ALL = Batch(4, 8, "fp8_current")
WIDE_ENDS = replace(ALL, num_layers_at_start_in_bf16=1, num_layers_at_end_in_bf16=2)
SEQUENCE = Plan(tensor_parallel=2, sequence_parallel=True)


def is_seen(mutant: Callable[[pytest.MonkeyPatch], None], noticed: Callable[[], bool], patch: pytest.MonkeyPatch) -> bool:
    """Whether what notices nothing of parsim notices a mutant of it; afterwards nothing is left of either."""
    assert not noticed()
    mutant(patch)
    forget_steps()
    seen = noticed()
    patch.undo()
    forget_steps()
    return seen


def red(name: str, plan: Plan, batch: Batch = ALL, stack: Stack = FUSED, model: TransformerSpec = LLAMA) -> set[str]:
    case = scenario(
        model=model, batch=replace(batch, dtype=name, global_batch=enough(plan, most=4 * plan.data_parallel).global_batch), stack=stack
    )
    return {each.quantity for each in verify_plan(case, plan, "toy") if not each.ok}


def tasks(name: str, phase: Phase, segment: str = "layer", plan: Plan = SEQUENCE) -> tuple[Task, ...]:
    stages = stages_of(scenario(model=LLAMA, batch=Batch(4, 8, name), stack=FUSED), plan)
    return stages.workload.step.segments[segment].phases[phase]


def kept_bytes(name: str) -> int:
    """Of a layer after the forward of a sequence of 8 tokens."""
    workload = stages_of(scenario(model=LLAMA, batch=Batch(1, 8, name), stack=FUSED), Plan()).workload
    return sum(int(workload.sizes.num_bytes(each)[0]) for each in workload.step.segments["layer"].kept[Phase.F])
