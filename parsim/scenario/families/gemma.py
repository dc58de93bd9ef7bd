"""Gemma 1: Llama with GeGLU, wide heads and embeddings times the root of their width.

Its norms multiply by 1 + weight, and later ones scale scores by query_pre_attn_scalar in place of head_dim: no count follows from either.
Source: configuration_gemma.py and modeling_gemma.py of release 5.24; Gemma Team 2024 (arXiv:2403.08295), table 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsim.scenario.families import NO_BIAS, PLAIN, ConfigFamily, count, register

GEMMA = {**PLAIN, "norm_in_float32": True}


def by_root_of_width(config: Mapping[str, Any]) -> dict[str, Any]:
    """Embeddings by the root of their width."""
    return {"embedding_scale": count(config, "hidden_size") ** 0.5}


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """With hidden_activation in place of hidden_act, which its code of 2024 looks at first."""
    return config if config.get("hidden_activation") is None else {**config, "hidden_act": config["hidden_activation"]}


register(
    ConfigFamily(
        fixed=GEMMA,
        activation=("hidden_act", "gelu_pytorch_tanh", ("geglu",)),
        only=NO_BIAS,
        tied=True,
        left_out={"num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192, "vocab_size": 256_000},
        prepare=_prepare,
        more=by_root_of_width,
    ),
    "gemma",
)
