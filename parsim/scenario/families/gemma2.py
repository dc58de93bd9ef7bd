"""Gemma 2: norms before and behind attention and MLP, soft caps, and a window in every other layer.

Source: configuration_gemma2.py and modeling_gemma2.py of release 5.24; Gemma Team 2024 (arXiv:2408.00118), section 2.
"""

from __future__ import annotations

from parsim.scenario.families import NO_BIAS, ConfigFamily, register
from parsim.scenario.families.gemma import GEMMA, by_root_of_width

CAPS = {key: key for key in ("attn_logit_softcapping", "final_logit_softcapping")}
SIZES = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_size": 2304, "intermediate_size": 9216}


register(
    ConfigFamily(
        fixed={**GEMMA, "sandwich_norm": True},
        numbers=CAPS,
        activation=("hidden_activation", "gelu_pytorch_tanh", ("geglu",)),
        only=NO_BIAS,
        tied=True,
        left_out={
            **{**SIZES, "num_hidden_layers": 26, "vocab_size": 256_000, "max_position_embeddings": 8192, "sliding_window": 4096},
            **{"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        },
        windows=True,
        full_every=2,
        more=by_root_of_width,
        own=dict.fromkeys(CAPS),
    ),
    "gemma2",
)
