"""StarCoder and SantaCoder: GPT-2 with one key for all heads.

Source: configuration_gpt_bigcode.py and modeling_gpt_bigcode.py of release 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsim.scenario.families import LEARNED, ConfigFamily, flag, register
from parsim.scenario.families.gpt2 import COUNTS


def _more(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"num_kv_heads": 1} if flag(config, "multi_query") else {}


register(
    ConfigFamily(
        fixed=LEARNED,
        counts=COUNTS,
        optional={"ffn_hidden_size": "n_inner"},
        activation=("activation_function", "gelu_pytorch_tanh", ("gelu", "relu")),
        dropouts=("resid_pdrop",),
        dropped={"scores_dropped": "attn_pdrop", "embedding_dropped": "embd_pdrop"},
        default_dropout=0.1,
        tied=True,
        left_out={"multi_query": True},
        more=_more,
        own={"multi_query": False},
    ),
    "gpt_bigcode",
)
