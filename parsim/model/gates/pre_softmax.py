"""A softmax over the logits of all experts, before some are chosen, whose gates do not add up to 1."""

import numpy as np

from parsim.model.gates import GATES, GateRule, Numbers, softmax


def weigh(logits: Numbers, chosen: Numbers) -> Numbers:
    """Shares of the exponentials of all."""
    return softmax.weigh(logits, np.array(True))


SOURCE = "DeepSeek-AI 2024 (arXiv:2405.04434), Eq. 20 to 22; NVIDIA/Megatron-LM, core/transformer/moe/moe_utils.py (use_pre_softmax)"
RULE = GateRule(weigh=weigh, slope=softmax.slope, flops=5, slope_flops=4, source=SOURCE, slope_reads=("logits",), are_shares=False)
GATES.register("pre_softmax", RULE)
