"""Tokens that a stack sorts, experts that one kernel multiplies for, and windows worked in whole blocks: arithmetic on the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cluster.accelerator import Accelerator, ElementwiseLaw, GroupedLaw, Law
from parsim.cluster.efficiency import gather_s, gemm_s, grouped_gemm_s
from parsim.cluster.flash import FlashKernel
from parsim.cost import cost_model
from parsim.cost.timing import compute_s
from parsim.cost.workload import Workload
from parsim.estimator.estimate import estimate, stages_of
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario import Scenario
from parsim.step.program import section
from parsim.step.task import Compute
from support import CLUSTER, MOE, NODE, STACKS, TOY, scenario

# 8 sequences of 8 tokens of 12 numbers, two of four experts each: 64 tokens and 128 rows, of 24 bytes.
TOKENS, ROWS, WIDTH = 64, 128, 12
MODEL = replace(MOE, num_layers=1, num_dense_layers=0, shared_ffn_hidden_size=0)
SLOW = replace(TOY, elementwise=ElementwiseLaw(0.5, 0.0, 0.125), gemm=Law(0.5, 0.5, 0.0, 2.0), sustained_factor=1.0)
BY_KERNEL = replace(STACKS[2], fusions=("swiglu", "rms_norm"))
BY_SORT = replace(BY_KERNEL, permute="sort")


def layer(stack: Stack, device: Accelerator = SLOW, model: TransformerSpec = MODEL) -> tuple[Workload, dict[str, Compute]]:
    """What a step of one device is made of, and the kernels of its layer with experts by name."""
    toy: Scenario = replace(
        scenario(model=model, batch=Batch(8, 8), stack=stack), cluster=replace(CLUSTER, node=replace(NODE, accelerator=device))
    )
    workload = stages_of(toy, Plan(micro_batch=8)).workload

    def kernels() -> Iterator[Compute]:
        for segment in workload.step.segments:
            for phase in workload.phases:
                yield from (task for task in section(workload.step, segment, phase) if isinstance(task, Compute))

    return workload, {task.name: task for task in kernels()}


def seconds(name: str, stack: Stack, device: Accelerator = SLOW, model: TransformerSpec = MODEL) -> float:
    """Of a kernel of that layer."""
    workload, tasks = layer(stack, device, model)
    return float(np.ravel(compute_s(tasks[name], workload.sizes, workload.model))[0])


@pytest.mark.parametrize("name", ["permute", "unpermute", "unpermute.d_collected", "permute.d_norm2"])
def test_a_stack_that_sorts_fetches_the_rows_of_experts_in_a_pass_of_its_own(name: str) -> None:
    kernel = (TOKENS + ROWS) * WIDTH * 2 / (0.5 * 1e9)  # tokens read, rows written, or the other way, at half of 1 GB/s
    fetched = 2 * ROWS * WIDTH * 2 / (0.125 * 1e9)  # each row read and written once more, at an eighth
    assert seconds(name, BY_KERNEL) == pytest.approx(kernel, rel=1e-12)
    assert seconds(name, BY_SORT) == pytest.approx(kernel + fetched, rel=1e-12)


def test_rows_are_fetched_as_fast_as_memory_is_copied_where_nobody_says_otherwise() -> None:
    assert gather_s(replace(SLOW, elementwise=ElementwiseLaw(0.5, 1e-6)), 1e6) == pytest.approx(1e-6 + 1e6 / 0.5e9, rel=1e-12)


def test_tokens_of_experts_of_a_fixed_capacity_meet_a_table_of_their_slots() -> None:
    """3 rows an expert for every 4 slots that tokens take: 192 rows, of which a sequence of 8 tokens has 24, each a sum over its tokens."""
    model = replace(MODEL, capacity_factor=1.5, pad_to_capacity=True)
    rows = 192
    work, moved = 2 * rows * WIDTH * 8, 2 * (TOKENS * WIDTH + rows * WIDTH + rows * 8)
    assert seconds("permute", BY_SORT, model=model) == pytest.approx(float(gemm_s(SLOW, work, moved, "bf16", sustained=1.0)), rel=1e-12)


def test_experts_of_a_fixed_capacity_are_one_batch_of_products_of_such_a_stack() -> None:
    """Their roofs are joined as those of one matmul: by the exponent of 4 and not by that of grouped ones."""
    sharp = replace(SLOW, gemm=Law(0.5, 0.5, 0.0, 4.0))
    model = replace(MODEL, capacity_factor=1.5, pad_to_capacity=True)
    assert seconds("experts_up_gemm", BY_SORT, sharp, model) < seconds("experts_up_gemm", BY_KERNEL, sharp, model)


def test_a_kernel_of_all_experts_works_tiles_that_two_of_them_share_twice_and_reads_weights_on_each_core() -> None:
    plain = Law(0.5, 0.5, 0.0, 2.0)
    flops, moved, weights, shape = 2 * 4 * 96 * 64 * 64, 1e5, 4e4, (96, 64, 64)
    how: dict[str, Any] = {"shape": shape, "sustained": 1.0}
    one = grouped_gemm_s(TOY, flops, moved, "bf16", law=GroupedLaw(plain), weight_bytes=weights, rows=96, **how)
    assert one == pytest.approx(float(gemm_s(TOY, flops, moved, "bf16", law=plain, weight_bytes=weights, **how)), rel=1e-12)
    # 32 rows of a shared tile for 96 of its own: three quarters of the rate; on two cores 64, three fifths, and 4e4 bytes once more.
    shared = grouped_gemm_s(TOY, flops, moved, "bf16", law=GroupedLaw(plain, 32), weight_bytes=weights, rows=96, **how)
    assert shared == pytest.approx(
        float(gemm_s(TOY, flops, moved, "bf16", law=plain, aligned=0.75, weight_bytes=weights, **how)), rel=1e-12
    )
    two = grouped_gemm_s(TOY, flops, moved, "bf16", law=GroupedLaw(plain, 32, cores=2), weight_bytes=weights, rows=96, **how)
    again = gemm_s(TOY, flops, 1.4e5, "bf16", law=plain, aligned=0.6, weight_bytes=8e4, **how)
    assert two == pytest.approx(float(again), rel=1e-12)


def test_narrow_products_of_experts_have_a_share_of_their_own() -> None:
    law = GroupedLaw(Law(0.5, 0.5, 0.0, 2.0), narrow=0.25)
    assert law.law_in("bf16").efficiency == 0.5 and law.law_in("fp8").efficiency == 0.25
    assert GroupedLaw(Law(0.5, 0.5, 0.0, 2.0)).law_in("fp8").efficiency == 0.5


def test_a_device_with_such_a_kernel_prices_experts_by_it_and_other_matmuls_as_before() -> None:
    quick = replace(SLOW, grouped_gemm=GroupedLaw(Law(0.5, 0.5, 0.0, 200.0)))
    slow = replace(SLOW, grouped_gemm=GroupedLaw(Law(0.25, 0.5, 0.0, 200.0)))
    assert seconds("experts_up_gemm", BY_KERNEL, slow) == pytest.approx(2 * seconds("experts_up_gemm", BY_KERNEL, quick), rel=1e-9)
    assert seconds("out_gemm", BY_KERNEL, slow) == seconds("out_gemm", BY_KERNEL, quick) == seconds("out_gemm", BY_KERNEL)


def test_a_step_of_a_stack_that_sorts_takes_longer_by_its_passes() -> None:
    toys = [
        replace(scenario(model=MODEL, batch=Batch(8, 8), stack=each), cluster=replace(CLUSTER, node=replace(NODE, accelerator=SLOW)))
        for each in (BY_KERNEL, BY_SORT)
    ]
    by_kernel, by_sort = (estimate(each, Plan(micro_batch=8)).step_s for each in toys)
    assert by_sort - by_kernel == pytest.approx(4 * 2 * ROWS * WIDTH * 2 / (0.125 * 1e9), rel=1e-6)


def test_a_window_costs_the_blocks_that_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of 2 of 8 tokens, in blocks of 1 as it is; in blocks of 2 each query meets two blocks, 4 tokens for 2."""
    narrow = replace(MODEL, sliding_window=2)
    flash = replace(BY_KERNEL, attention="flash")
    device = replace(SLOW, attention=replace(SLOW.attention, launch_s=0.0), l2_bytes=1e9)  # where its operands stay

    def took(block: int) -> float:
        monkeypatch.setattr(cost_model, "flash_kernel", lambda *_: FlashKernel(1, 1, "made up", block))
        return seconds("flash", flash, device, narrow)

    assert took(2) == pytest.approx(2 * took(1), rel=1e-9)
