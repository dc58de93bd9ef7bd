"""How long stages take that do not always take as long: gamma times of a mean and a coefficient of variation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

STEPS: Final = 4000  # of a run whose waits are averaged
WARM_UP: Final = 500  # of these that are left out


def draw(stages_ps: Sequence[int], variation: float, seed: int, count: int = STEPS) -> list[list[int]]:
    """Times of each stage for so many batches [stage][batch, ps]; without variation all are the mean, with 1 they are exponential.

    >>> draw([5, 7], 0.0, seed=0, count=3)
    [[5, 5, 5], [7, 7, 7]]
    """
    if not variation:
        return [[each] * count for each in stages_ps]
    rng, shape = np.random.default_rng(seed), variation**-2
    return [[round(each) for each in rng.gamma(shape, mean / shape, count).tolist()] for mean in stages_ps]
