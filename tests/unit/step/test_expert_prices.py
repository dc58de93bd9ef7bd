"""Grouped matmuls are priced at the rows that one expert has, exchanges by what leaves a rank, and a token by the experts it chooses."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from parsim.cluster.efficiency import elementwise_s, gemm_s
from parsim.cost.count import flops, hbm_bytes
from parsim.cost.gemms import GROUPED_EXPONENT, gemm_shape, weight_bytes
from parsim.cost.timing import task_ps
from parsim.estimator.estimate import estimate, stages_of
from parsim.model.parameters import model_flops_per_token
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import Phase
from parsim.step.task import Compute
from support import MOE, STACK, TOY, scenario

PLAN = Plan(data_parallel=2, expert_parallel=2)
TOKENS = 8 * 2  # of the two ranks' micro_batch, each of which goes to 2 of 4 experts


def grouped(name: str, phase: Phase) -> tuple[int, tuple[int, ...], float, int]:
    """Picoseconds and sides of a grouped matmul of two experts with 8 rows each, and seconds and bytes of one of two such matrices."""
    stack = replace(STACK, fusions=("gradient_accumulation",), gradient_dtype="fp32")
    workload = stages_of(scenario(model=MOE, batch=Batch(4, 8), stack=stack), PLAN).workload
    sizes, model = workload.sizes, workload.model
    task = next(t for t in workload.step.segments["expert_layer"].phases[phase] if isinstance(t, Compute) and t.name == name)
    shape, moved, lasting = gemm_shape(task, sizes), hbm_bytes(task, sizes), weight_bytes(task, sizes)
    how: dict[str, Any] = {"shape": shape, "weight_bytes": lasting, "sustained": model.sustained, "exponent": GROUPED_EXPONENT}
    seconds = gemm_s(TOY, flops(task, sizes), moved, "bf16", **how)
    sides = tuple(int(each[0]) for each in shape)
    return int(task_ps(task, sizes, model)[0]), sides, float(seconds[0]), int(lasting[0])  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "phase", "sides", "element_bytes"),
    [
        ("experts_up_gemm", Phase.F, (TOKENS * 2 // 4, 8, 12), 2),
        ("experts_up_gemm.d_expert_in", Phase.B, (TOKENS * 2 // 4, 12, 8), 2),
        ("experts_up_gemm.d_experts_up.weight", Phase.B, (8, 12, TOKENS * 2 // 4), 2 * 4),  # read and written, in float32
    ],
)
def test_a_grouped_matmul_is_one_of_the_rows_of_an_expert_for_each(
    name: str, phase: Phase, sides: tuple[int, ...], element_bytes: int
) -> None:
    ps, shape, seconds, lasting = grouped(name, phase)
    assert sorted(shape) == sorted(sides)
    assert lasting == 2 * 8 * 12 * element_bytes  # of two experts
    assert abs(ps - seconds * 1e12) < 1  # a whole number of picoseconds


def test_an_exchange_sends_the_slots_of_other_ranks_with_their_gates_four_times_a_layer() -> None:
    sent = estimate(scenario(model=MOE, batch=Batch(4, 8)), PLAN).sent_bytes[0]["ep"]
    slots = 8 * 2 // 2  # of a rank's sequence, half of which stay
    assert sent == 2 * slots * (4 * 12 * 2 + 2 * 4)  # two micro_batches; vectors of bf16, there and back, twice; gates and their gradients


def test_a_token_costs_six_flops_for_each_weight_of_the_experts_that_it_chooses() -> None:
    fewer = replace(MOE, experts_per_token=1)
    of_expert = 3 * MOE.hidden_size * MOE.expert_ffn_hidden_size
    assert model_flops_per_token(MOE, 8)[0] - model_flops_per_token(fewer, 8)[0] == 6 * of_expert  # of the one layer that has experts


@pytest.mark.parametrize(("task", "phase", "times"), [("experts_down_bias", Phase.F, 7), ("experts_down_bias.d_expert_gates", Phase.B, 9)])
def test_biases_of_experts_times_gates_move_in_float32_unless_matmuls_take_them_in(task: str, phase: Phase, times: int) -> None:
    """Per element 4 written, 2 + 4 read and 4 written, 4 and 4, 4 and 2: 28 bytes in place of 4; back 36 for both factors, for 4."""
    launch_s = TOY.elementwise.launch_s

    def moved(*fusions: str) -> float:
        stack = replace(STACK, fusions=(*STACK.fusions, *fusions))
        workload = stages_of(scenario(model=replace(MOE, bias=True), batch=Batch(4, 8, "mxfp8"), stack=stack), PLAN).workload
        found = next(t for t in workload.step.segments["expert_layer"].phases[phase] if isinstance(t, Compute) and t.name == task)
        return int(workload.ps(found)[0]) / 1e12 - launch_s

    assert moved() / moved("grouped_mlp") == pytest.approx(times, rel=1e-6)


@pytest.mark.parametrize(
    ("kernel", "phase", "kept", "more"),
    [
        # Both halves are cut out and clamped, then joined: 2 read and written in each.
        ("weighted_clamped_swiglu", Phase.F, 2 + 1, 2 * (2 + 2)),
        # What is at most 7: 1 read, a byte written; that and 1 read, 1 written.  The other half has two such and an `and`.  Then joined.
        ("weighted_clamped_swiglu_grad", Phase.B, 3 + 2, (1.5 + 2.5) + (1.5 + 1.5 + 1.5 + 2.5) + (2 + 2)),
    ],
)
def test_what_is_clamped_before_its_gate_passes_memory_more_often(kernel: str, phase: Phase, kept: float, more: float) -> None:
    """Elements of the result; gates aside, a float32 a slot, which takes part as the rest does."""

    def moved_s(activation: str) -> float:
        case = scenario(model=replace(MOE, activation=activation), batch=Batch(4, 8), stack=replace(STACK, fusions=("swiglu",)))
        workload = stages_of(case, PLAN).workload
        name = kernel if "clamped" in activation else kernel.replace("clamped_", "")
        tasks = workload.step.segments["expert_layer"].phases[phase]
        found = next(task for task in tasks if isinstance(task, Compute) and task.kernel == name)
        return int(workload.ps(found)[0]) / 1e12 - TOY.elementwise.launch_s

    assert moved_s("clamped_swiglu") / moved_s("swiglu") == pytest.approx((kept + more) / kept, rel=1e-6)


@pytest.mark.parametrize(("precision", "kernels"), [("fp8_delayed", 0), ("fp8_current", 4), ("mxfp8", 1), ("nvfp4", 0)])
def test_what_experts_take_becomes_narrow_expert_by_expert(precision: str, kernels: int) -> None:
    """Blocks: a kernel each; a scale of now: one that begins, one that looks for the largest element, one that makes it a scale, one that
    uses it."""
    workload = stages_of(scenario(model=MOE, batch=Batch(4, 8, precision)), PLAN).workload
    task = next(
        t for t in workload.step.segments["expert_layer"].phases[Phase.F] if isinstance(t, Compute) and t.name == "expert_in.quantise"
    )
    moved = hbm_bytes(task, workload.sizes)
    launches_s = int(workload.ps(task)[0]) / 1e12 - float(elementwise_s(TOY, moved, fused=True)[0])  # type: ignore[index]
    there = min(kernels, 2) - 1  # beside this one, which looks for the largest element
    assert launches_s == pytest.approx(max(2 * kernels - there, 1) * TOY.elementwise.launch_s, rel=1e-6)
