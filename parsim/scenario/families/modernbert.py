"""ModernBERT: an encoder with GeGLU and rotary positions, norms first and without shifts, windows in two of three layers, and no biases.

Source: configuration_modernbert.py and modeling_modernbert.py of release 5.24; Warner et al. 2024 (arXiv:2412.13663), section 2.1.
"""

from __future__ import annotations

from typing import Any

from parsim.scenario.families import COUNTS, NO_BIAS, ConfigFamily, count, each_full, register


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """The first of each few layers is full; a window has half of local_attention on each side, and the token itself."""
    types = each_full(config, count(config, "global_attn_every_n_layers"), first=True)
    return {"layer_types": types, **config, "sliding_window": count(config, "local_attention") // 2 + 1}


register(
    ConfigFamily(
        fixed={
            **{"norm": "layer_norm", "positions": "rotary", "causal": False, "embedding_norm": True, "unnormed_first": True},
            **dict.fromkeys(("bias", "qkv_bias", "norm_bias"), False),
        },
        counts=COUNTS,
        optional={},
        activation=("hidden_activation", "gelu", ("geglu",)),
        dropouts=("attention_dropout", "embedding_dropout", "mlp_dropout"),
        tied=True,
        heads={"ModernBertForMaskedLM": "masked_token"},
        only={
            **{**NO_BIAS, "norm_bias": False, "classifier_bias": False, "decoder_bias": True},
            **{"classifier_activation": "gelu", "sparse_prediction": False},
        },
        left_out={"global_attn_every_n_layers": 3, "local_attention": 128},
        windows=True,
        prepare=_prepare,
    ),
    "modernbert",
)
