"""What runs again or stays can be wrong, and is noticed: by gradients, or by what is kept and sent, counted on the page."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import estimate
from parsim.parallel import recomputation
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario
from parsim.step import lower, recompute, structure
from parsim.step.task import Task
from parsim.verify import verify_plan
from support import GPT, STACK, forget_steps, scenario

SPLIT = Plan(tensor_parallel=2, sequence_parallel=True)
LLAMA = replace(GPT, num_kv_heads=2, activation="swiglu", dropout=0.0, norm="rms_norm", positions="rotary", bias=False, qkv_bias=False)
NORMS = Plan(recompute_modules=("layernorm",))


def _wrong(chosen: Scenario, plan: Plan) -> set[str]:
    return {check.quantity for check in verify_plan(chosen, plan, "p") if not check.ok}


@pytest.mark.parametrize("ops", [("attention_add", "norm2_wide"), ("out_gemm", "attention_add", "norm2_wide"), ("k_gemm",)], ids=" ".join)
def test_gradients_notice_an_op_that_runs_again_without_what_made_its_buffer(ops: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def named_alone(forward: Sequence[Task], names: Sequence[str]) -> list[int]:
        return [place for place, task in enumerate(forward) if getattr(task, "name", "") in names]

    monkeypatch.setattr(recompute, "_chosen", named_alone)
    assert "weight gradients" in _wrong(scenario(model=LLAMA), replace(SPLIT, recompute_ops=ops))


def test_bytes_on_the_page_notice_a_region_that_runs_again_without_its_collectives(monkeypatch: pytest.MonkeyPatch) -> None:
    right = recompute.tag_of
    monkeypatch.setattr(recompute, "tag_of", lambda task: right(task) if not hasattr(task, "operation") else "")
    plans = Plan(tensor_parallel=2), Plan(tensor_parallel=2, recompute_modules=("mlp",))
    plain, again = (estimate(scenario(), plan).sent_bytes[0]["tp"] for plan in plans)
    assert plain == again  # and not an all_reduce a layer and micro_batch more


KEEPING = replace(STACK, keeps_gathered=True)


def test_bytes_on_the_page_notice_that_kept_tokens_are_gathered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 layers with 2 gatherings each, and of the head: half of 8 tokens x 12 x bf16 each, in each of 8 micro_batches."""
    again, kept = (estimate(scenario(stack=stack), SPLIT) for stack in (STACK, KEEPING))
    assert again.sent_bytes[0]["tp"] - kept.sent_bytes[0]["tp"] == 8 * (4 * 2 + 1) * 96
    assert kept.memory_bytes[0]["activations"] - again.memory_bytes[0]["activations"] == (4 * 2 + 1) * 96
    right = lower.before_use
    monkeypatch.setattr(lower, "before_use", lambda *args, keeps: right(*args, keeps=False))
    forget_steps()
    assert estimate(scenario(stack=KEEPING), SPLIT).sent_bytes[0]["tp"] == again.sent_bytes[0]["tp"]


@pytest.mark.slow
@pytest.mark.parametrize("plan", [NORMS, Plan(recompute="full"), Plan(recompute_modules=("mlp",)), Plan(recompute="selective")], ids=str)
def test_kept_tokens_are_executed_as_predicted_whatever_runs_again(plan: Plan) -> None:
    plan = replace(plan, tensor_parallel=2, sequence_parallel=True)
    for model in (GPT, LLAMA):
        assert not _wrong(scenario(model=model, stack=KEEPING), plan)


def test_norms_that_a_stack_writes_out_in_float32_keep_two_bytes_more_an_element() -> None:
    """Of 2 norms in each of 4 layers, and of the last: 8 tokens x 12."""
    wide = replace(STACK, wide_norms=True)
    held = [estimate(scenario(model=LLAMA, stack=stack), Plan()).memory_bytes[0]["activations"] for stack in (STACK, wide)]
    assert held[1] - held[0] == (4 * 2 + 1) * 8 * 12 * 2
    assert estimate(scenario(stack=wide), Plan()).memory_bytes == estimate(scenario(), Plan()).memory_bytes  # LayerNorm is a kernel


def test_memory_on_the_page_notices_norms_whose_results_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = GPT.num_layers * 2 * 8 * 2 * 12  # layers x norms x tokens x bf16 x width
    held = [estimate(scenario(), plan).memory_bytes[0]["activations"] for plan in (Plan(), NORMS)]
    assert held[0] - held[1] == saved
    monkeypatch.setattr(recomputation, "CHECKPOINTED", ("core_attn", "mlp", "layernorm"))
    assert held[0] - estimate(scenario(), NORMS).memory_bytes[0]["activations"] < saved


def test_bytes_on_the_page_notice_parameters_that_a_pipeline_gathers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Plan(data_parallel=2, pipeline_parallel=2, zero_stage=3, reshard_after_forward=False)
    again = replace(kept, reshard_after_forward=True)
    right, passed = (estimate(scenario(), plan).sent_bytes[0]["dp"] for plan in (kept, again))
    assert right < passed
    monkeypatch.setattr(structure, "keeps_parameters", lambda plan, stack: False)
    assert estimate(scenario(), kept).sent_bytes[0]["dp"] == passed
