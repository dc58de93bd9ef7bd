"""Qwen1.5-MoE and Qwen2-57B-A14B: experts beside one that all tokens pass, which has a gate of its own.

Source: configuration_qwen2_moe.py and modeling_qwen2_moe.py (`Qwen2MoeSparseMoeBlock`) of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import CHOSEN, COUNTS, NO_BIAS, PLAIN, QWEN, ConfigFamily, gates_of_shares, register

register(
    ConfigFamily(
        windows=True,
        fixed={**PLAIN, "shared_expert_gate": True},
        counts={
            **{**COUNTS, "num_experts": "num_experts", **CHOSEN, "expert_ffn_hidden_size": "moe_intermediate_size"},
            **{"shared_ffn_hidden_size": "shared_expert_intermediate_size", "expert_layer_every": "decoder_sparse_step"},
        },
        flags={"qkv_bias": "qkv_bias"},
        only={**NO_BIAS, "mlp_only_layers": [], "use_sliding_window": False},
        left_out={
            **{**QWEN, "num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408},
            **{"shared_expert_intermediate_size": 5632, "decoder_sparse_step": 1, "qkv_bias": True},
        },
        more=gates_of_shares,
    ),
    "qwen2_moe",
)
