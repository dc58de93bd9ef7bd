"""Seed-OSS: Llama with biases of queries, keys and values, and dropout.

Source: configuration_seed_oss.py and modeling_seed_oss.py of release 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsim.scenario.families import ROTARY, ConfigFamily, biases, flag, register


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    return biases(qkv=flag(config, "attention_bias"), out=flag(config, "attention_out_bias"), mlp=flag(config, "mlp_bias"))


register(
    ConfigFamily(
        fixed={**ROTARY, "embedding_dropped": False},
        dropouts=("residual_dropout",),
        dropped={"scores_dropped": "attention_dropout"},
        default_dropout=0.1,
        left_out={"num_key_value_heads": 8, "head_dim": 128, "attention_bias": True},
        more=_more,
    ),
    "seed_oss",
)
