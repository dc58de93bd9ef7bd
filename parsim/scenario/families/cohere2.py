"""Command R7B and Command A: as Command R, with windows, and without positions in the layers that have none.

Source: configuration_cohere2.py and modeling_cohere2.py of release 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsim.scenario.families import FULL, ConfigFamily, count, each_full, register
from parsim.scenario.families.cohere import COHERE


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With a list of layer_types, as the interval says them."""
    types = each_full(config, count(config, "sliding_window_pattern"))
    stated = config if config.get("layer_types") is not None else {**config, "layer_types": types}
    return {key: value for key, value in stated.items() if key != "sliding_window_pattern"}


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    types = config["layer_types"]
    return {"unturned_every": types.index(FULL) + 1} if FULL in types else {}


left_out = {**COHERE["left_out"], "sliding_window": 4096, "sliding_window_pattern": 4}
own = {**COHERE["own"], "sliding_window_pattern": None}
register(ConfigFamily(**{**COHERE, "left_out": left_out, "own": own}, windows=True, prepare=_prepare, more=_more), "cohere2")
