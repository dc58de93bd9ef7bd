"""An expert's own sigmoid, whatever else a token chose."""

from __future__ import annotations

import numpy as np

from parsim.model.gates import GATES, GateRule, Numbers


def weigh(logits: Numbers, chosen: Numbers) -> Numbers:
    """Sigmoids."""
    return np.asarray(1 / (1 + np.exp(-logits)))


def slope(logits: Numbers | None, gates: Numbers, d_gates: Numbers) -> Numbers:
    """That of a sigmoid."""
    return np.asarray(gates * (1 - gates) * d_gates)


SOURCE = "huggingface/transformers, modeling_llama4.py (`Llama4Router`)"
GATES.register("own_sigmoid", GateRule(weigh=weigh, slope=slope, flops=4, slope_flops=3, source=SOURCE, are_shares=False))
