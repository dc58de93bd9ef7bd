"""Values of a config.json that have the wrong type, or are none of what a key may say: one sentence each, which names the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_configs import LLAMA, MOONLIGHT, PUBLISHED
from parsim.errors import ScenarioError
from parsim.scenario.huggingface import row

GEMMA, GRANITE, BAMBA = "gemma-4-31b", "granite-4.0-h-small", "bamba-9b"
NEMOTRON, LLAVA = "nemotron-3-super-120b-a12b", "llava-1.5-7b"
WRONG: tuple[Any, ...] = ([], 10**400)
FURTHER: tuple[Any, ...] = (None, True, 0, -1, "", "88", {}, [[]], {"a": {}}, 10**8, float("nan"))
LETTERS = "mamba, linear_attention, attention, full_attention"


def fault(folder: Path, config: object) -> str:
    """What is wrong with a config; nothing where it is read."""
    (path := folder / "config.json").write_text(json.dumps(config))
    try:
        row(path, "hf:config.json")
    except ScenarioError as error:
        return error.what.removeprefix("hf:config.json: ")
    return ""


def of_text(name: str) -> dict[str, Any]:
    config: dict[str, Any] = PUBLISHED[name]["config"]
    found: dict[str, Any] = config["text_config"] if name == GEMMA else config
    return found


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (GEMMA, {"global_head_dim": 0}, "global_head_dim must be a whole number above 0, not 0"),
        (GEMMA, {"global_head_dim": []}, "global_head_dim must be a whole number above 0, not a list"),
        (GEMMA, {"num_global_key_value_heads": -1}, "num_global_key_value_heads must be a whole number above 0, not -1"),
        (
            GEMMA,
            {"num_kv_shared_layers": []},
            "num_kv_shared_layers = a list is not read: keys and values of other layers are not built; 0 is",
        ),
        (GEMMA, {"layer_types": 0}, "layer_types must be a list, not 0"),
        (GEMMA, {"layer_types": []}, "layer_types has 0 layers, but num_hidden_layers = 60"),
        (GEMMA, {"rope_parameters": 0}, "rope_parameters must be a mapping, not 0"),
        (
            GEMMA,
            {"per_layer_config": {f"{place}": {"head_dim": 0} for place in range(5, 60, 6)}},
            "head_dim of per_layer_config must be a whole number above 0, not 0",
        ),
        (
            GEMMA,
            {"per_layer_config": {f"{place}": {"": 0} for place in range(5, 60, 6)}},
            "per_layer_config holds '', which is not read; head_dim and num_key_value_heads are",
        ),
        (GRANITE, {"layer_types": 0}, "layer_types must be a list, not 0"),
        (GRANITE, {"layer_types": {}}, "layer_types must be a list, not a mapping"),
        (GRANITE, {"layer_types": [[]] * 40}, f"layer_types holds other layers than {LETTERS}, which are not read"),
        (GRANITE, {"position_embedding_type": []}, "position_embedding_type = a list is not read; nope and rope are"),
        (GRANITE, {"num_hidden_layers": "88"}, "num_hidden_layers must be a whole number above 0, not '88'"),
        (NEMOTRON, {"num_hidden_layers": None}, "num_hidden_layers must be a whole number above 0, not nothing"),
        (NEMOTRON, {"num_hidden_layers": True}, "num_hidden_layers must be a whole number above 0, not true"),
        (BAMBA, {"num_hidden_layers": 10**8}, "num_hidden_layers = 100000000 is above 100000"),
        ("smollm3-3b", {"num_hidden_layers": 10**8}, "num_hidden_layers = 100000000 is above 100000"),
        ("gpt-neo-1.3b", {"attention_types": [[["global"], 10**9]]}, "attention_types has more than 100000 layers"),
        (BAMBA, {"attn_layer_indices": 0}, "attn_layer_indices must be a list, not 0"),
        (BAMBA, {"attn_layer_indices": ["9"]}, "attn_layer_indices holds '9', which is none of the layers 0 to 31"),
        (BAMBA, {"attn_layer_indices": [32]}, "attn_layer_indices holds 32, which is none of the layers 0 to 31"),
        (BAMBA, {"attn_layer_indices": [True]}, "attn_layer_indices holds true, which is none of the layers 0 to 31"),
        (BAMBA, {"attn_layer_indices": [0, 9, 0]}, "attn_layer_indices holds 0 twice"),
        (
            LLAVA,
            {"vision_config": {"model_type": []}},
            "vision_config of model_type a list is not read; known: clip_vision_model, siglip_vision_model",
        ),
        (
            "opt-350m",
            {"word_embed_proj_dim": None},
            "do_layer_norm_before = false is read with a word_embed_proj_dim other than hidden_size, or with tie_word_embeddings = false",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_by_its_key(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert fault(tmp_path, {**of_text(name), **changes}) == message


@pytest.mark.parametrize("stated", [{}, {"model_type": None}, {"model_type": -1}, {"model_type": []}, {"model_type": ""}])
@pytest.mark.parametrize("name", [GEMMA, LLAVA])
def test_what_has_a_text_config_says_its_own_kind_by_name(name: str, stated: dict[str, Any], tmp_path: Path) -> None:
    config = {key: each for key, each in PUBLISHED[name]["config"].items() if key != "model_type"}
    assert fault(tmp_path, {**config, **stated}).startswith("model_type must say by name what has this text_config, not ")


def test_a_way_to_choose_experts_is_known_by_name(tmp_path: Path) -> None:
    assert fault(tmp_path, {**MOONLIGHT, "topk_method": []}) == (
        "topk_method = a list is not read; greedy, group_limited_greedy, noaux_tc are"
    )


def test_what_is_around_a_text_model_that_is_read_may_be_of_any_name(tmp_path: Path) -> None:
    assert fault(tmp_path, {"model_type": "mistral3", "text_config": LLAMA}) == ""


@pytest.mark.parametrize("values", [WRONG, pytest.param(FURTHER, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("name", [GEMMA, GRANITE, BAMBA, NEMOTRON, LLAVA, "gpt-neo-1.3b", "mpt-7b", "glm-4.7-flash", "minimax-m2"])
def test_no_value_of_a_key_is_a_traceback(name: str, values: tuple[Any, ...], tmp_path: Path) -> None:
    config = of_text(name)
    inside = {key: each for key, each in config.items() if isinstance(each, dict)}
    for value in values:
        for key in config:
            fault(tmp_path, {**config, key: value})
        for part, held in inside.items():
            for key in held:
                fault(tmp_path, {**config, part: {**held, key: value}})
