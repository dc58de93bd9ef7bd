"""The share of an expert's sigmoid in those of all that a token chose."""

from __future__ import annotations

import numpy as np

from parsim.model.gates import GATES, GateRule, Numbers


def weigh(logits: Numbers, chosen: Numbers) -> Numbers:
    """Shares of sigmoids."""
    own = chosen / (1 + np.exp(-logits))
    return np.asarray(own / own.sum(-1, keepdims=True))


def slope(logits: Numbers | None, gates: Numbers, d_gates: Numbers) -> Numbers:
    """That of shares, times the slope of a sigmoid's logarithm."""
    assert logits is not None
    found = gates * d_gates
    return np.asarray((found - gates * found.sum(-1, keepdims=True)) / (1 + np.exp(logits)))


SOURCE = "DeepSeek-AI 2024 (arXiv:2412.19437), Eq. 13 and 15"
GATES.register("sigmoid", GateRule(weigh=weigh, slope=slope, flops=4, slope_flops=9, source=SOURCE, slope_reads=("logits", "gates")))
