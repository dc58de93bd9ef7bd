"""Ministral 3: Mistral, where nothing is said without windows.  Source: configuration_ministral3.py of release 5.24."""

from __future__ import annotations

from parsim.scenario.families import NO_BIAS, PLAIN, ConfigFamily, register

register(ConfigFamily(windows=True, fixed=PLAIN, only=NO_BIAS, left_out={"num_key_value_heads": 8, "head_dim": 128}), "ministral3")
