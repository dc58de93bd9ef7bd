"""SmolLM3: Llama without positions in each fourth layer.  Source: configuration_smollm3.py and modeling_smollm3.py of release 5.24."""

from __future__ import annotations

from typing import Any

from parsim.errors import ScenarioError
from parsim.scenario.families import BIASES, COUNTS, ConfigFamily, count, layers, register


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """Without the list that says what no_rope_layer_interval does: 1 where there are positions."""
    every = count(config, "no_rope_layer_interval")
    pattern = [int(place % every > 0) for place in range(1, layers(config) + 1)]
    if config.get("no_rope_layers") not in (None, pattern):
        raise ScenarioError("no_rope_layers is not read where it is another pattern than each no_rope_layer_interval-th layer")
    return {key: value for key, value in config.items() if key != "no_rope_layers"}


register(
    ConfigFamily(
        counts={**COUNTS, "unturned_every": "no_rope_layer_interval"},
        flags=BIASES,
        tied=True,
        left_out={"num_key_value_heads": 4, "use_sliding_window": False, "no_rope_layer_interval": 4},
        windows=True,
        prepare=_prepare,
        own={"no_rope_layers": None},
    ),
    "smollm3",
)
