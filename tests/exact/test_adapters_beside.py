"""Adapters beside latent attention and experts, and tuning on the axes that few other tests cross with it: the contract holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

import parsim
from parsim.errors import ScenarioError
from parsim.estimator.estimate import estimate
from parsim.model.adapters import ALL, each_target
from parsim.model.parameters import num_parameters, num_trained_parameters
from parsim.model.tuning import BASE, Tuning
from parsim.parallel.legality import faults_of
from parsim.parallel.plan import Batch, Plan
from parsim.scenario.rows import read
from parsim.step import finish
from parsim.step.place import Placer
from parsim.verify.contract import verify_plan
from support import GPT, MOE, STACKS, enough, forget_steps, scenario, tiered

DROPPED = Tuning((BASE,), 4, 8.0, 0.1, each_target([ALL]))
PLAIN = replace(DROPPED, lora_dropout=0.0)
FUSED = replace(PLAIN, lora_targets=("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"))
DOWN_AND_UP = ("linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj", "linear_proj", "linear_fc2")
SHARED = replace(FUSED, share_expert_adapters=True)
PACKED = replace(PLAIN, quantization="nf4", double_quantization=True)
LATENT = replace(
    MOE,
    **{"num_experts": 0, "expert_ffn_hidden_size": 0, "shared_ffn_hidden_size": 0, "num_dense_layers": 0, "qk_norm": False},
    **{"num_kv_heads": 4, "head_dim": 5, "kv_lora_rank": 6, "q_lora_rank": 8},
    **{"qk_nope_head_dim": 3, "qk_rope_head_dim": 2, "v_head_dim": 4},
)
PARALLEL = replace(GPT, num_layers=2, parallel_block=True)
_IN_PARTS = {"tensor_parallel": 2, "data_parallel": 2, "expert_parallel": 2, "expert_tensor_parallel": 2, "zero_stage": 2}
BESIDE: list[tuple[str, bool, Any, Tuning, dict[str, Any]]] = [
    ("latent", False, LATENT, DROPPED, {"tensor_parallel": 2, "sequence_parallel": True}),
    ("latent fused cp", True, LATENT, replace(PLAIN, lora_targets=DOWN_AND_UP), {"context_parallel": 2, "context_kind": "ring"}),
    ("latent nf4", True, LATENT, PACKED, {"tensor_parallel": 2, "recompute": "full", "data_parallel": 2, "zero_stage": 2}),
    ("latent, whole queries", True, replace(LATENT, q_lora_rank=0), DROPPED, {"pipeline_parallel": 2}),
    ("experts", False, MOE, FUSED, {"data_parallel": 2, "expert_parallel": 2, "zero_stage": 2}),
    ("experts over tp", True, MOE, PLAIN, {"tensor_parallel": 2, "sequence_parallel": True, "expert_parallel": 2}),
    ("experts nf4", True, MOE, PACKED, {"data_parallel": 2, "expert_parallel": 2, "recompute": "full"}),
    ("experts in parts", False, MOE, FUSED, {"tensor_parallel": 2, "sequence_parallel": True, "expert_tensor_parallel": 2}),
    ("all experts", False, MOE, SHARED, {"data_parallel": 4, "expert_parallel": 2, "zero_stage": 1}),
    ("all experts in parts", True, MOE, replace(PACKED, share_expert_adapters=True), _IN_PARTS),
    ("latent experts", True, replace(LATENT, num_experts=4, expert_ffn_hidden_size=8, experts_per_token=2), PACKED, {"data_parallel": 2}),
    ("side by side", True, PARALLEL, DROPPED, {"tensor_parallel": 2, "sequence_parallel": True}),
    ("side by side, one sum", True, replace(PARALLEL, dropout=0.0), PLAIN, {"tensor_parallel": 2}),
]


def failed(toy: parsim.Scenario, plan: Plan) -> list[str]:
    return [check.quantity for check in verify_plan(toy, toy.legal_plan(plan), "toy") if not check.ok]


@pytest.mark.parametrize("case", [tiered((model, tuning, fields), name, slow=slow) for name, slow, model, tuning, fields in BESIDE])
def test_adapters_keep_the_contract_beside(case: tuple[Any, Tuning, dict[str, Any]]) -> None:
    model, tuning, fields = case
    plan = Plan(**fields)
    assert not failed(scenario(model=replace(model, tuning=tuning), batch=enough(plan), stack=STACKS[2]), plan)


def test_ranks_of_an_expert_share_out_the_rank_of_its_adapters() -> None:
    toy = scenario(model=replace(MOE, tuning=replace(FUSED, lora_rank=6)))
    (fault,) = faults_of(Plan(tensor_parallel=2, expert_parallel=1, expert_tensor_parallel=4), replace(toy.facts, num_devices=None))[-1:]
    assert fault.field == "expert_tensor_parallel" and "does not divide lora_rank = 6" in str(fault)


def test_ranks_of_an_expert_send_its_adapters_a_rank_a_token() -> None:
    """Of x A its columns are gathered, or its sum shared out, there and back: with two ranks half of what a slot has, each time."""
    plan, sent = Plan(tensor_parallel=2, expert_tensor_parallel=2), {}
    for name, targets in {"bare": (), "up": ("linear_fc1",), "both": ("linear_fc1", "linear_fc2")}.items():
        tuning = replace(FUSED, lora_targets=("linear_qkv", *targets))
        model = replace(MOE, num_layers=1, num_dense_layers=0, shared_ffn_hidden_size=0, tuning=tuning)
        sent[name] = estimate(scenario(model=model, batch=Batch(2, 8), stack=STACKS[2]), plan).sent_bytes[0]["etp"]
    of_tokens = 2 * 8 * 2 * 4 * 2  # bytes of two sequences of 8 tokens, of 2 slots each, in all ranks of the adapter, in bf16
    assert sent["up"] - sent["bare"] == sent["both"] - sent["up"] == 2 * of_tokens // 2


def _sums_of_no_expert_ranks(patch: pytest.MonkeyPatch) -> None:
    right = finish._partial_axes
    patch.setattr(finish, "_partial_axes", lambda *told: tuple([axis for axis in axes if axis != "ep"] for axes in right(*told)))


def _ranks_of_an_expert_take_their_own_part_for_the_sum(patch: pytest.MonkeyPatch) -> None:
    right = Placer.output

    def output(self, call, *told):  # type: ignore[no-untyped-def]
        found = right(self, call, *told)
        if call.name == "experts_down_lora_a_gemm":
            found = self.known[found.name] = replace(found, sharding=replace(found.sharding, partial={}))
        return found

    patch.setattr(Placer, "output", output)


@pytest.mark.parametrize(
    ("mutate", "quantity", "plan"),
    [
        (_sums_of_no_expert_ranks, "weight gradients", {"data_parallel": 2, "expert_parallel": 2}),
        (_ranks_of_an_expert_take_their_own_part_for_the_sum, "loss", {"tensor_parallel": 2, "expert_tensor_parallel": 2}),
    ],
)
def test_what_goes_wrong_with_adapters_of_all_experts_is_noticed(
    mutate: Callable[[pytest.MonkeyPatch], None], quantity: str, plan: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = scenario(model=replace(MOE, num_layers=1, num_dense_layers=0, tuning=SHARED), batch=enough(Plan(**plan)))
    forget_steps()
    mutate(monkeypatch)
    try:
        assert quantity in failed(toy, Plan(**plan))
    finally:
        forget_steps()


def test_one_adapter_of_all_experts_has_the_parameters_of_one() -> None:
    tuning = Tuning((BASE,), 4, 4.0, 0.0, ("gate_proj", "up_proj", "down_proj"), share_expert_adapters=True)
    assert num_trained_parameters(replace(read("models", "mixtral-8x7b"), tuning=tuning)) == 32 * 3 * 4 * (4096 + 14336)


def test_adapters_of_deepseek_v3_have_the_parameters_that_its_widths_give() -> None:
    whole, rank = read("models", "deepseek-v3"), 8
    model = replace(whole, tuning=Tuning((BASE,), rank, 16.0, 0.0, ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")))
    heads, width = 128, 7168  # DeepSeek-AI 2024 (arXiv:2412.19437), section 4.2
    ends = (width + 1536, 1536 + heads * (128 + 64), width + 512 + 64, 512 + heads * (128 + 128), heads * 128 + width)
    assert num_trained_parameters(model) == 61 * rank * sum(ends)
    assert num_parameters(model) == num_parameters(whole) + num_trained_parameters(model)


def test_each_expert_has_adapters_of_its_own() -> None:
    model = replace(read("models", "mixtral-8x7b"), tuning=Tuning((BASE,), 4, 4.0, 0.0, ("gate_proj", "up_proj", "down_proj")))
    assert num_trained_parameters(model) == 32 * 8 * 3 * 4 * (4096 + 14336)


@pytest.mark.parametrize(
    ("model", "tuning", "said"),
    [
        ("deepseek-v3", {"lora_rank": 4, "lora_targets": "k_proj"}, "has no k_proj"),
        ("deepseek-v3", {"lora_rank": 4, "lora_targets": ["kv_b_proj", "linear_kv_up_proj"]}, "name one linear layer"),
        ("llama3-8b", {"lora_rank": 4, "lora_targets": "kv_b_proj"}, "has no kv_b_proj"),
        ("mixtral-8x7b", {"lora_rank": 4, "lora_dropout": 0.1}, "is not built beside experts"),
        ("llama3-8b", {"lora_rank": 4, "share_expert_adapters": True}, "is of adapters beside experts"),
        ("mixtral-8x7b", {"lora_rank": 4, "lora_targets": "q_proj", "share_expert_adapters": True}, "is of adapters beside experts"),
        ("mixtral-8x7b", {"freeze": "mlp", "share_expert_adapters": True}, "is of adapters, which lora_rank asks for"),
        ("tiny-gpt", {"freeze": "head"}, "whose matrix is the embedding's"),
    ],
)
def test_adapters_that_a_model_has_no_place_for_are_refused(model: str, tuning: dict[str, Any], said: str) -> None:
    row = {"base": model, "mtp_layers": 0} if model == "deepseek-v3" else model
    batch = {"global_batch": 16, "sequence_length": 16}
    with pytest.raises(ScenarioError, match=said):
        parsim.from_mapping({"model": row, "cluster": {"node": "dgx-a100-80gb"}, "batch": batch, "tuning": tuning})
