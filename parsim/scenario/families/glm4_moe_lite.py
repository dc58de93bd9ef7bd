"""GLM-4.7-Flash: GLM's experts behind latent attention, and Youtu: that with an MLP in all layers; both as DeepSeek-V3 has them.

Source: configuration_NAME.py and modeling_NAME.py of glm4_moe_lite and youtu, release 5.24.
"""

from __future__ import annotations

from typing import Any, Final

from parsim.errors import ScenarioError
from parsim.scenario.families import COUNTS, LATER, NO_BIAS, PLAIN, ConfigFamily, count, entries, layers, register
from parsim.scenario.families.deepseek import LATENT, OF_EXPERTS, shared_and_gates

_DENSE, _TYPES = "first_k_dense_replace", "mlp_layer_types"


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With the number of dense layers, which stand first, in place of a type for each layer."""
    num_layers = layers(config)
    num_dense = count({_DENSE: 1, **config}, _DENSE, 0)
    if (types := entries(config, _TYPES)) is not None:
        num_dense = types.count("dense")
        if types != ["dense"] * num_dense + ["sparse"] * (num_layers - num_dense):
            raise ScenarioError(f"{_TYPES} is not read where it says other than dense layers first, and sparse ones behind them")
    kept = {key: each for key, each in config.items() if key not in (_DENSE, _TYPES)}
    return {**kept, **({_DENSE: num_dense} if num_dense else {})}


_OPTIONAL: Final = {"num_kv_heads": "num_key_value_heads", "q_lora_rank": "q_lora_rank"}
_OWN: Final = {"kv_lora_rank": None, "q_lora_rank": None}

register(
    ConfigFamily(
        fixed={**PLAIN, "qkv_bias": False},
        counts={**COUNTS, **LATENT, **OF_EXPERTS},
        optional={
            **{**_OPTIONAL, "num_dense_layers": _DENSE, "mtp_layers": LATER},
            **{"expert_groups": "n_group", "groups_per_token": "topk_group"},
        },
        only=NO_BIAS,
        left_out={"q_lora_rank": 768, "n_shared_experts": 1, "routed_scaling_factor": 1.8},
        prepare=_prepare,
        more=shared_and_gates,
        own={**_OWN, LATER: 0},
    ),
    "glm4_moe_lite",
)
register(
    ConfigFamily(
        fixed={**PLAIN, "qkv_bias": False},
        counts={**COUNTS, **LATENT},
        optional=_OPTIONAL,
        only=NO_BIAS,
        tied=True,
        left_out={"q_lora_rank": 1536},
        own=_OWN,
    ),
    "youtu",
)
