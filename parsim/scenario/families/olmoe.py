"""OLMoE and FlexOlmo: experts in every layer, with OLMo 2's norms of queries and keys; FlexOlmo has its other norms, too.

Source: configuration_olmoe.py, modeling_olmoe.py, configuration_flex_olmo.py and modeling_flex_olmo.py of release 5.24.
"""

from __future__ import annotations

from typing import Any, Final

from parsim.scenario.families import CHOSEN, COUNTS, ConfigFamily, gates_of_shares, register
from parsim.scenario.families.olmo2 import OF_ATTENTION, WHOLE

_SAME: Final[dict[str, Any]] = {
    "counts": {**COUNTS, "num_experts": "num_experts", **CHOSEN},
    "flags": OF_ATTENTION,
    "only": {"mlp_bias": False},
    "more": gates_of_shares,
}

register(
    ConfigFamily(fixed={**WHOLE, "mlp_bias": False}, **_SAME, left_out={"num_experts": 64, "num_experts_per_tok": 8}),
    "olmoe",
)
register(
    ConfigFamily(
        fixed={**WHOLE, "norm_after": True, "norm_in_float32": True, "mlp_bias": False},
        **_SAME,
        left_out={"num_experts": 7, "num_experts_per_tok": 5},
    ),
    "flex_olmo",
)
