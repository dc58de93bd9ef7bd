"""Jais 2: LayerNorm, biases, and a squared ReLU in place of a gate.

Source: configuration_jais2.py and modeling_jais2.py of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import BIASES, ROTARY, ConfigFamily, register

register(
    ConfigFamily(
        fixed={**ROTARY, "norm": "layer_norm"},
        flags=BIASES,
        activation=("hidden_act", "relu2", ("squared_relu", "gelu", "relu")),
        left_out=dict.fromkeys(BIASES.values(), True),
    ),
    "jais2",
)
