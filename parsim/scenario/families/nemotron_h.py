"""Nemotron-H, Nemotron Nano v2 and Nemotron 3: Mamba-2, attention without positions, MLPs and experts, as a pattern says.

What keys left out are: configuration_nemotron_h.py of release 5.24.  `residual_in_fp32` is not followed: the residual stream has the dtype
of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parsim.errors import ScenarioError
from parsim.scenario.families import (
    COUNTS,
    LATER,
    NO_BIAS,
    OPTIONAL,
    ConfigFamily,
    count,
    entries,
    flag,
    is_name_of,
    layers,
    number,
    register,
)
from parsim.scenario.tree import show

# Names of layers in lists, of which later releases have others.
_LETTERS: Final = {"mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*", "mlp": "-", "moe": "E"}
_LISTS: Final = ("layers_block_type", "layer_types")
_OF_EXPERTS: Final = {
    **{"num_experts": "n_routed_experts", "experts_per_token": "num_experts_per_tok", "expert_ffn_hidden_size": "moe_intermediate_size"},
    **{"expert_groups": "n_group", "groups_per_token": "topk_group"},
}
_LATENT: Final = "moe_latent_size"
_OF_MODULE: Final = "*E"


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With the pattern as text, and the width of heads by its later name."""
    pattern = config.get("hybrid_override_pattern")
    types, key = next(((each, key) for key in _LISTS if (each := entries(config, key)) is not None), (None, ""))
    if pattern is None and types is not None:
        if not all(is_name_of(each, _LETTERS) for each in types):
            raise ScenarioError(f"{key} holds other layers than {', '.join(_LETTERS)}, which are not read")
        pattern = "".join(_LETTERS[each] for each in types)
    if not isinstance(pattern, str):
        raise ScenarioError(f"hybrid_override_pattern must be text, not {show(pattern)}")
    if "num_hidden_layers" in config and layers(config) != len(pattern):
        raise ScenarioError(f"hybrid_override_pattern has {len(pattern)} layers, but num_hidden_layers = {config['num_hidden_layers']}")
    width = {"head_dim": config["attention_head_dim"]} if config.get("attention_head_dim") is not None else {}
    kept = {key: value for key, value in config.items() if key not in _LISTS}
    kept = kept if "E" in pattern else {key: value for key, value in kept.items() if key not in _OF_EXPERTS.values()}
    return {**kept, **width, "hybrid_override_pattern": pattern, "num_hidden_layers": len(pattern)}


def _later(config: Mapping[str, Any]) -> dict[str, Any]:
    """The module for a later token, which transformers leaves out of its model: of attention and experts."""
    if config.get(LATER) is None:
        return {}
    types, pattern = entries(config, "mtp_layers_block_type"), config.get("mtp_hybrid_override_pattern")
    if pattern is None and types is not None:
        pattern = "".join(_LETTERS[each] if is_name_of(each, _LETTERS) else "?" for each in types)
    if pattern not in (None, _OF_MODULE):
        raise ScenarioError(f"mtp_hybrid_override_pattern = {show(pattern)} is not read; {_OF_MODULE} is")
    return {"mtp_layers": count(config, LATER)}


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    """The pattern, and where it has experts their figures."""
    pattern = {"pattern": config["hybrid_override_pattern"]}
    if "E" not in config["hybrid_override_pattern"]:
        return pattern
    shared = count(config, "n_shared_experts", 0) and count(config, "moe_shared_expert_intermediate_size")
    gates = "sigmoid" if flag(config, "norm_topk_prob", default=True) else "own_sigmoid"
    figures = {figure: count(config, key) for figure, key in _OF_EXPERTS.items()} | _later(config)
    if config.get(_LATENT) is not None:
        figures["expert_latent_size"] = count(config, _LATENT)
    return {**pattern, **figures, "shared_ffn_hidden_size": shared, "gates": gates, "gate_scale": number(config, "routed_scaling_factor")}


register(
    ConfigFamily(
        fixed={"family": "hybrid", "norm": "rms_norm", "norm_in_float32": True, "positions": "none"},
        counts={
            **{**COUNTS, "mamba_heads": "mamba_num_heads", "mamba_head_dim": "mamba_head_dim", "mamba_groups": "n_groups"},
            **{"state_size": "ssm_state_size", "conv_width": "conv_kernel", "scan_chunk": "chunk_size"},
        },
        optional=OPTIONAL,
        activation=("mlp_hidden_act", "relu2", ("squared_relu", "relu", "gelu")),
        dropouts=("hidden_dropout", "attention_dropout"),
        only={
            **{**NO_BIAS, "use_bias": False, "mamba_proj_bias": False, "use_conv_bias": True, "mamba_hidden_act": "silu"},
            "sliding_window": None,
        },
        left_out={
            **{"mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128, "conv_kernel": 4, "chunk_size": 128},
            **{"num_key_value_heads": 8, "head_dim": 128, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
            **{"moe_intermediate_size": 7688, "moe_shared_expert_intermediate_size": 7688, "n_group": 1, "topk_group": 1},
            "routed_scaling_factor": 1.0,
        },
        prepare=_prepare,
        more=_more,
        own={LATER: 0, _LATENT: None},
        also=(*_OF_EXPERTS.values(), *_LISTS),
    ),
    "nemotron_h",
)
