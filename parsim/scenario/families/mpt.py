"""MPT: ALiBi, no biases, norms without a shift.

Source: configuration_mpt.py and modeling_mpt.py of release 5.24; the further keys of mosaicml/llm-foundry, modeling of MPT, from memory.
"""

from __future__ import annotations

from typing import Any

from parsim.errors import ScenarioError
from parsim.scenario.families import VOCABULARY, ConfigFamily, count, is_same, mapping, register
from parsim.scenario.tree import show

# Of attn_config and ffn_config, what can be read.
_ATTENTION: dict[str, object] = {
    **{"attn_type": "multihead_attention", "alibi": True, "qk_ln": False, "qk_gn": False, "clip_qkv": None, "prefix_lm": False},
    **{"softmax_scale": None, "attn_pdrop": 0, "attn_uses_sequence_id": False, "rope": False, "sliding_window_size": -1},
    **{"attn_logit_softcapping": None, "attn_temperature_tuning": None, "kv_dim": None},
}
_FFN: dict[str, object] = {"ffn_type": "mptmlp", "ffn_act_fn": None, "ffn_hidden_size": None}


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    _only_these(config, "attn_config", {**_ATTENTION, "kv_n_heads": config.get("n_heads")})
    _only_these(config, "ffn_config", _FFN)
    return {**config, "ffn_hidden_size": count(config, "expansion_ratio") * count(config, "d_model")}


def _only_these(config: dict[str, Any], part: str, legal: dict[str, object]) -> None:
    stated = mapping(config, part) or {}
    for key, value in legal.items():
        if stated.get(key) is not None and not is_same(stated[key], value):
            raise ScenarioError(f"{part}.{key} = {show(stated[key])} is not read; {show(value)} is")


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
