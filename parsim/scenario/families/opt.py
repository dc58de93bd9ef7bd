"""OPT: learned positions behind two rows that no token has, and biases; of 350M norms come last, and embeddings are narrower.

Source: configuration_opt.py and modeling_opt.py of release 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parsim.errors import ScenarioError
from parsim.scenario.families import COUNTS, LEARNED, ConfigFamily, flag, register

_WIDTH: Final = "word_embed_proj_dim"
_FIRST: Final = "do_layer_norm_before"


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """Without a width of the embedding that is the model's."""
    own = config.get(_WIDTH) != config.get("hidden_size")
    return {key: value for key, value in config.items() if own or key != _WIDTH}


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    if flag(config, _FIRST, default=True):
        return {}
    if config.get(_WIDTH) is None and flag(config, "tie_word_embeddings", default=True):
        raise ScenarioError(f"{_FIRST} = false is read with a {_WIDTH} other than hidden_size, or with tie_word_embeddings = false")
    return {"norm_last": True, "unnormed_embedding": True}


register(
    ConfigFamily(
        fixed={**LEARNED, "position_offset": 2, "embedding_dropped": False},
        counts={**COUNTS, "ffn_hidden_size": "ffn_dim"},
        optional={"embedding_size": _WIDTH},
        activation=("activation_function", "relu", ("relu", "gelu")),
        dropouts=("dropout",),
        dropped={"scores_dropped": "attention_dropout"},
        tied=True,
        only={
            **{"_remove_final_layer_norm": False, "layerdrop": 0.0},
            **{"enable_bias": True, "layer_norm_elementwise_affine": True},
        },
        left_out={"dropout": 0.1},
        prepare=_prepare,
        more=_more,
        own={_WIDTH: None, _FIRST: True},
    ),
    "opt",
)
