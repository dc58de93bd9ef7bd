"""Hunyuan dense: Llama with norms of queries and keys, which stand behind the turning; no count follows from that order.

Source: configuration_hunyuan_v1_dense.py and modeling_hunyuan_v1_dense.py of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import PLAIN, ConfigFamily, register
from parsim.scenario.families.olmo2 import OF_ATTENTION

register(
    ConfigFamily(
        fixed={**PLAIN, "qk_norm": True, "mlp_bias": False},
        flags=OF_ATTENTION,
        only={"mlp_bias": False, "use_qk_norm": True, "use_cla": False},
        own={"use_qk_norm": False},
    ),
    "hunyuan_v1_dense",
)
