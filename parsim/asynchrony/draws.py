"""How long each gradient of each worker takes to compute, where a scenario says what disturbs its devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from parsim.cluster.scalars import Floats
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


def times_ps(factors: Floats, compute_ps: int, kernels_ps: int | None = None) -> Callable[[int, int], int]:
    """Picoseconds of a worker and the number of its gradient; after the last that was drawn the first follows.

    `kernels_ps`: the part of the time that grows by the factors, without launches of the host; all where left out.

    >>> [times_ps(np.array([[1.0, 1.25]]), 100, part)(0, 3) for part in (None, 60)]
    [125, 115]
    """
    part = compute_ps if kernels_ps is None else kernels_ps
    times, count = (compute_ps + np.rint((factors - 1.0) * part).astype(np.int64)).tolist(), factors.shape[1]
    return lambda worker, number: int(times[worker][number % count])
