"""BioGPT: GPT-2 with embeddings times the root of their width, and learned positions behind two rows that no token has.

Source: configuration_biogpt.py and modeling_biogpt.py of release 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsim.scenario.families import LEARNED, ConfigFamily, flag, register
from parsim.scenario.families.gemma import by_root_of_width


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    return by_root_of_width(config) if flag(config, "scale_embedding", default=True) else {}


register(
    ConfigFamily(
        fixed={**LEARNED, "position_offset": 2},
        optional={},
        activation=("hidden_act", "gelu", ("gelu", "relu")),
        dropouts=("hidden_dropout_prob",),
        dropped={"scores_dropped": "attention_probs_dropout_prob"},
        default_dropout=0.1,
        tied=True,
        only={"layerdrop": 0.0, "activation_dropout": 0.0},
        more=_more,
    ),
    "biogpt",
)
