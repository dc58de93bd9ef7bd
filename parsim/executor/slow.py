"""What a slow device lengthens of the items of a rank's actions, found in these as they are bound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from parsim.cost.factors import DelayParts, Factors, Hosted, delays_ps
from parsim.executor.bind import Bound, Item
from parsim.executor.clock import Clock
from parsim.step.task import COMPUTE_STREAM, LAUNCH, Compute, Launches, Receive, Send, Wait


def num_messages(items: Sequence[Item]) -> int:
    """How many items come first that only wait for a message."""
    return next((place for place, item in enumerate(items) if not (isinstance(item, Bound) and isinstance(item.task, Receive))), len(items))


def delay_ps(items: Iterable[Item], factor: float) -> int:
    """How much later an action begins whose kernels take so many times as long, as `parsim.cost.factors` has it."""
    timed = [item for item in items if isinstance(item, Bound) and not isinstance(item.task, (Send, Receive))]
    kernels, zero = sum(map(_kernel_ps, timed)), np.zeros((1, 1), np.int64)
    parts = DelayParts(np.array([[kernels]]), zero, zero, zero, tuple(_waits_for_host(timed)))
    found = delays_ps(Factors(1, np.array([[factor]])), [0], parts, np.zeros(1, np.int64))
    return 0 if found is None else int(found[0, 0])


def _kernel_ps(bound: Bound) -> int:
    return bound.ps if isinstance(bound.task, Compute) and bound.stream == COMPUTE_STREAM else 0


def _waits_for_host(timed: Iterable[Bound]) -> Iterator[Hosted]:
    """What waits for the host, from each launch to the wait for it, on a clock of its own."""
    clock, kernels, launched = Clock(), 0, False
    for bound in timed:
        task = bound.task
        if isinstance(task, Launches) and task.stream == LAUNCH and not launched:
            clock, kernels, launched = Clock(), 0, True
        if not isinstance(task, Wait):
            clock.run(bound.stream, bound.reads, bound.writes, bound.ps)
            kernels += _kernel_ps(bound)
            continue
        clock.wait([stream for stream in task.streams if stream != LAUNCH], bound.reads)
        if LAUNCH in task.streams and launched:
            yield Hosted(*(np.array([[each]]) for each in (1, kernels, clock.ends[LAUNCH] - clock.compute)))
            clock.wait([LAUNCH], ())
            kernels, launched = 0, False
