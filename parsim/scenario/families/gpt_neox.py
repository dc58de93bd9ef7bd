"""GPT-NeoX and Pythia: an MLP beside attention, each with a norm, and a quarter of each head turned.

Source: configuration_gpt_neox.py and modeling_gpt_neox.py of release 5.24; rotary_pct of release 4.51.
"""

from __future__ import annotations

from typing import Any

from parsim.scenario.families import SHARE_TURNED, ConfigFamily, register


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    return {SHARE_TURNED: config.get("rotary_pct", 0.25), **config}


register(
    ConfigFamily(
        fixed={"norm": "layer_norm", "positions": "rotary", "bias": True},
        optional={},
        flags={"qkv_bias": "attention_bias", "out_bias": "attention_bias", "parallel_block": "use_parallel_residual"},
        activation=("hidden_act", "gelu", ("gelu", "relu")),
        dropouts=("hidden_dropout",),
        dropped={"scores_dropped": "attention_dropout"},
        only={"is_decoder": False},
        left_out={"attention_bias": True, "use_parallel_residual": True},
        prepare=_prepare,
        own={"use_parallel_residual": False},
    ),
    "gpt_neox",
)
