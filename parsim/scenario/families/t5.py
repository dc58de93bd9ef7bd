"""T5, with Flan-T5, T5 v1.1 and mT5: biases of scores by distance that the layers of a stack share, RMSNorms first, no linear biases.

v1.0 scales what enters its tied head by the inverse root of the width; later ones untie it, and gate their MLPs.
Source: configuration_t5.py and modeling_t5.py of release 4.57 (`T5Stack`, `T5Attention`, `T5DenseGatedActDense`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parsim.errors import ScenarioError
from parsim.scenario.families import VOCABULARY, ConfigFamily, count, flag, is_name_of, register
from parsim.scenario.tree import show

_ALL: Final = "num_layers of both stacks"  # which no config states
_MLPS: Final = {"relu": "relu", "gelu": "gelu", "gated-gelu": "geglu", "gated-silu": "swiglu"}
_T5: Final[dict[str, Any]] = {
    "fixed": {
        **{"family": "encoder_decoder", "norm": "rms_norm", "norm_last": False, "positions": "relative", "bias": False},
        **{"scores_scaled": False, "dropped_inside": True, "activation": "relu"},
    },
    "counts": {
        **{"num_layers": _ALL, "encoder_layers": "num_layers", "hidden_size": "d_model", "ffn_hidden_size": "d_ff"},
        **{"num_heads": "num_heads", "head_dim": "d_kv", **VOCABULARY, "max_positions": "n_positions"},
        **{"relative_buckets": "relative_attention_num_buckets", "relative_distance": "relative_attention_max_distance"},
    },
    "optional": {},
    "tied": True,
    "only": {"is_encoder_decoder": True},
}
_LEFT_OUT: Final = {"n_positions": 512, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "dropout_rate": 0.1}


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With the layers of both stacks together."""
    encoder = count(config, "num_layers")
    decoder = encoder if config.get("num_decoder_layers") is None else count(config, "num_decoder_layers")
    return {**config, _ALL: encoder + decoder}


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    mlp, share = config["feed_forward_proj"], config["dropout_rate"]
    if not is_name_of(mlp, _MLPS):
        raise ScenarioError(f"feed_forward_proj {show(mlp)} is not read; known here: {', '.join(_MLPS)}")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ScenarioError(f"dropout_rate must be at least 0 and below 1, not {show(share)}")
    scale = {"logit_scale": count(config, "d_model") ** -0.5} if flag(config, "tie_word_embeddings", default=True) else {}
    return {"activation": _MLPS[mlp], "dropout": float(share), **scale}


for _type, _names, _mlp in (
    ("t5", ("T5ForConditionalGeneration", "T5WithLMHeadModel"), "relu"),
    ("mt5", ("MT5ForConditionalGeneration",), "gated-gelu"),
):
    register(
        ConfigFamily(
            **_T5,
            heads=dict.fromkeys(_names, "next_token"),
            left_out={**_LEFT_OUT, "feed_forward_proj": _mlp, **({"tie_word_embeddings": False} if _type == "mt5" else {})},
            prepare=_prepare,
            more=_more,
        ),
        _type,
    )
