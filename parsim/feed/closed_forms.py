"""What a step waits for its batch in the steady state, where a closed form says so."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

import numpy as np


def steady_stall_ps(stages_ps: Sequence[int], step_ps: int, prefetch: int) -> int:
    """What each step waits where every stage always takes as long: for the slowest stage, whatever the places between them.

    Without places for the whole line.

    >>> steady_stall_ps([3, 9, 2], 7, prefetch=2), steady_stall_ps([3, 9, 2], 7, prefetch=0), steady_stall_ps([3, 6], 7, prefetch=1)
    (2, 14, 0)
    """
    return max(0, max(stages_ps, default=0) - step_ps) if prefetch else sum(stages_ps)


def mm1k_stall(stage_s: float, step_s: float, prefetch: int) -> float:
    """What a step waits on average where one stage and the step both take exponential times of these means.

    Batches that are made and not yet trained on are at most K = prefetch + 2: one in the step, those that wait, and one that its stage
    keeps.  So they are the customers of M/M/1/K, whose server, the step, idles for the share p0 = (1 - r) / (1 - r^(K + 1)) of the time.

    Source: Kleinrock 1975, Queueing Systems, volume 1, section 3.6.

    >>> mm1k_stall(1.0, 1.0, prefetch=1)  # r = 1: p0 = 1/4 of the time, which is a third of a step
    0.3333333333333333
    """
    rate, most = step_s / stage_s, prefetch + 2
    idle = 1 / (most + 1) if rate == 1 else (1 - rate) / (1 - rate ** (most + 1))
    return idle / (1 - idle) * step_s


def dm1k_stall(stage_s: float, step_s: float, prefetch: int) -> float:
    """What a step waits on average where one stage takes exponential times of this mean and the step always as long.

    A chain over what is ready just after a step began: while it runs Poisson many batches come, until those that wait and the one that
    its stage keeps are prefetch + 1; where none has come, the step waits for one, the mean of an exponential time.

    Source: derived here; the embedded chain of Kendall 1953 (Annals of Mathematical Statistics 24(3)) with a bound.

    >>> round(dm1k_stall(1.0, 1.0, prefetch=1), 6)
    0.214097
    """
    most, mean = prefetch + 1, step_s / stage_s
    comes = [exp(-mean)]
    for count in range(1, most + 1):
        comes.append(comes[-1] * mean / count)
    chain = np.zeros((most + 1, most + 1))
    for ready in range(most + 1):
        for count in range(most - ready + 1):
            share = comes[count] if ready + count < most else 1.0 - sum(comes[:count])
            chain[ready, max(0, ready + count - 1)] += share
    balance = np.vstack([chain.T - np.eye(most + 1), np.ones(most + 1)])
    steady = np.linalg.lstsq(balance, np.append(np.zeros(most + 1), 1.0), rcond=None)[0]
    return float(steady[0] * comes[0] * stage_s)
