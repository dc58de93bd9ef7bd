"""Qwen 1.5 to 2.5, and what reads text of Qwen2-VL and Qwen2.5-VL, whose layers from max_window_layers on may slide.

Source of what keys left out are: configuration_qwen2.py at 008e574.
"""

from __future__ import annotations

from parsim.scenario.families import NO_BIAS, PLAIN, QWEN, ConfigFamily, register

register(
    ConfigFamily(windows=True, fixed={**PLAIN, "qkv_bias": True}, only=NO_BIAS, left_out=QWEN), "qwen2", "qwen2_vl_text", "qwen2_5_vl_text"
)
