"""Phi-3.5-MoE: LayerNorm, biases of attention and of logits, and experts in every layer.

Its two experts are chosen one after the other (SparseMixer), which is read as shares of all: no matmul follows from that.
Source: configuration_phimoe.py and modeling_phimoe.py of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import CHOSEN, COUNTS, ConfigFamily, register
from parsim.scenario.families.olmo2 import OF_ATTENTION

register(
    ConfigFamily(
        fixed={"norm": "layer_norm", "positions": "rotary", "mlp_bias": False, "gates": "pre_softmax"},
        counts={**COUNTS, "num_experts": "num_local_experts", **CHOSEN},
        flags={**OF_ATTENTION, "head_bias": "lm_head_bias"},
        only={"mlp_bias": False, "hidden_dropout": 0.0},
        windows=True,
        left_out={"num_key_value_heads": 8, "num_local_experts": 16, "num_experts_per_tok": 2},
    ),
    "phimoe",
)
