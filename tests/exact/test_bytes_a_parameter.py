"""What a parameter and its gradient take under a stack, from its first byte to its last, by arithmetic on the page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parsim.cost.count import state_bytes
from parsim.estimator.estimate import estimate
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario.rows import read
from parsim.verify import verify_plan
from support import GPT, STACK, STACKS, scenario

UNTIED = replace(GPT, tied_embedding=False, vocab_size=64)  # no padding of the vocabulary
# Norms; q, k, v and out of 12 x 4 heads x 4 with their biases; up and down of 12 x 16 with theirs; tables, final norm, head.
WEIGHTS = (*(12, 12, 12, 12, *(192,) * 4, 16, 16, 16, 12, 192, 16, 192, 12) * GPT.num_layers, 64 * 12, 8 * 12, 12, 12, 64 * 12)
SHARDED = Plan(data_parallel=2, zero_stage=3)
MASTERS = replace(STACK, master_shards=True)


def memory(plan: Plan, stack: Stack, dtype: str = "bf16") -> dict[str, int]:
    return estimate(scenario(model=UNTIED, batch=Batch(16, 8, dtype), stack=stack), plan).memory_bytes[0]


def lasting(plan: Plan, stack: Stack, dtype: str = "bf16") -> tuple[int, int, int]:
    held = memory(plan, stack, dtype)
    return held["parameters"], held["gradients"], held["optimizer"]


def failed(plan: Plan, stack: Stack) -> list[str]:
    return [check.quantity for check in verify_plan(scenario(batch=Batch(16, 8), stack=stack), plan, "toy") if not check.ok]


def test_shards_of_masters_are_all_that_is_kept_of_a_parameter() -> None:
    """FSDP2: 4 bytes of the parameter, 4 of its gradient, 8 of two moments."""
    shards = sum(-(-weight // 2) for weight in WEIGHTS)
    assert lasting(SHARDED, MASTERS) == (4 * shards, 4 * shards, 8 * shards)
    assert lasting(SHARDED, STACK) == (2 * shards, 4 * shards, 12 * shards)
    assert read("stacks", "torchtitan").master_shards


def test_shards_of_masters_are_gathered_in_the_dtype_of_matmuls() -> None:
    masters, narrow = (estimate(scenario(batch=Batch(16, 8), stack=stack), SHARDED) for stack in (MASTERS, STACK))
    assert masters.sent_bytes == narrow.sent_bytes
    assert masters.memory_bytes[0]["transients"] == narrow.memory_bytes[0]["transients"]


@pytest.mark.parametrize(
    "change",
    [{"zero_stage": 2}, {"zero_stage": 1}, {"zero_stage": 0}, {"offload_optimizer": True}, {"data_parallel": 1}],
    ids=str,
)
def test_without_sharded_parameters_on_the_device_masters_are_copies(change: dict[str, object]) -> None:
    plan = replace(SHARDED, **change)  # type: ignore[arg-type]
    assert memory(plan, MASTERS) == memory(plan, STACK)


@pytest.mark.parametrize("dtype", ["bf16_pure", "fp32"])
def test_a_recipe_without_masters_shards_what_it_computes_with(dtype: str) -> None:
    assert memory(SHARDED, MASTERS, dtype) == memory(SHARDED, STACK, dtype)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"data_parallel": 3},
        {"data_parallel": 4, "zero_group": 2},
        {"reshard_after_forward": False},
        {"pipeline_parallel": 2},
        {"tensor_parallel": 2, "recompute": "full"},
        {"optimizer": "paged_adamw_8bit"},
    ],
    ids=str,
)
def test_shards_of_masters_are_executed_as_they_are_counted(change: dict[str, object]) -> None:
    plan = replace(SHARDED, **change)  # type: ignore[arg-type]
    batch = Batch(4 * plan.data_parallel, 8)
    chosen = scenario(batch=batch, stack=replace(STACKS[1], master_shards=True))
    assert not [check for check in verify_plan(chosen, plan, "toy") if not check.ok]


def test_a_mutant_that_keeps_copies_beside_shards_of_masters_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parsim.estimator.memory.state_bytes", lambda structure, sizes: state_bytes(structure, sizes) + 4)
    assert failed(SHARDED, MASTERS) == ["peak bytes"]
