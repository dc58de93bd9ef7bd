"""StableLM: LayerNorm in place of Llama's norm, a quarter of each head turned, and with use_parallel_residual an MLP beside attention.

Source: configuration_stablelm.py and modeling_stablelm.py of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import SHARE_TURNED, ConfigFamily, register

register(
    ConfigFamily(
        fixed={"norm": "layer_norm", "positions": "rotary", "bias": False},
        flags={
            "qkv_bias": "use_qkv_bias",
            **dict.fromkeys(("parallel_block", "tied_norm"), "use_parallel_residual"),
            **dict.fromkeys(("qk_norm", "qk_norm_by_head"), "qk_layernorm"),
        },
        only={"hidden_dropout": 0.0},  # that of an MLP alone
        left_out={SHARE_TURNED: 0.25},
        own=dict.fromkeys(("use_parallel_residual", "qk_layernorm"), False),
    ),
    "stablelm",
)
