"""What runs again or stays can be wrong, and is noticed: by gradients, or by what is kept and sent, counted on the page."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import estimate
from parsim.parallel import recomputation
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario
from parsim.step import recompute, structure
from parsim.step.task import Task
from parsim.verify import verify_plan
from support import GPT, scenario

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
