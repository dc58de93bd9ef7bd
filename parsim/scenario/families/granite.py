"""Granite: Llama with factors of the embedding, of what each branch adds, and of the logits, which these are divided by.

The factor of scores stands where others have the root of head_dim: no count follows from it.
Source: configuration_granite.py, modeling_granite.py and those of granitemoe and granitemoeshared of release 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parsim.scenario.families import BIASES, CHOSEN, COUNTS, PLAIN, ConfigFamily, count, number, register
from parsim.scenario.families.olmo2 import OF_ATTENTION

FACTORS: Final = ("embedding_multiplier", "residual_multiplier", "logits_scaling")
_SAME: Final[dict[str, Any]] = {
    "numbers": {"embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier"},
    "own": dict.fromkeys(FACTORS, 1.0),
}
_EXPERTS: Final[dict[str, Any]] = {
    **_SAME,
    "fixed": {**PLAIN, "mlp_bias": False},
    "counts": {**COUNTS, "num_experts": "num_local_experts", **CHOSEN},
    "flags": OF_ATTENTION,
    "only": {"mlp_bias": False},
    "left_out": {"num_local_experts": 8, "num_experts_per_tok": 2},
}


def by_scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    """Logits by one over their factor."""
    return {"logit_scale": 1 / number(config, "logits_scaling")} if config.get("logits_scaling") is not None else {}


def _with_shared(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **by_scaling(config),
        "shared_ffn_hidden_size": count({"shared_intermediate_size": 0, **config}, "shared_intermediate_size", 0),
    }


register(ConfigFamily(**_SAME, flags=BIASES, more=by_scaling), "granite")
register(ConfigFamily(**_EXPERTS, more=by_scaling), "granitemoe")
register(ConfigFamily(**_EXPERTS, more=_with_shared), "granitemoeshared")
