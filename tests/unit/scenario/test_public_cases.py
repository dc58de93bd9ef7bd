"""Small inputs from public questions give their right value or the sentence that names what is not built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parsim import scenario
from parsim.errors import ScenarioError
from parsim.model.parameters import num_parameters
from parsim.model.transformer import TransformerSpec
from parsim.scenario import from_mapping

REST: dict[str, Any] = {"cluster": {"node": "dgx-a100-40gb"}, "batch": {"global_batch": 8, "sequence_length": 128}, "plans": {"a": {}}}


def model_of(**row: object) -> TransformerSpec:
    found = from_mapping({"model": row, **REST}).model
    assert isinstance(found, TransformerSpec)
    return found


def test_heads_of_a_base_that_has_as_many_kv_heads_stay_as_many() -> None:
    changed = model_of(base="gpt2-small", hidden_size=1024, num_heads=16)
    assert (changed.num_kv_heads, changed.head_dim, changed.ffn_hidden_size) == (16, 64, 4096)


def test_a_wider_base_is_wider_in_all_that_follows_from_its_width() -> None:
    changed = model_of(base="gpt2-small", hidden_size=1536)
    width, layers = 1536, 12
    block = 12 * width * width + 13 * width  # four matrices of attention, eight of the MLP; nine biases and two norms of 2 x width
    assert num_parameters(changed) == layers * block + (50_257 + 1024) * width + 2 * width == 418_748_928  # base3.yaml: 418.8 M


def test_figures_that_the_base_states_for_itself_stay() -> None:
    changed = model_of(base="llama3-8b", num_layers=16, hidden_size=2048)
    assert (changed.num_kv_heads, changed.head_dim, changed.ffn_hidden_size) == (8, 64, 14_336)  # 8 of 32 heads and 3.5 x 4096 are no rule


def test_a_stated_figure_of_a_changed_base_is_kept() -> None:
    changed = model_of(base="gpt2-small", hidden_size=1536, ffn_hidden_size=3072, head_dim=64)
    assert (changed.ffn_hidden_size, changed.head_dim) == (3072, 64)


CASES = Path(__file__).parents[4] / "shared" / "cases"
# File -> the parts of the sentences that it asks for; () where the file is right as it stands.
SENTENCES = {
    "alibi.yaml": ("'alibi', which is not built",),
    "base1.yaml": (),
    "base3.yaml": (),
    "casual.yaml": (
        "batch.micro_batch_size: unknown key; give it as plans.NAME.micro_batch",
        "plans.a.zero: unknown key (did you mean 'zero_stage'?)",
        "plans.a.tp: unknown key (did you mean 'tensor_parallel'?)",
        "cluster.gpu: unknown key (did you mean 'node'?)",
        "cluster.num_gpus: unknown key (did you mean 'num_devices'?)",
        "batch.seq_len: unknown key (did you mean 'sequence_length'?)",
        "batch.tokens: unknown key: the tokens of a step are global_batch x sequence_length",
        "unknown model 'Llama-3.1-8B' (did you mean 'llama3-8b'?)",
    ),
    "cost7b.yaml": ("batch.total_tokens: unknown key: time and cost of a whole training are not built",),
    "eth.yaml": (),
    "fp8.yaml": ("which is not built yet; known: fp32, tf32, bf16",),
    "geglu.yaml": (
        "'geglu', which is a gate that is not built",
        "norms of queries and keys are not built",
        "MLPs beside attention are not built",
    ),
    "hf-falcon-7b.yaml": ("model_type 'falcon' is not built",),
    "hf-gemma-2-2b.yaml": ("model_type 'gemma2' is not built",),
    "hf-gpt-neox-20b.yaml": ("model_type 'gpt_neox' is not built",),
    "hf-mixtral-8x7b.yaml": ("model_type 'mixtral' is not built: experts",),
    "hf-opt-1.3b.yaml": ("model_type 'opt' is not read",),
    "hf-phi-3-mini.yaml": ("model_type 'phi3' is not read",),
    "hf-qwen3-8b.yaml": ("model_type 'qwen3' is not built: norms of queries and keys",),
    "hfu.yaml": (),
    "infer.yaml": ("inference is not built: only training steps are predicted",),
    "kvtp.yaml": ("replicating kv heads is not built",),
    "lora.yaml": ("frozen weights, adapters (LoRA) and quantized weights are not built",),
    "mistralsw.yaml": ("sliding_window = 4096 is below the 32768 tokens of a sequence",),
    "mixed.yaml": ("mixed nodes are not built",),
    "moe.yaml": ("experts are not built",),
    "seq128kb.yaml": ("context parallelism is not built",),
    "zero2ga.yaml": (),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_public_case_is_right_or_says_what_is_not_built(name: str) -> None:
    if not (CASES / name).exists():
        pytest.skip(f"no {CASES / name} here")
    if not SENTENCES[name]:
        assert scenario.check(CASES / name) == []
        return
    with pytest.raises(ScenarioError) as caught:
        scenario.load(CASES / name)
    for part in SENTENCES[name]:
        assert part in str(caught.value)
    others = [fault for fault in caught.value.faults if "missing; give" not in fault.message]
    assert all(any(part in str(fault) for part in SENTENCES[name]) for fault in others if name != "casual.yaml")
