"""Experts in low precision: each quantises its own tokens and its own matrix, tokens travel wide, and every reader charges it so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import stages_of
from parsim.executor.job import Job
from parsim.executor.run import execute
from parsim.model.dims import COMPUTE, LINEAR, MATMUL, QUANTISED
from parsim.parallel.mesh import Mesh
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.precision import RECIPES
from parsim.schedules.phase import Phase
from parsim.step.task import Collective, Compute, Task
from parsim.verify import verify_plan
from parsim_kernels.narrow import quantise
from support import MOE, STACKS, enough, every_other, forget_steps, scenario, tiered

# Matrices of whole blocks of 32 elements, whose bytes are whole.
MODEL = replace(MOE, hidden_size=16, shared_ffn_hidden_size=8)
UNEVEN = replace(MODEL, num_experts=6, experts_per_token=4)
FUSED = replace(STACKS[2], fusions=("norm_gemm", "swiglu", "rms_norm", "gradient_accumulation"))
SPREAD = Plan(data_parallel=2, expert_parallel=2)


def red(name: str, plan: Plan, model: object = MODEL) -> set[str]:
    case = scenario(model=model, batch=replace(enough(plan), dtype=name), stack=FUSED)  # type: ignore[arg-type]
    return {each.quantity for each in verify_plan(case, plan, "toy") if not each.ok}


def tasks() -> list[Task]:
    stages = stages_of(scenario(model=MODEL, batch=Batch(8, 8, "fp8_current"), stack=FUSED), SPREAD)
    phases = stages.workload.step.segments["expert_layer"].phases
    return [task for phase in (Phase.F, Phase.B) for task in phases[phase]]


PLANS = {
    "one": (Plan(), UNEVEN),
    "uneven-ep": (Plan(data_parallel=3, expert_parallel=3, micro_batch=2, recompute_modules=("moe_act",)), UNEVEN),
    "sp-etp-zero3": (replace(SPREAD, tensor_parallel=2, sequence_parallel=True, expert_tensor_parallel=2, zero_stage=3), MODEL),
    "etp-over-replicas": (Plan(data_parallel=2, tensor_parallel=2, expert_tensor_parallel=2, rank_order="dp-tp-pp"), MODEL),
}


@pytest.mark.parametrize("case", every_other(PLANS, (name for name, recipe in RECIPES.items() if recipe.narrows), "{}-{}".format, 4))
def test_all_readers_agree(case: tuple[str, str]) -> None:
    assert not red(case[1], *PLANS[case[0]])


FOLDED = Plan(data_parallel=4, expert_parallel=2, expert_tensor_parallel=2, micro_batch=3, context_parallel=2)
REPLICATED = replace(FOLDED, context_parallel=1, tensor_parallel=2, rank_order="dp-tp-pp", zero_stage=1, zero_group=2)


def red_in_blocks(plan: Plan) -> set[str]:
    """With so many tokens that a block of 32 rows of an expert ends among those of a rank."""
    case = scenario(model=replace(MODEL, max_positions=64), batch=Batch(12, 16, "mxfp8"), stack=FUSED)
    return {each.quantity for each in verify_plan(case, plan, "toy") if not each.ok}


@pytest.mark.parametrize("plan", [FOLDED, REPLICATED], ids=["folded", "replicated"])
def test_blocks_of_rows_are_those_of_the_ranks_that_share_an_expert(plan: Plan) -> None:
    assert not red_in_blocks(plan)


def test_all_readers_agree_where_the_last_layer_with_experts_stays_in_bf16() -> None:
    case = scenario(model=replace(MODEL, num_layers=3), batch=Batch(4, 8, "fp8_current", num_layers_at_end_in_bf16=1), stack=FUSED)
    assert not [str(each) for each in verify_plan(case, replace(SPREAD, recompute="full"), "toy") if not each.ok]


@pytest.mark.parametrize(
    "case", [tiered(each, "ep{}-zero{}".format(*each), slow=i % 2 == 1) for i, each in enumerate([(2, 1), (2, 3), (1, 3), (4, 1)])]
)
def test_all_readers_agree_where_experts_are_gathered_narrow(case: tuple[int, int]) -> None:
    """Each expert has a scale, which ranks find together of the parts of it that ZeRO left them; with 4 ranks each is of one alone."""
    toy = scenario(model=MODEL, batch=Batch(8, 8, "fp8_current"), stack=replace(FUSED, narrow_parameters=("fp8_current",)))
    plan = Plan(data_parallel=4, expert_parallel=case[0], zero_stage=case[1])
    assert not [str(each) for each in verify_plan(toy, plan, "toy") if not each.ok]
    alone, beside = (execute(replace(toy, stack=stack), plan, num_steps=3).losses for stack in (toy.stack, FUSED))
    assert max(abs(one / other - 1) for one, other in zip(alone, beside, strict=True)) < 1e-9


def test_experts_multiply_narrow_numbers_and_the_router_does_not() -> None:
    gemms = [task for task in tasks() if isinstance(task, Compute) and task.kernel in ("einsum", "grouped_gemm")]
    assert {task.dtype for task in gemms if task.kernel == "grouped_gemm"} == {LINEAR}
    assert {task.dtype for task in gemms if task.name.startswith("router")} == {MATMUL}
    assert sum(task.dtype == LINEAR for task in gemms) == 3 * (4 + 3 + 3)  # attention, experts, those that all tokens pass


def test_tokens_go_to_experts_and_back_wide() -> None:
    sent = {task.source.dtype for task in tasks() if isinstance(task, Collective) and task.operation == "all_to_all"}
    assert COMPUTE in sent and QUANTISED not in sent


def test_parts_of_given_extents_are_scaled_by_themselves() -> None:
    """By hand: of e2m1, whose largest is 6, 3 x 6 / 3 and 1 x 6 / 3 are 6 and 2; 0.3 x 6 / 0.6 is 3."""
    x = np.array([[3.0, 1.0], [0.6, 0.3], [0.3, 0.05]])
    told = {"format": "e2m1", "scale": "fp32", "rows": 1, "across": 0, "along": 0, "layouts": "row", "tiles": ((1, 2, 0), 1)}
    ((y,), _) = quantise((x,), told)
    assert y == pytest.approx(np.array([[3.0, 1.0], [0.6, 0.3], [0.3, 0.05]]), rel=1e-6)
    ((whole,), _) = quantise((x,), {**told, "tiles": (1, 1)})
    assert whole[2, 1] == 0.0


def _one_scale_for_all_experts(patch: pytest.MonkeyPatch) -> None:
    right = Job._tiles_of

    def tiles_of(self: Job, dim: str, *of: object) -> object:
        return 1 if dim in "EX" else right(self, dim, *of)  # type: ignore[arg-type]

    patch.setattr(Job, "_tiles_of", tiles_of)


@pytest.mark.parametrize(("mutant", "name"), [(_one_scale_for_all_experts, "fp8_delayed"), (_one_scale_for_all_experts, "mxfp8")])
def test_a_mutant_is_noticed(mutant: Callable[[pytest.MonkeyPatch], None], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of blocks it is those along tokens that would reach from one expert into the next."""
    mutant(monkeypatch)
    forget_steps()
    seen = red(name, Plan(), UNEVEN)
    monkeypatch.undo()
    forget_steps()
    assert "weight gradients, by hand" in seen


