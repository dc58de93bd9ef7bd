"""What a test of Megatron Core runs where its row of golden values says nothing: its flags, its name, Megatron's defaults."""

from __future__ import annotations

from typing import Any

import pytest

from validate_rows import described

CASE = {"source_family": "mcore_ci", "dtype": "bf16"}


def _case(name: str, **more: str) -> dict[str, str]:
    return {**CASE, "source": f"NVIDIA/Megatron-LM @d98e8a64dd tests/functional_tests/test_cases/{name}/golden_values_dev.json", **more}


def test_a_gated_model_of_a_test_is_gpt_2_but_for_its_mlp_of_two_thirds(tmp_path):
    """4 x 1024 x 2 // 3 = 2730, and 42 times 64 are 2688; a gated model of anybody else is Llama's."""
    found = described(tmp_path, **_case("gpt/gpt3_mcore_te_tp1", mlp="swiglu")).model
    assert (found.ffn_hidden_size, found.tied_embedding, found.positions, found.norm, found.bias) == (
        2688,
        True,
        "learned",
        "layer_norm",
        True,
    )
    llama = described(tmp_path, **CASE, mlp="swiglu").model
    assert (llama.ffn_hidden_size, llama.tied_embedding, llama.norm) == (4096, False, "rms_norm")


@pytest.mark.parametrize(
    ("notes", "figure", "value"),
    [
        ("flags: untie-embeddings-and-output-weights=True; bf16=True", "tied_embedding", False),
        ("flags: position-embedding-type=rope; bf16=True", "positions", "rotary"),
        ("the last rank. disable-bias-linear=true", "bias", False),
        ("flags: normalization=RMSNorm", "norm", "rms_norm"),
        ("flags: swiglu=True", "tied_embedding", True),
    ],
)
def test_the_flags_in_the_notes_say_what_a_test_has_otherwise(tmp_path, notes: str, figure: str, value: Any):
    assert getattr(described(tmp_path, **_case("gpt/gpt3_mcore_te_tp1", notes=notes)).model, figure) == value


@pytest.mark.parametrize(
    ("name", "tokens"), [("bert/bert_mcore_tp1", 30522), ("gpt/gpt3_7b_tp1", 131073), ("gpt/gpt3_mcore_te_tp1", 50257)]
)
def test_a_test_has_the_tokens_of_its_tokenizer(tmp_path, name: str, tokens: int):
    assert described(tmp_path, **_case(name, vocab_size="")).model.vocab_size == tokens


@pytest.mark.parametrize(
    ("name", "notes", "ranks"), [("moe/a", "", 2), ("moe/a_etp1_ep4", "", 1), ("moe/a", "expert-tensor-parallel-size=1; b", 1)]
)
def test_ranks_split_each_expert_as_they_split_a_layer_unless_the_test_says_otherwise(tmp_path, name: str, notes: str, ranks: int):
    """Megatron-LM, megatron/training/arguments.py: --expert-tensor-parallel-size is the tensor parallel size where left out."""
    experts = {"num_experts": "4", "top_k": "1", "expert_parallel": "2", "sequence_parallel": "yes", "pipeline_parallel": "1"}
    assert described(tmp_path, **_case(name, notes=notes, **experts)).plan("row").expert_tensor_parallel == ranks
    assert described(tmp_path, **CASE, **experts).plan("row").expert_tensor_parallel == 1


def test_instances_of_an_optimizer_shard_its_states_among_their_own_replicas(tmp_path):
    row = _case("gpt/a", notes="overlap-grad-reduce=true; num-distributed-optimizer-instances=2", zero_stage="1")
    assert described(tmp_path, **row).plan("row").zero_group == 4 // 2
