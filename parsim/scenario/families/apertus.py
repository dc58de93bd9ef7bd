"""Apertus: Llama with norms of queries and keys, and an MLP without a gate whose nonlinearity has two numbers of its own (xIELU).

Source: configuration_apertus.py, modeling_apertus.py and activations.py of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import COUNTS, NO_BIAS, PLAIN, ConfigFamily, register

register(
    ConfigFamily(
        fixed={**PLAIN, "qk_norm": True},
        counts=COUNTS,
        activation=("hidden_act", "xielu", ("xielu",)),
        only={**NO_BIAS, "qk_norm": True, "post_norm": False},
        left_out={"vocab_size": 131_072, "intermediate_size": 14_336, "max_position_embeddings": 65_536},
    ),
    "apertus",
)
