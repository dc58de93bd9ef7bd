"""GLM-4.5 and later, dots.llm1 and Solar Open: DeepSeek's experts behind attention whose heads share keys.

Source: configuration_NAME.py and modeling_NAME.py of glm4_moe, dots1 and solar_open, release 5.24.
"""

from __future__ import annotations

from typing import Any, Final

from parsim.scenario.families import CHOSEN, COUNTS, LATER, PLAIN, SHARE_TURNED, ConfigFamily, is_same, register
from parsim.scenario.families.deepseek import shared_and_gates
from parsim.scenario.families.olmo2 import OF_ATTENTION

_EXPERTS: Final[dict[str, Any]] = {
    "counts": {**COUNTS, "num_experts": "n_routed_experts", **CHOSEN, "expert_ffn_hidden_size": "moe_intermediate_size"},
    "optional": {
        **{"num_kv_heads": "num_key_value_heads", "head_dim": "head_dim", "num_dense_layers": "first_k_dense_replace"},
        **{"expert_groups": "n_group", "groups_per_token": "topk_group", "mtp_layers": LATER},
    },
    "more": shared_and_gates,
    "own": {LATER: 0},
}


def _without_none_dense(config: dict[str, Any]) -> dict[str, Any]:
    return {key: each for key, each in config.items() if key != "first_k_dense_replace" or not is_same(each, 0)}


register(
    ConfigFamily(
        fixed={**PLAIN, "out_bias": False},
        **{**_EXPERTS, "own": {**_EXPERTS["own"], "use_qk_norm": False}},
        flags={"qkv_bias": "attention_bias", "qk_norm": "use_qk_norm"},
        only={"mlp_bias": False},
        left_out={"num_key_value_heads": 8, "first_k_dense_replace": 1, "norm_topk_prob": True, "n_shared_experts": 1, SHARE_TURNED: 0.5},
        prepare=_without_none_dense,
    ),
    "glm4_moe",
)
register(
    ConfigFamily(
        fixed={**PLAIN, "qk_norm": True, "mlp_bias": False},
        **_EXPERTS,
        flags=OF_ATTENTION,
        only={"mlp_bias": False},
        windows=True,
        left_out={"num_key_value_heads": 32, "norm_topk_prob": False, "sliding_window": 4096, "max_window_layers": 62},
        prepare=_without_none_dense,
    ),
    "dots1",
)
register(
    ConfigFamily(
        fixed={**PLAIN, "out_bias": False},
        **{**_EXPERTS, "counts": {**_EXPERTS["counts"], "ffn_hidden_size": "moe_intermediate_size"}},
        flags={"qkv_bias": "attention_bias"},
        only={"mlp_bias": False, "first_k_dense_replace": 0},
        left_out={"num_key_value_heads": 8, "head_dim": 128, "norm_topk_prob": True, "n_shared_experts": 1},
        prepare=_without_none_dense,
    ),
    "solar_open",
)
