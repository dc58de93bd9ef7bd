"""Falcon: an MLP beside attention, and one key for all heads (7B) or for some (40B); its first models (RW) have neither, but ALiBi.

Source: configuration_falcon.py and modeling_falcon.py of release 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsim.errors import ScenarioError
from parsim.scenario.families import COUNTS, ConfigFamily, count, flag, register
from parsim.scenario.tree import show


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    """new_decoder_architecture has heads that share keys in groups, and is always parallel."""
    is_new, heads = flag(config, "new_decoder_architecture"), count(config, "num_attention_heads")
    groups = count(config, "num_kv_heads") if is_new and config.get("num_kv_heads") is not None else heads
    is_parallel, norms = is_new or flag(config, "parallel_attn"), config.get("num_ln_in_parallel_attn")
    if isinstance(norms, bool) or norms not in ((None, 1, 2) if is_new else (None, 1)):
        raise ScenarioError(f"num_ln_in_parallel_attn = {show(norms)} is not read; 1 is, and with new_decoder_architecture 2")
    return {
        "num_kv_heads": groups if is_new or not flag(config, "multi_query") else 1,
        "positions": "alibi" if flag(config, "alibi") else "rotary",
        "parallel_block": is_parallel,
        "tied_norm": is_parallel and (norms == 1 or not is_new),
    }


register(
    ConfigFamily(
        fixed={"norm": "layer_norm"},
        counts={figure: key for figure, key in COUNTS.items() if figure != "ffn_hidden_size"},
        optional={"ffn_hidden_size": "ffn_hidden_size"},
        flags={"bias": "bias", "qkv_bias": "bias"},
        activation=("activation", "gelu", ("gelu", "relu")),
        dropouts=("hidden_dropout", "attention_dropout"),
        tied=True,
        only={"hidden_dropout": 0.0},  # where it is not, a sum of both branches is dropped
        left_out={"max_position_embeddings": 2048, "multi_query": True, "parallel_attn": True},
        more=_more,
        own=dict.fromkeys(("alibi", "multi_query", "new_decoder_architecture", "parallel_attn"), False),
    ),
    "falcon",
)
