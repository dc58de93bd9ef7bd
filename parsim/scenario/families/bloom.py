"""BLOOM: ALiBi, a norm behind the embedding, biases.  Source: configuration_bloom.py and modeling_bloom.py of release 5.24."""

from __future__ import annotations

from typing import Any

from parsim.scenario.families import VOCABULARY, ConfigFamily, register


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of the released files, which are older."""
    older = {"hidden_size": config.get("n_embed"), "n_head": config.get("num_attention_heads"), "n_layer": config.get("num_hidden_layers")}
    return {**{key: each for key, each in older.items() if each is not None}, **config}


register(
    ConfigFamily(
        fixed={
            "norm": "layer_norm",
            "positions": "alibi",
            "embedding_norm": True,
            "bias": True,
            "activation": "gelu",
            "embedding_dropped": False,
        },
        counts={"num_layers": "n_layer", "hidden_size": "hidden_size", "num_heads": "n_head", **VOCABULARY, "max_positions": "seq_length"},
        optional={},
        dropouts=("hidden_dropout",),
        dropped={"scores_dropped": "attention_dropout"},
        tied=True,
        only={"apply_residual_connection_post_layernorm": False},
        left_out={"seq_length": 2048},
        prepare=_prepare,
    ),
    "bloom",
)
