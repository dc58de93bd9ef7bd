"""MPT: ALiBi, no biases, norms without a shift.  Source: configuration_mpt.py and modeling_mpt.py of release 5.24."""

from __future__ import annotations

from typing import Any

from parsim.errors import ScenarioError
from parsim.scenario.families import VOCABULARY, ConfigFamily, count, register
from parsim.scenario.tree import show

# Of attn_config, what can be read.
_ATTENTION = {
    **{"attn_type": "multihead_attention", "alibi": True, "qk_ln": False, "clip_qkv": None, "prefix_lm": False, "softmax_scale": None},
    **{"attn_pdrop": 0, "attn_uses_sequence_id": False},
}


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    attention = config.get("attn_config") or {}
    if not isinstance(attention, dict):
        raise ScenarioError(f"attn_config must be a mapping, not {show(attention)}")
    for key, legal in _ATTENTION.items():
        if attention.get(key, legal) != legal:
            raise ScenarioError(f"attn_config.{key} = {show(attention[key])} is not read; {show(legal)} is")
    return {**config, "ffn_hidden_size": count(config, "expansion_ratio") * count(config, "d_model")}


register(
    ConfigFamily(
        fixed={"norm": "layer_norm", "norm_bias": False, "positions": "alibi", "bias": False, "activation": "gelu"},
        counts={
            **{"num_layers": "n_layers", "hidden_size": "d_model", "num_heads": "n_heads", **VOCABULARY, "max_positions": "max_seq_len"},
            "ffn_hidden_size": "ffn_hidden_size",
        },
        optional={},
        dropouts=("resid_pdrop", "emb_pdrop"),
        tied=True,
        only={
            "no_bias": True,
            "norm_type": "low_precision_layernorm",
            "embedding_fraction": 1.0,
            "logit_scale": None,
            "expansion_ratio": 4,
        },
        left_out={"expansion_ratio": 4, "max_seq_len": 2048},
        prepare=_prepare,
    ),
    "mpt",
)
