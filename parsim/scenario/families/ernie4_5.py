"""ERNIE 4.5: Llama with one flag for all biases; with experts, some that all tokens pass, and dense layers first.

Source: configuration_ernie4_5.py, modeling_ernie4_5.py and those of ernie4_5_moe of release 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsim.errors import ScenarioError
from parsim.scenario.families import COUNTS, PLAIN, ConfigFamily, count, layers, register
from parsim.scenario.tree import show


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    last, num_layers = config.get("moe_layer_end_index"), layers(config)
    if last not in (None, -1, num_layers - 1):
        raise ScenarioError(f"moe_layer_end_index = {show(last)} is not read; -1 is, all layers from moe_layer_start_index on")
    first, shared = (count(config, key, 0) for key in ("moe_layer_start_index", "moe_num_shared_experts"))
    return {"num_dense_layers": first, "shared_ffn_hidden_size": shared * count(config, "moe_intermediate_size")}


register(
    ConfigFamily(flags={"bias": "use_bias", "qkv_bias": "use_bias"}, tied=True, left_out={"num_key_value_heads": 2, "head_dim": 128}),
    "ernie4_5",
)
register(
    ConfigFamily(
        fixed=PLAIN,
        counts={
            **{**COUNTS, "num_experts": "moe_num_experts", "experts_per_token": "moe_k"},
            "expert_ffn_hidden_size": "moe_intermediate_size",
        },
        only={"use_bias": False, "moe_layer_interval": 1},
        tied=True,
        left_out={
            **{"num_key_value_heads": 4, "moe_intermediate_size": 1536, "moe_k": 6, "moe_num_experts": 64},
            **{"moe_num_shared_experts": 2, "moe_layer_start_index": 1},
        },
        more=_more,
    ),
    "ernie4_5_moe",
)
