"""Mamba-2, whose keys are its own.

What keys left out are: configuration_mamba2.py of release 5.24.  `residual_in_fp32` is not followed: the residual stream has the dtype of
the batch.
"""

from __future__ import annotations

from parsim.scenario.families import VOCABULARY, ConfigFamily, register

# The longest sequence of released models: they know no positions.  Source: Dao and Gu 2024 (arXiv:2405.21060), appendix D.1.
_TRAINED_ON = 2048

register(
    ConfigFamily(
        fixed={
            **{"family": "hybrid", "pattern": "M", "norm": "rms_norm", "positions": "none", "activation": "squared_relu"},
            "max_positions": _TRAINED_ON,
        },
        counts={
            **{"num_layers": "num_hidden_layers", "hidden_size": "hidden_size", **VOCABULARY, "state_size": "state_size"},
            **{"mamba_heads": "num_heads", "mamba_head_dim": "head_dim", "mamba_groups": "n_groups"},
            **{"conv_width": "conv_kernel", "scan_chunk": "chunk_size"},
        },
        optional={},
        dropouts=("hidden_dropout",),
        only={"use_bias": False, "use_conv_bias": True, "hidden_act": "silu"},
        left_out={
            **{"num_heads": 128, "head_dim": 64, "n_groups": 8, "state_size": 128, "conv_kernel": 4, "chunk_size": 256},
            **{"num_hidden_layers": 64, "hidden_size": 4096, "vocab_size": 32768},
        },
    ),
    "mamba2",
)
