"""Memory that torchtune publishes of single devices: the allocator's peak, so without the CUDA context, which is `context` here.

Source: README of meta-pytorch/torchtune@bd2a0fc7 (Memory and training speed; Optimization flags): 2 sequences a step, packed to 2048 and
4096 tokens, and compiled layers; recipes/configs/llama3_1 and llama3_2.  Left out are rows whose layout is not stated (of an A6000), and
those that keep activations on the host, which is not built (from "Activation Offloading" down).
"""

from __future__ import annotations

from typing import Any

import pytest

import parsim
from parsim.units import parse

LLAMA_8B = {"base": "llama3-8b", "max_positions": 131072}
LLAMA_3B = {
    **{"base": "llama3-8b", "name": "llama3.2-3b", "num_layers": 28, "hidden_size": 3072, "ffn_hidden_size": 8192, "num_heads": 24},
    **{"num_kv_heads": 8, "head_dim": 128, "max_positions": 131072, "tied_embedding": True},
}
LORA = {"lora_rank": 8, "lora_alpha": 16, "lora_targets": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
QLORA = {**LORA, "quantization": "nf4", "double_quantization": True}
IN_BACKWARD = {"optimizer_in_backward": True}
PAGED = {"optimizer": "paged_adamw_8bit", **IN_BACKWARD}
AGAIN = {"recompute": "full"}
# Llama 3.1 8B in 2048 tokens on an RTX 4090, and 3.2 3B in 4096 on an A100.
PUBLISHED: list[tuple[str, dict[str, Any], int, dict[str, Any], dict[str, Any]]] = [
    ("18.9 GiB", LLAMA_8B, 2048, {**AGAIN, **PAGED}, {}),
    ("16.2 GiB", LLAMA_8B, 2048, AGAIN, LORA),
    ("7.4 GiB", LLAMA_8B, 2048, AGAIN, QLORA),
    ("42.9 GiB", LLAMA_3B, 4096, {}, {}),
    ("24.9 GiB", LLAMA_3B, 4096, AGAIN, {}),
    ("23.1 GiB", LLAMA_3B, 4096, {**AGAIN, **IN_BACKWARD}, {}),
]


@pytest.mark.parametrize(("peak", "model", "length", "plan", "tuning"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_torchtune_needs_the_memory_that_it_says(
    peak: str, model: dict[str, Any], length: int, plan: dict[str, Any], tuning: dict[str, Any]
) -> None:
    document = {
        "model": model,
        "cluster": {"node": "dgx-a100-80gb", "num_devices": 1},
        "batch": {"global_batch": 2, "sequence_length": length, "dtype": "bf16_pure"},
        "stack": "torchtune-compiled",
        "plans": {"a": {"micro_batch": 2, **plan}},
        **({"tuning": tuning} if tuning else {}),
    }
    (found,) = parsim.estimate(parsim.from_mapping(document), "a").memory_bytes
    assert sum(found.values()) - found["context"] == pytest.approx(parse(peak, "bytes"), rel=0.1)
