"""Llama 1 to 3.3."""

from __future__ import annotations

from parsim.scenario.families import BIASES, ConfigFamily, register

register(ConfigFamily(flags=BIASES), "llama")
