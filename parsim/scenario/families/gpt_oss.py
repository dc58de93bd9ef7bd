"""gpt-oss: experts with biases, attention sinks, and a window in every other layer."""

from __future__ import annotations

from parsim.scenario.families import CHOSEN, COUNTS, ROTARY, ConfigFamily, register

register(
    ConfigFamily(
        fixed={**ROTARY, "activation": "clamped_swiglu", **dict.fromkeys(("bias", "qkv_bias", "attention_sinks"), True)},
        counts={**COUNTS, "num_experts": "num_local_experts", **CHOSEN},
        only={"hidden_act": "silu", "attention_bias": True, "swiglu_limit": 7.0},
        left_out={"num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128, "num_local_experts": 128, "num_experts_per_tok": 4},
        windows=True,
        full_every=2,
    ),
    "gpt_oss",
)
