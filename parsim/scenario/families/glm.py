"""GLM-4: Llama with biases of queries, keys and values, half of each head turned; that of April 2025 (glm4) has sandwich norms.

Source: configuration_glm.py, modeling_glm.py, configuration_glm4.py and modeling_glm4.py of release 5.24.
"""

from __future__ import annotations

from typing import Any

from parsim.scenario.families import PLAIN, SHARE_TURNED, ConfigFamily, register

_SAME: dict[str, Any] = {
    "flags": {"qkv_bias": "attention_bias"},
    "only": {"mlp_bias": False},
    "left_out": {"num_key_value_heads": 2, "head_dim": 128, "attention_bias": True, SHARE_TURNED: 0.5},
}

register(ConfigFamily(fixed=PLAIN, **_SAME), "glm")
register(ConfigFamily(fixed={**PLAIN, "sandwich_norm": True}, **_SAME), "glm4")
