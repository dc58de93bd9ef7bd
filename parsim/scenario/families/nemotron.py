"""Nemotron-4: LayerNorm and a squared ReLU.  Source of what keys left out are: configuration_nemotron.py at commit 05cd1ec."""

from __future__ import annotations

from parsim.scenario.families import BIASES, ROTARY, SHARE_TURNED, ConfigFamily, register

register(
    ConfigFamily(
        fixed={**ROTARY, "norm": "layer_norm"},
        flags=BIASES,
        activation=("hidden_act", "relu2", ("squared_relu", "gelu", "relu")),
        left_out={SHARE_TURNED: 0.5},
    ),
    "nemotron",
)
