"""Vision transformers that label images.  What keys left out are: configuration_vit.py of release 5.24."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsim.errors import ScenarioError
from parsim.scenario.families import ConfigFamily, count, flag, register


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    """The patches of a square image."""
    size, patch = count(config, "image_size"), count(config, "patch_size")
    if size % patch:
        raise ScenarioError(f"patch_size = {patch} does not divide image_size = {size}")
    return {"num_patches": (size // patch) ** 2, "qkv_bias": flag(config, "qkv_bias", default=True)}


register(
    ConfigFamily(
        fixed={"family": "vit"},
        counts={
            **{"num_layers": "num_hidden_layers", "hidden_size": "hidden_size", "ffn_hidden_size": "intermediate_size"},
            **{"num_heads": "num_attention_heads", "patch_size": "patch_size", "num_channels": "num_channels"},
        },
        optional={},
        activation=("hidden_act", "gelu", ("gelu", "relu")),
        dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob"),
        heads={"ViTForImageClassification": "image"},
        left_out={
            **{"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
            **{"image_size": 224, "patch_size": 16, "num_channels": 3},
        },
        more=_more,
        lacks=("head", "tied_embedding"),
    ),
    "vit",
)
