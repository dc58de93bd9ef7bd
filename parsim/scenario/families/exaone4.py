"""EXAONE 4: norms of queries and keys, and behind attention and MLP; its 32B has windows, and no positions in the layers without one.

Source: configuration_exaone4.py and modeling_exaone4.py of release 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsim.scenario.families import FULL, NO_BIAS, PLAIN, ConfigFamily, count, each_full, layers, register


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With a list of layer_types; a pattern may be written in letters, the last of which is G, a layer without a window."""
    pattern = config.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern == "L" * (len(pattern) - 1) + "G":
        pattern = len(pattern)
    rest = {key: each for key, each in config.items() if key != "sliding_window_pattern" and each is not None}
    if config.get("sliding_window") is None:
        return {"layer_types": [FULL] * layers(config), **rest}
    return {"layer_types": each_full(config, count({"sliding_window_pattern": pattern}, "sliding_window_pattern")), **rest}


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    types = config["layer_types"]
    return {"unturned_every": types.index(FULL) + 1} if config.get("sliding_window") is not None and FULL in types else {}


register(
    ConfigFamily(
        fixed={**PLAIN, "qk_norm": True, "norm_after": True},
        only=NO_BIAS,
        windows=True,
        left_out={"num_key_value_heads": 32, "sliding_window": 4096, "sliding_window_pattern": 4},
        prepare=_prepare,
        more=_more,
        own={"sliding_window_pattern": None},
    ),
    "exaone4",
)
