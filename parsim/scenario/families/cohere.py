"""Command R and R+: an MLP beside attention on one norm without a shift, and logits times a factor.

Source: configuration_cohere.py and modeling_cohere.py of release 5.24.
"""

from __future__ import annotations

from typing import Any, Final

from parsim.scenario.families import NO_BIAS, ConfigFamily, register

COHERE: Final[dict[str, Any]] = {
    "fixed": {
        **{"norm": "layer_norm", "norm_bias": False, "positions": "rotary", "bias": False},
        **{"parallel_block": True, "tied_norm": True},
    },
    "flags": dict.fromkeys(("qk_norm", "qk_norm_by_head"), "use_qk_norm"),
    "numbers": {"logit_scale": "logit_scale"},
    "tied": True,
    "only": {**NO_BIAS, "tie_word_embeddings": True},
    "left_out": {"logit_scale": 0.0625},
    "own": {"use_qk_norm": False},
}

register(ConfigFamily(**COHERE), "cohere")
