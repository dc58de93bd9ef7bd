"""GPT-Neo: GPT-2 with windows in some layers, and no biases of queries, keys and values.

Source: configuration_gpt_neo.py and modeling_gpt_neo.py of release 5.24.
"""

from __future__ import annotations

from typing import Any

from parsim.errors import ScenarioError
from parsim.model.spec import MOST_LAYERS
from parsim.scenario.families import FULL, LEARNED, LOCAL, VOCABULARY, ConfigFamily, entries, is_name_of, register

_TYPES = {"global": FULL, "local": LOCAL}


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With a list of layer_types; attention_types is one of [[kinds], how often]."""
    runs = entries(config, "attention_types")
    types: list[str] = []
    for run in [[["global", "local"], 12]] if runs is None else runs:
        kinds, times = run if isinstance(run, list) and len(run) == 2 else (None, 0)
        if not isinstance(kinds, list) or not all(is_name_of(kind, _TYPES) for kind in kinds) or type(times) is not int or times < 1:
            raise ScenarioError("attention_types is no list of [[global, local], how often], which are read")
        if len(types) + times * len(kinds) > MOST_LAYERS:
            raise ScenarioError(f"attention_types has more than {MOST_LAYERS} layers")
        types += [_TYPES[kind] for kind in kinds] * times
    return {**config, "layer_types": types, "sliding_window": config.get("window_size", 256)}


register(
    ConfigFamily(
        fixed={**LEARNED, "qkv_bias": False},
        counts={
            **{"num_layers": "num_layers", "hidden_size": "hidden_size", "num_heads": "num_heads", **VOCABULARY},
            "max_positions": "max_position_embeddings",
        },
        optional={"ffn_hidden_size": "intermediate_size"},
        activation=("activation_function", "gelu_new", ("gelu", "relu")),
        dropouts=("resid_dropout",),
        dropped={"scores_dropped": "attention_dropout", "embedding_dropped": "embed_dropout"},
        tied=True,
        windows=True,
        prepare=_prepare,
    ),
    "gpt_neo",
)
