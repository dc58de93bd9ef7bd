"""Qwen3 with experts in every layer.  Source of what keys left out are: release 4.51."""

from __future__ import annotations

from typing import Any

from parsim.scenario.families import CHOSEN, COUNTS, NO_BIAS, PLAIN, ConfigFamily, gates_of_shares, register


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With the name that the number of experts had before release 5."""
    experts = config.get("num_local_experts")
    rest = {key: each for key, each in config.items() if key != "num_local_experts"}
    return rest if experts is None else {**rest, "num_experts": experts}


register(
    ConfigFamily(
        windows=True,
        fixed={**PLAIN, "qk_norm": True},
        counts={**COUNTS, "num_experts": "num_experts", **CHOSEN, "expert_ffn_hidden_size": "moe_intermediate_size"},
        only={**NO_BIAS, "decoder_sparse_step": 1, "mlp_only_layers": []},
        left_out={"num_key_value_heads": 4, "use_sliding_window": False, "num_experts": 128, "num_experts_per_tok": 8},
        prepare=_prepare,
        more=gates_of_shares,
    ),
    "qwen3_moe",
    "qwen3_vl_moe_text",
)
