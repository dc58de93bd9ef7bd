"""Mixtral: Mistral with experts.  Source of what keys left out are: release 4.51."""

from __future__ import annotations

from parsim.scenario.families import CHOSEN, COUNTS, NO_BIAS, PLAIN, ConfigFamily, register

register(
    ConfigFamily(
        windows=True,
        fixed=PLAIN,
        counts={**COUNTS, "num_experts": "num_local_experts", **CHOSEN},
        only=NO_BIAS,
        left_out={"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "mixtral",
)
