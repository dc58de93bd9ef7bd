"""Configs of LLaVA: a tower of CLIP or SigLIP before a decoder of any kind that is read, or a fault that names the key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from hf_configs import PUBLISHED
from parsim import scenario
from parsim.errors import ScenarioError
from parsim.model.families.vision_language import VisionLanguageSpec
from parsim.model.parameters import num_parameters
from parsim.model.spec import ModelSpec
from parsim.scenario.rows import read

LLAVA: dict[str, Any] = PUBLISHED["llava-1.5-7b"]["config"]
# In the keys of a LLaVA of SigLIP and Qwen2, 893,617,312 parameters of transformers' LlavaForConditionalGeneration.
OF_SIGLIP: dict[str, Any] = {
    **{"model_type": "llava", "vision_feature_layer": -1, "vision_feature_select_strategy": "full", "tie_word_embeddings": True},
    "vision_config": {
        **{"model_type": "siglip_vision_model", "hidden_size": 1152, "image_size": 384, "intermediate_size": 4304},
        **{"num_attention_heads": 16, "num_hidden_layers": 26, "patch_size": 14, "vision_use_head": False},
    },
    "text_config": {
        **{"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "max_position_embeddings": 32768, "vocab_size": 151936},
        **{"num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "use_sliding_window": False},
    },
}


def read_config(config: dict[str, Any], folder: Path) -> ModelSpec:
    """The model of a scenario that names this config."""
    (folder / "config.json").write_text(json.dumps(config))
    parts = {"cluster": {"node": "dgx-a100-80gb"}, "batch": {"global_batch": 8, "sequence_length": 1024}}
    return scenario.from_mapping({"model": f"hf:{folder}/config.json", **parts}).model


@pytest.mark.parametrize("name", ["llava-1.5-7b", "llava-1.5-13b"])
def test_a_config_gives_the_model_of_the_catalog(name: str, tmp_path: Path) -> None:
    expected = read("models", name)
    assert replace(read_config(PUBLISHED[name]["config"], tmp_path), name=name, source=expected.source) == expected


def test_a_llava_of_siglip_takes_all_layers_and_all_whole_patches(tmp_path: Path) -> None:
    model = read_config(OF_SIGLIP, tmp_path)
    assert isinstance(model, VisionLanguageSpec)
    assert (model.vision_layers, model.num_layers, model.num_patches) == (26, 50, 27**2)
    assert num_parameters(model) == 893_617_312 - 2 * 1152  # the last norm, which nothing reads


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_layer": [-2, -5]}, "vision_feature_layer = a list is not read; a layer of the tower's 24 is, from -1 down"),
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy = 'full' is not read of this tower; 'default' is"),
        ({"projector_hidden_act": "silu"}, "projector_hidden_act 'silu' is not read; 'gelu' is"),
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias = false is not read; true is"),
        ({"text_config": None}, "text_config must be a mapping, not nothing, in a config of model_type llava"),
        (
            {"vision_config": {"model_type": "pixtral"}},
            "vision_config of model_type 'pixtral' is not read; known: clip_vision_model, siglip_vision_model",
        ),
        (
            {"vision_config": {"patch_size": 14, "hidden_act": "silu"}},
            "hidden_act 'silu' of vision_config is not read; known here: quick_gelu",
        ),
    ],
)
def test_a_llava_that_is_not_read_is_refused_by_key(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=re.escape(f"config.json: {message}")):
        read_config({**LLAVA, **changes}, tmp_path)
