"""Memory that libraries hold beside tensors, and the three quantities that are called a peak, by arithmetic on the page."""

from __future__ import annotations

from typing import Any

import pytest

import parsim
from parsim.estimator.parts import PARTS, QUANTITIES, held_bytes

MIB = 2**20
MODEL = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96, "num_heads": 4, "vocab_size": 128, "max_positions": 32}
EXPERTS = {**MODEL, "num_experts": 4, "experts_per_token": 2, "bias": False}


def _estimate(node: str, stack: Any, model: dict[str, Any] = MODEL, **plan: Any) -> parsim.Estimate:
    document = {
        "model": model,
        "cluster": {"node": node},
        "batch": {"global_batch": 8, "sequence_length": 32, "dtype": "bf16"},
        "stack": stack,
        "plans": {"a": {**plan}},
    }
    return parsim.estimate(parsim.from_mapping(document), "a")


@pytest.mark.parametrize(
    ("node", "model", "workspaces"),
    [
        ("dgx-a100-80gb", MODEL, 2 * (8 * MIB + MIB // 8) + 4 * MIB),
        ("hgx-h200", MODEL, 2 * 32 * MIB + 32 * MIB),
        ("hgx-h200", EXPERTS, 2 * 32 * MIB + 5 * 32 * MIB),
    ],
)
def test_two_threads_have_a_workspace_of_cublas_each_and_transformer_engine_one_and_four_for_experts(node, model, workspaces):
    """Beside them lie two scalars of 4 bytes, loss and norm; a stack without Transformer Engine has but the former."""
    stack = {"base": "megatron-core", "name": "no fusion", "source": "a test", "fusions": []}
    found, plain = (_estimate(node, each, model) for each in (stack, "pytorch-2"))
    assert found.memory_bytes[0]["workspaces"] == workspaces
    large = node == "hgx-h200"
    assert plain.memory_bytes[0]["workspaces"] == 2 * (32 * MIB if large else 8 * MIB + MIB // 8)
    assert plain.memory_bytes[0]["buffers"] in (4, 8, 12)


@pytest.mark.parametrize(("model", "tensor_parallel"), [(MODEL, 1), (MODEL, 2), (EXPERTS, 1)])
def test_fused_gradients_of_a_layer_have_placeholders_of_two_bytes_and_those_of_one_expert(model, tensor_parallel):
    """Of queries, keys, values, output 4 x 64 x 64 elements, of the MLP 2 x 64 x 96, of a router 64 x 4: however many layers."""
    router = 64 * 4 if "num_experts" in model else 0
    fused = _estimate("hgx-h200", "megatron-core", model, tensor_parallel=tensor_parallel).memory_bytes[0]["buffers"]
    stack = {"base": "megatron-core", "name": "apart", "source": "a test", "fusions": ["bias", "gelu"]}
    apart = _estimate("hgx-h200", stack, model, tensor_parallel=tensor_parallel).memory_bytes[0]["buffers"]
    assert fused - apart == 2 * ((4 * 64 * 64 + 2 * 64 * 96) // tensor_parallel + router)


def test_what_is_reserved_has_fragments_and_what_the_device_shows_context_and_communicators_too():
    stack = {"base": "pytorch-2", "name": "wasteful", "source": "a test", "allocator_slack": 0.25, "allocator": "other"}
    found = _estimate("hgx-h200", stack)
    (parts,) = found.memory_bytes
    assert parts["fragments"] == (parts["activations"] + parts["transients"]) // 4
    assert found.reserved_bytes - found.allocated_bytes == parts["fragments"]
    assert parts["context"] == 2**30
    assert found.device_bytes - found.reserved_bytes == parts["context"] + parts["communicators"]
    assert found.device_bytes == found.peak_bytes == sum(parts.values())
    assert [held_bytes(parts, each) for each in QUANTITIES] == [found.allocated_bytes, found.reserved_bytes, found.device_bytes]
    assert set(PARTS["device"]) == set(parts)


@pytest.mark.parametrize(("plan", "vocabulary"), [({}, 128), ({"tensor_parallel": 2}, 64), ({"pipeline_parallel": 2}, 128)])
def test_kept_logits_are_two_bytes_each_of_the_last_stage_and_holes_four(plan, vocabulary):
    """Of 32 tokens: what three micro_batches keep, and the holes of two copies."""
    stack = {"base": "pytorch-2", "name": "keeps", "source": "a test", "kept_logits": 3, "logit_holes": 2}
    plain, found = (_estimate("hgx-h200", each, **plan).memory_bytes for each in ({**stack, "kept_logits": 0, "logit_holes": 0}, stack))
    more = [{name: now - then for (name, now), then in zip(b.items(), a.values(), strict=True)} for a, b in zip(plain, found, strict=True)]
    assert not any(any(each.values()) for each in more[:-1])
    assert more[-1] == {**dict.fromkeys(more[-1], 0), "buffers": 3 * 2 * 32 * vocabulary, "fragments": 2 * 4 * 32 * vocabulary}


def test_gathered_logits_are_kept_whole_and_the_peak_of_many_plans_has_them_too():
    stack = {"base": "pytorch-2", "name": "keeps", "source": "a test", "kept_logits": 3, "gather_logits": True}
    plain, found = (_estimate("hgx-h200", each, tensor_parallel=2) for each in ({**stack, "kept_logits": 0}, stack))
    assert found.peak_bytes - plain.peak_bytes == 3 * 2 * 32 * 128
