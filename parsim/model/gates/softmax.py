"""A softmax over the logits of the experts that a token chose."""

from __future__ import annotations

import numpy as np

from parsim.model.gates import GATES, GateRule, Numbers


def weigh(logits: Numbers, chosen: Numbers) -> Numbers:
    """Shares of exponentials."""
    own = np.where(chosen, logits, -np.inf)
    powers = np.exp(own - own.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def slope(logits: Numbers | None, gates: Numbers, d_gates: Numbers) -> Numbers:
    """That of a softmax."""
    found = gates * d_gates
    return np.asarray(found - gates * found.sum(-1, keepdims=True))


# A FLOP a logit: to choose.
GATES.register(
    "softmax", GateRule(weigh=weigh, slope=slope, flops=1, slope_flops=4, source="Jiang et al. 2024 (arXiv:2401.04088), section 2.1")
)
