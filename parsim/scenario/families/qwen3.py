"""Qwen3: norms of queries and keys.  Source of what keys left out are: release 4.51."""

from __future__ import annotations

from parsim.scenario.families import NO_BIAS, PLAIN, QWEN, ConfigFamily, register

register(
    ConfigFamily(windows=True, fixed={**PLAIN, "qk_norm": True}, only=NO_BIAS, left_out={**QWEN, "head_dim": 128}), "qwen3", "qwen3_vl_text"
)
