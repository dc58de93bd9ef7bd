"""How long each gradient of each worker takes to compute, where a scenario says what disturbs its devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from parsim.cluster.scalars import Floats, Ints
from parsim.cost.slowest import draw_slowest
from parsim.scenario.disturbance import STEP, Disturbance

DRAWN: Final = 512  # gradients of a worker, after which the first follows
_SEED: Final = 16  # of a stream of its own beside others that a disturbance draws


def factors_of(disturbance: Disturbance | None, shape: tuple[int, int], *, num_passes: int, devices_per_node: int) -> Floats:
    """How many times as long as usual, [worker, gradient]; each worker is the device of its number.

    Passes of a gradient take equally long and draw each for itself, unless a draw holds for a step; a straggler is slow for a gradient.

    >>> factors_of(Disturbance(slow_devices={1: 1.5}), (3, 2), num_passes=2, devices_per_node=8).tolist()
    [[1.0, 1.0], [1.5, 1.5], [1.0, 1.0]]
    """
    found = np.ones(shape)
    if disturbance is None:
        return found
    found *= np.array([disturbance.device_factor(worker, devices_per_node) for worker in range(shape[0])])[:, None]
    jitter, often = disturbance.kernels, disturbance.stragglers
    if jitter is not None and jitter.cv:
        rng = np.random.default_rng([disturbance.seed, _SEED, 0])
        draws = 1 if jitter.per == STEP else num_passes
        found *= sum(draw_slowest(jitter, rng, shape, 1) for _ in range(draws)) / draws
    if often is not None:
        slow = np.random.default_rng([disturbance.seed, _SEED, 1]).random(shape) < often.probability
        found *= np.where(slow, often.factor, 1.0)
    return found


def times_ps(each: Ints) -> Callable[[int, int], int]:
    """Picoseconds of a worker and the number of its gradient; after the last that was drawn the first follows.

    `each`: those that were drawn, [worker, gradient].

    >>> times_ps(np.array([[100, 125]]))(0, 3)
    125
    """
    times, count = each.tolist(), each.shape[1]
    return lambda worker, number: int(times[worker][number % count])
