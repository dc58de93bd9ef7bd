"""MiniMax-M2: experts in every layer, half of each head turned, and OLMo 2's norms of queries and keys.

Its modules for later tokens stand in no released file.  Source: configuration_minimax_m2.py and modeling_minimax_m2.py of release 5.24.
"""

from __future__ import annotations

from typing import Any

from parsim.errors import ScenarioError
from parsim.scenario.families import CHOSEN, COUNTS, NO_BIAS, SHARE_TURNED, ConfigFamily, count, entries, is_same, register
from parsim.scenario.families.olmo2 import WHOLE


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With the share that is turned, and without a list of layers that all attend to all."""
    if not all(is_same(each, 1) for each in entries(config, "attn_type_list") or ()):
        raise ScenarioError("attn_type_list holds others than 1: layers of linear attention are not built")
    turned = {SHARE_TURNED: count(config, "rotary_dim") / count(config, "head_dim")} if config.get("rotary_dim") is not None else {}
    return {**config, **turned}


register(
    ConfigFamily(
        fixed={**WHOLE, "gates": "sigmoid"},
        counts={**COUNTS, "num_experts": "num_local_experts", **CHOSEN},
        only={**NO_BIAS, "use_qk_norm": True, "qk_norm_type": "per_layer", "shared_intermediate_size": 0, "scoring_func": "sigmoid"},
        left_out={"num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 256, "num_experts_per_tok": 8},
        prepare=_prepare,
        own={"use_qk_norm": False},
    ),
    "minimax_m2",
)
