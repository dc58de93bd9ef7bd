"""OPT: learned positions behind two rows that no token has, and biases.

Source: configuration_opt.py and modeling_opt.py of release 5.24.
"""

from __future__ import annotations

from typing import Any

from parsim.errors import ScenarioError
from parsim.scenario.families import COUNTS, LEARNED, ConfigFamily, register


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """Without a width of the embedding that is the model's: that of 350M is narrower."""
    if config.get("word_embed_proj_dim") not in (None, config.get("hidden_size")):
        raise ScenarioError("word_embed_proj_dim is not read where it is not hidden_size: embeddings narrower than the model are not built")
    return {key: value for key, value in config.items() if key != "word_embed_proj_dim"}


register(
    ConfigFamily(
        fixed={**LEARNED, "position_offset": 2, "embedding_dropped": False},
        counts={**COUNTS, "ffn_hidden_size": "ffn_dim"},
        optional={},
        activation=("activation_function", "relu", ("relu", "gelu")),
        dropouts=("dropout",),
        dropped={"scores_dropped": "attention_dropout"},
        tied=True,
        only={
            **{"do_layer_norm_before": True, "_remove_final_layer_norm": False, "layerdrop": 0.0},
            **{"enable_bias": True, "layer_norm_elementwise_affine": True},
        },
        left_out={"dropout": 0.1},
        prepare=_prepare,
        own={"word_embed_proj_dim": None},
    ),
    "opt",
)
