"""Experts choose tokens: each takes as many as all others, whichever, so that a token has more experts or fewer."""

import numpy as np
from msgspec.structs import replace

from parsim.model.gates import GATES, pre_softmax


def choose(loads: tuple[int, ...], run: int) -> tuple[int, ...]:
    """Tokens that each expert draws, none twice.

    >>> len(set(choose((3, 3), 4)[:3]))
    3
    """
    draw = np.random.default_rng(len(loads))
    return tuple(token for load in loads for token in sorted(draw.permutation(run)[:load].tolist()))


SOURCE = "Zhou et al. 2022 (arXiv:2202.09368), section 3.2: a softmax over experts, of which each expert takes its largest"
GATES.register("expert_choice", replace(pre_softmax.RULE, choose=choose, source=SOURCE))
