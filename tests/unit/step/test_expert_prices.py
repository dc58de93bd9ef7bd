"""Grouped matmuls are priced at the rows that one expert has, exchanges by what leaves a rank, and a token by the experts it chooses."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.cluster.efficiency import gemm_s
from parsim.cost.count import flops, hbm_bytes
from parsim.cost.timing import GROUPED_ACCUMULATION_FACTOR, GROUPED_FACTOR, gemm_shape, task_ps, weight_bytes
from parsim.estimator.estimate import estimate, stages_of
from parsim.model.parameters import model_flops_per_token
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import Phase
from parsim.step.task import Compute
from support import MOE, STACK, TOY, scenario

PLAN = Plan(data_parallel=2, expert_parallel=2)
TOKENS = 8 * 2  # of the two ranks' micro_batch, each of which goes to 2 of 4 experts


def grouped(name: str, phase: Phase) -> tuple[int, tuple[int, ...], float]:
    """Picoseconds and sides of a grouped matmul of two experts with 8 rows each, and seconds of a plain one of two such matrices."""
    workload = stages_of(scenario(model=MOE, batch=Batch(4, 8)), PLAN).workload
    sizes, model = workload.sizes, workload.model
    task = next(t for t in workload.step.segments["expert_layer"].phases[phase] if isinstance(t, Compute) and t.name == name)
    shape, moved = gemm_shape(task, sizes), hbm_bytes(task, sizes)
    plain = gemm_s(TOY, flops(task, sizes), moved, "bf16", shape=shape, weight_bytes=weight_bytes(task, sizes), sustained=model.sustained)
    return int(task_ps(task, sizes, model)[0]), tuple(int(each[0]) for each in shape), float(plain[0])  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "phase", "sides", "factor"),
    [
        ("experts_up_gemm", Phase.F, (TOKENS * 2 // 4, 8, 12), GROUPED_FACTOR),
        ("experts_up_gemm.d_expert_in", Phase.B, (TOKENS * 2 // 4, 12, 8), GROUPED_FACTOR),
        ("experts_up_gemm.d_experts_up.weight", Phase.B, (8, 12, TOKENS * 2 // 4), GROUPED_ACCUMULATION_FACTOR),
    ],
)
def test_a_grouped_matmul_is_one_of_the_rows_of_an_expert_for_each(name: str, phase: Phase, sides: tuple[int, ...], factor: float) -> None:
    ps, shape, plain_s = grouped(name, phase)
    assert sorted(shape) == sorted(sides)
    assert abs(ps - factor * plain_s * 1e12) < 1  # a whole number of picoseconds


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
