"""Bamba: Mamba-2 with an MLP in each layer, and attention in place of the mixer in a few.

Source: configuration_bamba.py and modeling_bamba.py of release 5.24.
"""

from __future__ import annotations

from typing import Any, Final

from parsim.errors import ScenarioError
from parsim.scenario.families import COUNTS, NO_BIAS, OPTIONAL, SHARE_TURNED, ConfigFamily, count, entries, layers, register
from parsim.scenario.tree import show

OF_MAMBA: Final = {
    **{"mamba_heads": "mamba_n_heads", "mamba_head_dim": "mamba_d_head", "mamba_groups": "mamba_n_groups"},
    **{"state_size": "mamba_d_state", "conv_width": "mamba_d_conv", "scan_chunk": "mamba_chunk_size"},
}
MAMBA_LEFT_OUT: Final = {
    **{"mamba_n_heads": 128, "mamba_d_head": "auto", "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_chunk_size": 256},
    "mamba_expand": 2,
}
MAMBA_ONLY: Final = {"mamba_proj_bias": False, "mamba_conv_bias": True}
_ATTENDS: Final = "attn_layer_indices"


def with_mamba(config: dict[str, Any], pattern: str) -> dict[str, Any]:
    """With the pattern, a letter a layer, and the width of Mamba's heads as a number."""
    width = count(config, "mamba_expand") * count(config, "hidden_size")
    stated, heads = config["mamba_d_head"], count(config, "mamba_n_heads")
    if (width // heads if stated == "auto" else count(config, "mamba_d_head")) * heads != width:
        raise ScenarioError(f"mamba_n_heads x mamba_d_head = {heads} x {show(stated)} is not mamba_expand x hidden_size = {width}")
    kept = {key: each for key, each in config.items() if key not in ("layer_types", "layers_block_type", _ATTENDS)}
    return {**kept, "mamba_d_head": width // heads, "pattern": pattern}


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    places, num_layers = entries(config, _ATTENDS) or [], layers(config)
    attends: set[int] = set()
    for place in places:
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < num_layers:
            raise ScenarioError(f"{_ATTENDS} holds {show(place)}, which is none of the layers 0 to {num_layers - 1}")
        if place in attends:
            raise ScenarioError(f"{_ATTENDS} holds {place} twice")
        attends.add(place)
    pattern = "".join("a" if place in attends else "m" for place in range(num_layers))
    return {**with_mamba(config, pattern), SHARE_TURNED: 0.5}  # whatever is stated


register(
    ConfigFamily(
        fixed={"family": "hybrid", "norm": "rms_norm", "positions": "rotary"},
        counts={**COUNTS, **OF_MAMBA},
        optional=OPTIONAL,
        only={**NO_BIAS, **MAMBA_ONLY, "z_loss_coefficient": 0.0},
        left_out={**MAMBA_LEFT_OUT, "num_key_value_heads": 8, "max_position_embeddings": 262_144},
        prepare=_prepare,
        more=lambda config: {"pattern": config["pattern"]},
    ),
    "bamba",
)
