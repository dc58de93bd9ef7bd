"""GPT-2, whose keys are its own."""

from __future__ import annotations

from typing import Final

from parsim.scenario.families import LEARNED, VOCABULARY, ConfigFamily, register

COUNTS: Final = {"num_layers": "n_layer", "hidden_size": "n_embd", "num_heads": "n_head", **VOCABULARY, "max_positions": "n_positions"}

register(
    ConfigFamily(
        fixed=LEARNED,
        counts=COUNTS,
        optional={"ffn_hidden_size": "n_inner"},
        activation=("activation_function", "gelu_new", ("gelu", "relu")),
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        default_dropout=0.1,
        tied=True,
        only={"reorder_and_upcast_attn": False},
    ),
    "gpt2",
)
