"""Mistral: a window where there are no layer_types; with them it is read as the ministral that auto/configuration_auto.py takes it for.

Source of what keys left out are: configuration_mistral.py at commit 001f85b.
"""

from __future__ import annotations

from parsim.scenario.families import NO_BIAS, PLAIN, ConfigFamily, register

register(
    ConfigFamily(windows=True, fixed=PLAIN, only=NO_BIAS, left_out={"num_key_value_heads": 8, "sliding_window": 4096}),
    "mistral",
    "ministral",
)
