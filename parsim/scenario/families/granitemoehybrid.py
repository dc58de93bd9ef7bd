"""Granite 4: Mamba-2 or attention, and experts beside what all tokens pass, or that alone, in each layer; factors as those of Granite.

Source: configuration_granitemoehybrid.py and modeling_granitemoehybrid.py of release 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parsim.errors import ScenarioError
from parsim.scenario.families import CHOSEN, COUNTS, NO_BIAS, OPTIONAL, ConfigFamily, count, entries, is_name_of, layers, register
from parsim.scenario.families.bamba import MAMBA_LEFT_OUT, MAMBA_ONLY, OF_MAMBA, with_mamba
from parsim.scenario.families.granite import FACTORS, by_scaling
from parsim.scenario.tree import show

_LETTERS: Final = {"mamba": "m", "linear_attention": "m", "attention": "a", "full_attention": "a"}
_LISTS: Final = ("layer_types", "layers_block_type")
_POSITIONS: Final = {"nope": "none", "rope": "rotary"}
_EXPERTS, _SHARED, _PLACES = "num_local_experts", "shared_intermediate_size", "position_embedding_type"


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    num_layers = layers(config)
    key = next((each for each in _LISTS if config.get(each) is not None), "")
    types = entries(config, key) if key else ["mamba"] * num_layers
    if types is None or not all(is_name_of(each, _LETTERS) for each in types):
        raise ScenarioError(f"{key} holds other layers than {', '.join(_LETTERS)}, which are not read")
    if len(types) != num_layers:
        raise ScenarioError(f"{key} has {len(types)} layers, but num_hidden_layers = {num_layers}")
    return with_mamba(config, "".join(_LETTERS[each] for each in types))


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    if not is_name_of(positions := "nope" if config.get(_PLACES) is None else config[_PLACES], _POSITIONS):
        raise ScenarioError(f"{_PLACES} = {show(positions)} is not read; nope and rope are")
    found = {"pattern": config["pattern"], "positions": _POSITIONS[positions], **by_scaling(config)}
    if not count(config, _EXPERTS, 0):
        return {**found, "ffn_hidden_size": count(config, _SHARED)}
    experts = {"num_experts": count(config, _EXPERTS), **{figure: count(config, key) for figure, key in CHOSEN.items()}}
    return {
        **found,
        **experts,
        "expert_ffn_hidden_size": count(config, "intermediate_size"),
        "shared_ffn_hidden_size": count(config, _SHARED),
    }


register(
    ConfigFamily(
        fixed={"family": "hybrid", "norm": "rms_norm"},
        counts={**COUNTS, **OF_MAMBA},
        optional=OPTIONAL,
        numbers={"embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier"},
        only={**NO_BIAS, **MAMBA_ONLY},
        left_out={**MAMBA_LEFT_OUT, _EXPERTS: 8, "num_experts_per_tok": 2, _SHARED: 1024, "max_position_embeddings": 2048},
        prepare=_prepare,
        more=_more,
        own=dict.fromkeys(FACTORS, 1.0),
        also=(_EXPERTS, *CHOSEN.values(), _SHARED, _PLACES),
    ),
    "granitemoehybrid",
)
