"""Phi-1, 1.5 and 2: an MLP beside attention on one norm, biases everywhere, and a part of each head turned.

Source: configuration_phi.py and modeling_phi.py of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import SHARE_TURNED, ConfigFamily, register

register(
    ConfigFamily(
        fixed={
            **{"norm": "layer_norm", "positions": "rotary", "bias": True},
            **dict.fromkeys(("parallel_block", "tied_norm", "head_bias"), True),
        },
        optional={"num_kv_heads": "num_key_value_heads"},
        activation=("hidden_act", "gelu_new", ("gelu", "relu")),
        dropouts=("resid_pdrop",),
        dropped={"scores_dropped": "attention_dropout", "embedding_dropped": "embd_pdrop"},
        left_out={SHARE_TURNED: 0.5},
    ),
    "phi",
)
