"""Gemma 4, the part that reads text: Gemma 3 with wider and fewer heads where attention is full, whose keys are also values;
the 26B-A4B has experts beside each MLP.

Images see both ways among themselves (use_bidirectional_attention = vision), text does not.  Not built: embeddings of each layer
(hidden_size_per_layer_input, of E2B and E4B), and keys and values of other layers (num_kv_shared_layers).
Source: configuration_NAME.py and modeling_NAME.py of gemma4 and gemma4_unified, release 5.24.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from parsim.errors import ScenarioError
from parsim.scenario.families import FULL, NO_BIAS, ConfigFamily, count, each_full, entries, flag, is_same, mapping, number, register
from parsim.scenario.families.gemma import GEMMA, by_root_of_width
from parsim.scenario.families.gemma2 import SIZES
from parsim.scenario.tree import show

_LATER: Final = {  # keys that ask for what is not built, and what that is
    "hidden_size_per_layer_input": "embeddings of each layer, which go along with the stream,",
    "num_kv_shared_layers": "keys and values of other layers",
}
_OF_FULL: Final = ("global_head_dim", "num_global_key_value_heads", "per_layer_config")
_BY_LAYER: Final = {"head_dim": "full_head_dim", "num_key_value_heads": "full_kv_heads"}
_SIGHT: Final = "use_bidirectional_attention"
_HAS_EXPERTS: Final = "enable_moe_block"
_OF_EXPERTS: Final = {
    **{"num_experts": "num_experts", "experts_per_token": "top_k_experts", "expert_ffn_hidden_size": "moe_intermediate_size"},
}


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With a type for each layer, of which the last sees all, and without what only images have."""
    if wrong := next((key for key in _LATER if config.get(key) is not None and not is_same(config[key], 0)), ""):
        raise ScenarioError(f"{wrong} = {show(config[wrong])} is not read: {_LATER[wrong]} are not built; 0 is")
    stated = entries(config, "layer_types")
    types = each_full(config, 6) if stated is None else stated
    types = [*types[:-1], FULL] if types else types
    seen = None if config.get(_SIGHT) == "vision" else config.get(_SIGHT)
    idle = (*_LATER, *(() if flag(config, _HAS_EXPERTS) else _OF_EXPERTS.values()))
    return {**{key: each for key, each in config.items() if key not in idle}, "layer_types": types, _SIGHT: seen}


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    is_both = flag(config, "attention_k_eq_v")
    own = {key: count(config, key) for key in _OF_FULL[:2] if config.get(key) is not None}
    found = {**by_root_of_width(config), "full_head_dim": own.get("global_head_dim", 512), "keys_as_values": is_both}
    if is_both and "num_global_key_value_heads" in own:
        found["full_kv_heads"] = own["num_global_key_value_heads"]
    found |= _by_layer(config)
    if flag(config, _HAS_EXPERTS):
        found |= {"experts_beside_mlp": True, **{figure: count(config, key) for figure, key in _OF_EXPERTS.items()}}
    return found | _rotary(config, found["full_head_dim"])


def _by_layer(config: Mapping[str, Any]) -> dict[str, int]:
    """What layers with full attention have of their own, as release 5 writes it for each of them."""
    stated = mapping(config, "per_layer_config")
    if stated is None:
        return {}
    places = {place for place, each in enumerate(config["layer_types"]) if each == FULL}
    is_list = all(re.fullmatch("[0-9]{1,9}", key) and isinstance(each, dict) for key, each in stated.items())
    if not is_list or {int(key) for key in stated} != places or any(each != next(iter(stated.values())) for each in stated.values()):
        raise ScenarioError("per_layer_config is not read where it says other than one thing of all layers with full attention")
    (first, *_) = stated.values()
    if unknown := [key for key in first if key not in _BY_LAYER]:
        raise ScenarioError(f"per_layer_config holds {show(unknown[0])}, which is not read; {' and '.join(_BY_LAYER)} are")
    inside = {f"{key} of per_layer_config": each for key, each in first.items()}
    return {_BY_LAYER[key]: count(inside, f"{key} of per_layer_config") for key in first}


def _rotary(config: Mapping[str, Any], width: int) -> dict[str, int]:
    """How much of a head with full attention is turned: rope_type default turns all, whatever the share."""
    stated = mapping(config, "rope_parameters") or {}
    own = stated.get(FULL, {"rope_type": "proportional", "partial_rotary_factor": 0.25})
    if not isinstance(own, dict):
        raise ScenarioError(f"rope_parameters must be a mapping of mappings, but {FULL} is {show(own)}")
    if own.get("rope_type", "default") != "proportional":
        return {}
    share = number({"partial_rotary_factor": 1.0, **own}, "partial_rotary_factor")
    turned = 2 * int(share * width // 2)
    if not 0 < turned <= width:
        raise ScenarioError(f"partial_rotary_factor = {share} turns {turned} elements of a head of {width}, which is not read")
    return {"full_rotary_dim": turned} if turned < width else {}


_DENSE: Final[dict[str, Any]] = {
    "fixed": {
        **{**GEMMA, "sandwich_norm": True, "qk_norm": True, "values_normed": True, "scores_scaled": False},
        "layer_scale": 1.0,
    },
    "numbers": {"final_logit_softcapping": "final_logit_softcapping"},
    "activation": ("hidden_activation", "gelu_pytorch_tanh", ("geglu",)),
    "only": NO_BIAS,
    "tied": True,
    "windows": True,
    "prepare": _prepare,
    "more": _more,
    "own": {**dict.fromkeys(_OF_FULL), "attention_k_eq_v": False},
}
_SIZES: Final = {**SIZES, "num_hidden_layers": 30, "vocab_size": 262_144}

register(
    ConfigFamily(
        **_DENSE,
        also=(_HAS_EXPERTS, *_OF_EXPERTS.values()),
        left_out={**_SIZES, "max_position_embeddings": 131_072, "sliding_window": 512, "hidden_size_per_layer_input": 256},
    ),
    "gemma4_text",
)
register(
    ConfigFamily(**_DENSE, left_out={**_SIZES, "max_position_embeddings": 262_144, "sliding_window": 1024, _SIGHT: "vision"}),
    "gemma4_unified_text",
)
