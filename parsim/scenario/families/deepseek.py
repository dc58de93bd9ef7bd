"""DeepSeek-V2 and V3, Kimi K2 and Moonlight: latent attention, and experts beside those that all tokens pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parsim.errors import ScenarioError
from parsim.scenario.families import CHOSEN, COUNTS, LATER, NO_BIAS, PLAIN, ConfigFamily, count, flag, is_name_of, number, register
from parsim.scenario.tree import show

LATENT: Final = {key: key for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}
OF_EXPERTS: Final = {"num_experts": "n_routed_experts", **CHOSEN, "expert_ffn_hidden_size": "moe_intermediate_size"}
_METHODS: Final = ("greedy", "group_limited_greedy", "noaux_tc")


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """Greedily is among all experts, whatever groups there are."""
    if (method := config.get("topk_method")) is not None and not is_name_of(method, _METHODS):
        raise ScenarioError(f"topk_method = {show(method)} is not read; {', '.join(_METHODS)} are")
    return config | ({"n_group": 1, "topk_group": 1} if method == "greedy" else {})


def shared_and_gates(config: Mapping[str, Any]) -> dict[str, Any]:
    """The width of all shared experts, what gates are and what multiplies them."""
    gates = config.get("scoring_func", "sigmoid" if config["model_type"] != "deepseek_v2" else "softmax")
    if gates not in ("softmax", "sigmoid"):
        raise ScenarioError(f"scoring_func = {show(gates)} is not read; softmax and sigmoid are")
    scale = number(config, "routed_scaling_factor") if config.get("routed_scaling_factor") is not None else 1.0
    if not flag(config, "norm_topk_prob", default=gates == "sigmoid"):
        gates = {"softmax": "pre_softmax", "sigmoid": "own_sigmoid"}[gates]
    shared = count(config, "n_shared_experts") if config.get("n_shared_experts") is not None else 0
    return {"shared_ffn_hidden_size": shared * count(config, "moe_intermediate_size"), "gates": gates, "gate_scale": scale}


register(
    ConfigFamily(
        fixed={**PLAIN, "qkv_bias": False},
        counts={**COUNTS, **LATENT, **OF_EXPERTS, "num_dense_layers": "first_k_dense_replace"},
        optional={
            **{"num_kv_heads": "num_key_value_heads", "q_lora_rank": "q_lora_rank", "mtp_layers": LATER},
            **{"expert_groups": "n_group", "groups_per_token": "topk_group"},
        },
        only={**NO_BIAS, "moe_layer_freq": 1},
        left_out={"q_lora_rank": 1536},
        prepare=_prepare,
        more=shared_and_gates,
        own={"kv_lora_rank": None, "q_lora_rank": None, LATER: 0},
    ),
    "deepseek_v2",
    "deepseek_v3",
    "kimi_k2",
)
