"""VaultGemma: Gemma 2 without the norms behind attention and MLP.

Source: configuration_vaultgemma.py and modeling_vaultgemma.py of release 5.24.
"""

from __future__ import annotations

from parsim.scenario.families import NO_BIAS, ConfigFamily, register
from parsim.scenario.families.gemma import GEMMA, by_root_of_width
from parsim.scenario.families.gemma2 import CAPS, SIZES

register(
    ConfigFamily(
        fixed=GEMMA,
        numbers=CAPS,
        activation=("hidden_activation", "gelu_pytorch_tanh", ("geglu",)),
        only=NO_BIAS,
        tied=True,
        left_out={**SIZES, "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        windows=True,
        full_every=2,
        more=by_root_of_width,
        own=dict.fromkeys(CAPS),
    ),
    "vaultgemma",
)
