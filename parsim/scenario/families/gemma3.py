"""Gemma 3, the part that reads text: Gemma 2 with norms of queries and keys in place of soft caps, and windows in five of six layers.

Source: configuration_gemma3.py and modeling_gemma3.py of release 5.24.
"""

from __future__ import annotations

from typing import Any

from parsim.scenario.families import NO_BIAS, ConfigFamily, count, each_full, register
from parsim.scenario.families.gemma import GEMMA, by_root_of_width
from parsim.scenario.families.gemma2 import CAPS, SIZES

_PATTERN = ("sliding_window_pattern", "_sliding_window_pattern")  # of earlier releases: each so many-th layer is full


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    stated = [key for key in _PATTERN if config.get(key) is not None]
    types = each_full(config, count(config, stated[0]) if stated else 6)
    return {"layer_types": types, **{key: each for key, each in config.items() if key not in _PATTERN and each is not None}}


register(
    ConfigFamily(
        fixed={**GEMMA, "sandwich_norm": True, "qk_norm": True},
        numbers=CAPS,
        activation=("hidden_activation", "gelu_pytorch_tanh", ("geglu",)),
        only={**NO_BIAS, "use_bidirectional_attention": False},
        tied=True,
        left_out={
            **{**SIZES, "num_hidden_layers": 26, "vocab_size": 262_208, "max_position_embeddings": 131_072, "sliding_window": 4096},
        },
        windows=True,
        prepare=_prepare,
        more=by_root_of_width,
        own={"sliding_window_pattern": None},
    ),
    "gemma3_text",
)
