"""GPT-J: an MLP beside attention on one norm, biases in the MLP and of logits only.

Source: configuration_gptj.py and modeling_gptj.py of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import ConfigFamily, register
from parsim.scenario.families.gpt2 import COUNTS

register(
    ConfigFamily(
        fixed={
            **{"norm": "layer_norm", "positions": "rotary", "bias": True, "qkv_bias": False, "out_bias": False},
            **dict.fromkeys(("parallel_block", "tied_norm", "head_bias"), True),
        },
        counts={**COUNTS, "rotary_dim": "rotary_dim"},
        optional={"ffn_hidden_size": "n_inner"},
        activation=("activation_function", "gelu_new", ("gelu", "relu")),
        dropouts=("resid_pdrop",),
        dropped={"scores_dropped": "attn_pdrop", "embedding_dropped": "embd_pdrop"},
        left_out={"rotary_dim": 64},
    ),
    "gptj",
)
