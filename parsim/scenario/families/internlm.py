"""InternLM 2, 2.5 and 3: Llama whose flags of biases have names of their own.

Source: configuration_internlm3.py of release 5.24; of 2 the code beside its released files, from memory: its MLP has no biases.
"""

from __future__ import annotations

from typing import Any

from parsim.scenario.families import BIASES, ROTARY, ConfigFamily, register

_NAMES = {"qkv_bias": "attention_bias", "bias": "mlp_bias"}


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With the names of Llama."""
    return {**{_NAMES[key]: each for key, each in config.items() if key in _NAMES}, **config}


register(
    ConfigFamily(fixed={**ROTARY, "mlp_bias": False}, flags=dict.fromkeys(("qkv_bias", "bias"), "bias"), only={"mlp_bias": False}),
    "internlm2",
)
register(
    ConfigFamily(flags=BIASES, left_out={"num_key_value_heads": 2, "head_dim": 128}, prepare=_prepare),
    "internlm3",
)
