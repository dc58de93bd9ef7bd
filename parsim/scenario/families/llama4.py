"""Llama 4: the part that reads text, with or without the configuration around it."""

from __future__ import annotations

from typing import Any

from parsim.errors import ScenarioError
from parsim.scenario.families import CHOSEN, COUNTS, FULL, NO_BIAS, ROTARY, ConfigFamily, count, layers, register


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """Without lists of layers that say what its counts do."""
    num_layers, step = layers(config), count(config, "interleave_moe_layer_step")
    turns = [int(place % 4 > 0) for place in range(1, num_layers + 1)]
    patterns: dict[str, list[Any]] = {
        "no_rope_layers": turns,  # 1 where there are positions
        "layer_types": ["chunked_attention" if each else FULL for each in turns],
        "moe_layers": [*range(step - 1, num_layers, step)],
    }
    for key, pattern in patterns.items():
        if config.get(key) not in (None, [], pattern):
            raise ScenarioError(f"{key} is not read where it is another pattern than each 4th layer, or each interleave_moe_layer_step-th")
    return {key: value for key, value in config.items() if key not in patterns}


register(
    ConfigFamily(
        fixed={
            **ROTARY,
            **{"bias": False, "qkv_bias": False, "qk_norm_weights": False, "gates": "own_sigmoid", "gates_on_input": True},
            **dict.fromkeys(("full_attention_every", "unturned_every"), 4),
        },
        counts={
            **{**COUNTS, "ffn_hidden_size": "intermediate_size_mlp", "num_experts": "num_local_experts", **CHOSEN},
            **dict.fromkeys(("expert_ffn_hidden_size", "shared_ffn_hidden_size"), "intermediate_size"),
            **{"expert_layer_every": "interleave_moe_layer_step", "attention_chunk": "attention_chunk_size"},
        },
        flags={"qk_norm": "use_qk_norm"},
        own={"attention_chunk_size": None, "no_rope_layers": None, "use_qk_norm": False},
        only={**NO_BIAS, "no_rope_layer_interval": 4},
        left_out={"num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 16, "num_experts_per_tok": 1, "use_qk_norm": True},
        prepare=_prepare,
    ),
    "llama4_text",
)
