"""What a parameter and its gradient take under a stack, from its first byte to its last, by arithmetic on the page."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from parsim import from_mapping
from parsim.cost.buckets import Role, lasting_parts
from parsim.cost.count import state_bytes
from parsim.estimator.estimate import estimate
from parsim.estimator.memory import _end_bytes
from parsim.executor import bind, calls
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario.rows import read
from parsim.step.structure import Structure
from parsim.step.task import Part
from parsim.verify import verify_plan
from support import GPT, STACK, STACKS, enough, every_other, scenario

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
    return [check.quantity for check in verify_plan(scenario(batch=enough(plan), stack=stack), plan, "toy") if not check.ok]


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
    chosen = scenario(batch=enough(plan), stack=replace(STACKS[1], master_shards=True))
    assert not [check for check in verify_plan(chosen, plan, "toy") if not check.ok]


NARROW = replace(STACK, narrow_gradients=True)


@pytest.mark.parametrize(("plan", "copies"), [(Plan(), 1), (Plan(data_parallel=2), 1), (Plan(data_parallel=2, zero_stage=1), 2)])
def test_gradients_of_a_micro_batch_may_last_beside_those_in_float32(plan: Plan, copies: int) -> None:
    """Two bytes more a parameter, whole on each rank; no micro_batch makes a part of its own; nothing else changes."""
    flat = sum(-(-weight // copies) * copies for weight in WEIGHTS)
    both, alone = memory(plan, NARROW), memory(plan, STACK)
    assert (both["gradients"], alone["gradients"]) == (4 * flat + 2 * sum(WEIGHTS), 4 * flat)
    assert all(both[part] == alone[part] for part in ("parameters", "optimizer", "activations"))
    chosen = (scenario(batch=Batch(16, 8), stack=stack) for stack in (NARROW, STACK))
    assert len({estimate(each, plan).step_s for each in chosen}) == 1


@pytest.mark.parametrize(
    ("change", "stack"),
    [
        ({"zero_stage": 2}, NARROW),
        ({"zero_stage": 3}, NARROW),
        ({}, replace(NARROW, gradient_dtype="compute")),
        ({}, replace(NARROW, fusions=("gradient_accumulation",))),
    ],
    ids=str,
)
def test_gradients_that_are_shared_out_or_added_up_at_once_have_no_narrow_ones(change: dict[str, object], stack: Stack) -> None:
    plan = replace(Plan(data_parallel=2), **change)  # type: ignore[arg-type]
    assert memory(plan, stack) == memory(plan, replace(stack, narrow_gradients=False))


@pytest.mark.parametrize("dtype", ["bf16_pure", "fp32"])
def test_gradients_of_one_dtype_are_kept_once(dtype: str) -> None:
    stack = replace(NARROW, gradient_dtype="compute")
    assert memory(Plan(), stack, dtype) == memory(Plan(), STACK if dtype == "fp32" else replace(STACK, gradient_dtype="compute"), dtype)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(data_parallel=2, zero_stage=1),
        Plan(pipeline_parallel=2, schedule="zero_bubble_h1"),
        Plan(tensor_parallel=2, sequence_parallel=True, recompute="full"),
    ],
)
def test_narrow_gradients_are_executed_as_they_are_counted(plan: Plan) -> None:
    chosen = scenario(batch=enough(plan), stack=replace(STACKS[1], narrow_gradients=True))
    assert not [check for check in verify_plan(chosen, plan, "toy") if not check.ok]


def test_a_mutant_that_leaves_narrow_gradients_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parsim.simulator.memory.lasting_parts", _without_narrow)
    assert failed(Plan(data_parallel=2), NARROW) == ["peak bytes, simulated"]


def _without_narrow(structure: Structure) -> dict[Role, Part]:
    return {role: part for role, part in lasting_parts(structure).items() if role != "narrow_gradients"}


def test_a_mutant_that_adds_to_narrow_gradients_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a micro_batch leaves there is replaced by the next one's."""
    right = calls.pass_kernel

    def pass_kernel(*args: Any) -> calls.KernelUse:
        use = right(*args)
        return replace(use, modes={**use.modes, "overwrite": False, "accumulate": True}) if use.modes["overwrite"] else use

    monkeypatch.setattr(bind, "pass_kernel", pass_kernel)
    assert "weight gradients, by hand" in failed(Plan(data_parallel=2), NARROW)


OP_BY_OP = replace(STACK, multi_tensor_update=True)
REPLICAS = {"data_parallel": 2}