def test_tokens_in_the_order_of_ranks_would_lie_in_other_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Mesh.order_at_experts
    monkeypatch.setattr(Mesh, "order_at_experts", lambda self, _: right(self, ()))
    assert red_in_blocks(FOLDED) == {"weight gradients", "updated weights"}


MOVED = {  # what stays to be moved, [elements of the experts' width, beside their scales], of kernels between matmuls
    "moe_act": 0,
    "expert_active.quantise": 2,  # along rows and along columns, a byte each
    "moe_act.d_expert_gate": 2 * 2,  # gate and up, of two bytes
    "d_expert_gate.quantise": 2,
}


def prices(name: str, *fusions: str) -> dict[str, float]:
    """Microseconds of the kernels of MOVED on one device."""
    stack = replace(FUSED, fusions=(*FUSED.fusions, *fusions))
    workload = stages_of(scenario(model=replace(MODEL, expert_ffn_hidden_size=32), batch=Batch(8, 8, name), stack=stack), Plan()).workload
    segment = workload.step.segments["expert_layer"]
    there = [task for phase in (Phase.F, Phase.B) for task in segment.phases[phase] if task.name in MOVED]
    return {task.name: int(workload.ps(task)[0]) / 1e6 for task in there}


def test_a_grouped_gemm_of_mxfp8_does_what_follows_it_and_writes_it_narrow() -> None:
    slots, scales = 8 * 2 * 32, 1 / 32  # 8 tokens choose 2 of 4 experts of 32; a byte a block of 32
    found = prices("mxfp8", "grouped_mlp")
    for name, moved in MOVED.items():
        size = slots * (moved * (1 + scales) if "quantise" in name else moved)
        assert found[name] == pytest.approx(size / (0.8 * 1e9) * 1e6, rel=1e-6), name
    assert all(found[name] < each for name, each in prices("mxfp8").items())
    assert prices("fp8_current", "grouped_mlp") == prices("fp8_current")
