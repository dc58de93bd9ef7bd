"""OLMo 2 and 3: norms behind attention and MLP, and over all heads of queries and keys at once; 3 has windows in three of four layers.

Source: configuration_olmo2.py, modeling_olmo2.py, configuration_olmo3.py and modeling_olmo3.py of release 5.24.
"""

from __future__ import annotations

from typing import Any, Final

from parsim.scenario.families import PLAIN, ConfigFamily, register

WHOLE: Final = {**PLAIN, "qk_norm": True, "qk_norm_whole": True}
OF_ATTENTION: Final = dict.fromkeys(("qkv_bias", "bias"), "attention_bias")
_OLMO: Final[dict[str, Any]] = {
    "fixed": {**WHOLE, "norm_after": True, "norm_in_float32": True, "mlp_bias": False},
    "flags": OF_ATTENTION,
    "only": {"mlp_bias": False},
}

register(ConfigFamily(**_OLMO), "olmo2")
register(ConfigFamily(**_OLMO, windows=True, full_every=4, left_out={"sliding_window": 4096}), "olmo3")