@pytest.mark.parametrize(
    ("change", "elements"),
    [({}, sum(WEIGHTS)), (REPLICAS, sum(WEIGHTS)), ({**REPLICAS, "zero_stage": 1}, sum(-(-weight // 2) for weight in WEIGHTS))],
    ids=str,
)
def test_an_update_op_by_op_makes_a_float32_tensor_of_all_that_it_updates(change: dict[str, Any], elements: int) -> None:
    """The roots of AdamW's second moments, when no activation is left: the peak is the larger of the two moments, not their sum."""
    at_once, op_by_op = (memory(Plan(**change), stack) for stack in (STACK, OP_BY_OP))
    in_passes = at_once["activations"] + at_once["transients"]
    assert op_by_op["activations"] + op_by_op["transients"] == max(in_passes, 4 * elements)
    assert (op_by_op["activations"] == 0) == (4 * elements > in_passes)
    assert all(op_by_op[part] == at_once[part] for part in ("parameters", "gradients", "optimizer", "buffers"))


@pytest.mark.parametrize(
    "change",
    [
        {"offload_optimizer": True},
        {"optimizer": "sgd_momentum"},
        {"optimizer": "adamw_8bit"},
        {"optimizer_in_backward": True, "micro_batch": 2},
    ],
    ids=str,
)
def test_updates_elsewhere_or_by_kernels_of_their_own_make_none(change: dict[str, Any]) -> None:
    chosen = (scenario(batch=Batch(2, 8), stack=stack) for stack in (OP_BY_OP, STACK))
    op_by_op, at_once = (estimate(each, Plan(**change)).memory_bytes for each in chosen)
    assert op_by_op == at_once


@pytest.mark.parametrize(
    "stack", [OP_BY_OP, replace(OP_BY_OP, gradient_dtype="compute", gradient_copies="update")], ids=["torch", "copies"]
)
def test_the_replica_that_updates_for_all_holds_what_each_does_by_itself(stack: Stack) -> None:
    """The peak is that of the one that updates; it makes the same tensors."""
    assert memory(Plan(**REPLICAS, gradient_sync="master"), stack) == memory(Plan(**REPLICAS), stack)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {**REPLICAS, "zero_stage": 3},
        {**REPLICAS, "gradient_sync": "master"},
        {"pipeline_parallel": 2},
        {"data_parallel": 4, "zero_stage": 1, "zero_group": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("num_layers", [2, 4])
def test_temporaries_of_an_update_are_held_as_they_are_counted(change: dict[str, Any], num_layers: int) -> None:
    plan, model = Plan(**change), replace(GPT, num_layers=num_layers)
    chosen = scenario(model=model, batch=enough(plan), stack=replace(STACKS[2], multi_tensor_update=True))
    assert not [check for check in verify_plan(chosen, plan, "toy") if not check.ok]


@pytest.mark.parametrize(
    ("target", "mutant", "quantity"),
    [
        ("parsim.estimator.memory._end_bytes", lambda stages: 0 * _end_bytes(stages), "peak bytes"),
        ("parsim.simulator.memory._finish_bytes", lambda workload, held, live: live, "peak bytes, simulated"),
    ],
)
def test_a_mutant_that_leaves_temporaries_out_is_noticed(target: str, mutant: Any, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, mutant)
    assert failed(Plan(), OP_BY_OP) == [quantity]


CAST = replace(STACK, gradient_dtype="compute", gradient_copies="update")
SUMMED = replace(NARROW, gradient_copies="sum")


@pytest.mark.parametrize(
    ("stack", "change", "copies"),
    [
        (CAST, {}, (2 + 4) * sum(WEIGHTS)),
        (CAST, {**REPLICAS, "zero_stage": 1}, (2 + 4) * sum(-(-weight // 2) for weight in WEIGHTS)),
        (CAST, {**REPLICAS, "zero_stage": 3}, 0),
        (CAST, {"offload_optimizer": True}, 0),
        (SUMMED, {**REPLICAS, "zero_stage": 1}, 2 * sum(WEIGHTS)),
        (SUMMED, {**REPLICAS, "zero_stage": 3}, 0),
        (replace(SUMMED, gradient_dtype="compute"), {}, 0),
    ],
    ids=str,
)
def test_copies_of_gradients_come_on_top_of_what_activations_left(stack: Stack, change: dict[str, Any], copies: int) -> None:
    """Two bytes of a flat gradient and four of one in float32, or two for the sum; live tensors are the larger of the two moments."""
    without, told = (memory(Plan(**change), each) for each in (replace(stack, gradient_copies="none"), stack))
    in_passes = without["activations"] + without["transients"]
    assert told["activations"] + told["transients"] == max(in_passes, copies)
    assert told["fragments"] == min(in_passes, copies)


COPIED: dict[str, dict[str, Any]] = {
    "alone": {},
    "zero1": {**REPLICAS, "zero_stage": 1},
    "zero2, tp": {**REPLICAS, "zero_stage": 2, "tensor_parallel": 2},
}
STACKED = [(kind, num_layers) for kind in ("update", "sum") for num_layers in (1, 4)]


@pytest.mark.parametrize("case", every_other(COPIED, STACKED, "{}-{}".format))
def test_copies_of_gradients_are_held_as_they_are_counted(case: tuple[str, tuple[str, int]]) -> None:
    change, (kind, num_layers) = COPIED[case[0]], case[1]
    stack: Stack = {"update": CAST, "sum": SUMMED}[kind]
    plan, model = Plan(**change), replace(GPT, num_layers=num_layers)
    chosen = scenario(model=model, batch=Batch(2 * plan.data_parallel, 8), stack=stack)
    assert not [check for check in verify_plan(chosen, plan, "toy") if not check.ok]


@pytest.mark.parametrize("stack", [CAST, SUMMED], ids=["update", "sum"])
def test_a_mutant_that_leaves_copies_of_gradients_out_is_noticed(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    one = scenario(model=replace(GPT, num_layers=1), batch=Batch(1, 2), stack=stack)
    monkeypatch.setattr("parsim.estimator.memory._end_bytes", lambda stages: 0 * _end_bytes(stages))
    assert [check.quantity for check in verify_plan(one, Plan(), "toy") if not check.ok] == ["peak bytes"]


# (layers, hidden_size, heads), (data, tensor, pipeline, micro_batch), decimal GB by nvidia-smi, as far as it tells; None: out of memory.
# Source: bigscience-workshop/bigscience, train/tr11-176B-ml/chronicles-prequel.md, "Rebalancing layers", the BF16 optimizer on A100 80GB.
BLOOM = [
    ((106, 12288, 64), (8, 4, 12, 2), 67),
    ((106, 12288, 96), (8, 4, 12, 4), 79),
    ((100, 12288, 64), (8, 8, 6, 2), 61),
    ((94, 13312, 128), (8, 4, 12, 2), 67),
    ((70, 14336, 64), (8, 4, 12, 2), 59),
    ((100, 12288, 64), (16, 4, 6, 1), None),
]


@pytest.mark.parametrize(("model", "plan", "measured_gb"), BLOOM, ids=str)
def test_memory_of_bloom_is_that_of_its_chronicle(model: tuple[int, ...], plan: tuple[int, ...], measured_gb: int | None) -> None:
    shape = dict(zip(("num_layers", "hidden_size", "num_heads"), model, strict=True))
    degrees = dict(zip(("data_parallel", "tensor_parallel", "pipeline_parallel", "micro_batch"), plan, strict=True))
    told = from_mapping(
        {
            "model": {**shape, "vocab_size": 250_880, "max_positions": 2048},
            "cluster": {"node": "dgx-a100-80gb", "num_nodes": 48, "fabric": "omni-path-100"},
            "batch": {"global_batch": 2048, "sequence_length": 2048},
            "stack": "megatron-deepspeed-2022",
            "plans": {"a": {**degrees, "zero_stage": 1, "recompute": "full"}},
        }
    )
    found = estimate(told, told.plans["a"])
    assert found.fits == (measured_gb is not None)
    if measured_gb:
        assert found.peak_bytes / 1e9 == pytest.approx(measured_gb, rel=0.03)


def test_a_stack_that_has_a_kernel_for_the_update_makes_no_temporaries() -> None:
    stacks = ("pytorch-2", "plain-pytorch", "torchtitan", "megatron-core", "deepspeed")
    assert [name for name in stacks if read("stacks", name).multi_tensor_update] == ["pytorch-2", "plain-pytorch"]


def test_a_mutant_that_keeps_copies_beside_shards_of_masters_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parsim.estimator.memory.state_bytes", lambda structure, sizes: state_bytes(structure, sizes) + 4)
    assert failed(SHARDED, MASTERS) == ["peak bytes"]
