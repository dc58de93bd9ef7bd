"""LLaVA: a tower of CLIP or SigLIP, an MLP of two layers, and any decoder that is read, whose config stands in text_config.

The tower's layers behind the one whose output is taken, and its last norm, are left out: released files have them, nothing reads them.  So
is what an image has beyond its last whole patch.
Source: configuration_llava.py, configuration_clip.py, configuration_siglip.py and modeling_llava.py of release 5.24, configuration_llama.py
for what keys left out are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parsim.errors import ScenarioError
from parsim.scenario.families import ConfigFamily, count, flag, is_name_of, is_same, register
from parsim.scenario.tree import show

_LLAMA: Final = {
    **{"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32},
    **{"vocab_size": 32_000, "max_position_embeddings": 2048},
}
_ACTIVATIONS: Final = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}
_COUNTS: Final = {
    **{"vision_hidden_size": "hidden_size", "vision_ffn_hidden_size": "intermediate_size", "vision_heads": "num_attention_heads"},
    **{"patch_size": "patch_size", "num_channels": "num_channels"},
}
_BASE: Final = {
    **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "num_channels": 3},
    **{"image_size": 224, "attention_dropout": 0.0},
}
# By the tower's model_type: what keys left out are, whether a class token comes first, and the figures that follow.
_TOWERS: Final[Mapping[str, tuple[Mapping[str, object], bool, Mapping[str, object]]]] = {
    "clip_vision_model": ({**_BASE, "patch_size": 32, "hidden_act": "quick_gelu"}, True, {}),
    "siglip_vision_model": (
        {**_BASE, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh"},
        False,
        {"class_token": False, "patch_bias": True, "vision_first_norm": False},
    ),
}
_ALONE: Final = ("head", "family")  # figures of a text model that say what it is by itself


def _text(text: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_LLAMA) if text.get("model_type") == "llama" else {}


def _beside(config: Mapping[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """The row of the tower, the projector and the decoder."""
    if text.get("head", "next_token") != "next_token" or text.get("family", "transformer") != "transformer":
        raise ScenarioError("text_config is no decoder that predicts the next token, which alone is read behind a tower")
    if (said := config.get("projector_hidden_act", "gelu")) != "gelu":
        raise ScenarioError(f"projector_hidden_act {show(said)} is not read; 'gelu' is")
    if not flag(config, "multimodal_projector_bias", default=True):
        raise ScenarioError("multimodal_projector_bias = false is not read; true is")
    tower = vision_figures(config.get("vision_config"), config.get("vision_feature_layer", -2))
    strategy, wanted = config.get("vision_feature_select_strategy", "default"), "default" if tower.get("class_token", True) else "full"
    if strategy != wanted:
        raise ScenarioError(f"vision_feature_select_strategy = {show(strategy)} is not read of this tower; {show(wanted)} is")
    figures = {name: value for name, value in text.items() if name not in _ALONE}
    return {**figures, "family": "vision_language", **tower, "num_layers": text["num_layers"] + tower["vision_layers"]}


def vision_figures(stated: object, layer: object) -> dict[str, Any]:
    """What a vision_config says of a tower, of which the output of this layer is taken.

    Raises:
        ScenarioError: it says what is not read.
    """
    if not isinstance(stated, dict) or not is_name_of(stated.get("model_type", "clip_vision_model"), _TOWERS):
        said = show(stated.get("model_type")) if isinstance(stated, dict) else show(stated)
        raise ScenarioError(f"vision_config of model_type {said} is not read; known: {', '.join(_TOWERS)}")
    left_out, _, fixed = _TOWERS[stated.get("model_type", "clip_vision_model")]
    tower = {**left_out, **stated}
    num_layers, size, patch = (count(tower, key) for key in ("num_hidden_layers", "image_size", "patch_size"))
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 < (kept := layer + (num_layers + 1) * (layer < 0)) <= num_layers:
        raise ScenarioError(f"vision_feature_layer = {show(layer)} is not read; a layer of the tower's {num_layers} is, from -1 down")
    if size < patch:
        raise ScenarioError(f"patch_size = {patch} is above image_size = {size} of vision_config")
    if tower["attention_dropout"] is not None and not is_same(tower["attention_dropout"], 0):
        raise ScenarioError(f"attention_dropout = {show(tower['attention_dropout'])} of vision_config is not read; 0 is")
    if not is_name_of(active := tower["hidden_act"], _ACTIVATIONS):
        raise ScenarioError(f"hidden_act {show(active)} of vision_config is not read; known here: {', '.join(_ACTIVATIONS)}")
    figures = {figure: count(tower, key) for figure, key in _COUNTS.items()}
    return {**figures, **fixed, "vision_layers": kept, "num_patches": (size // patch) ** 2, "vision_activation": _ACTIVATIONS[active]}


register(ConfigFamily(text=_text, beside=_beside), "llava")
