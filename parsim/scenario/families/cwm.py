"""Code World Model: Llama with windows in three of four layers, of which the first has none.

Source: configuration_cwm.py and modeling_cwm.py of release 5.24.
"""

from __future__ import annotations

from typing import Any

from parsim.scenario.families import NO_BIAS, PLAIN, ConfigFamily, each_full, register


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    return config if config.get("layer_types") is not None else {**config, "layer_types": each_full(config, 4, first=True)}


register(
    ConfigFamily(
        fixed=PLAIN,
        only=NO_BIAS,
        windows=True,
        left_out={"num_key_value_heads": 8, "head_dim": 128, "sliding_window": 8192},
        prepare=_prepare,
    ),
    "cwm",
)
