"""How the loss of a run falls with the sequences that it has seen, and with time; when it has fallen to a given one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from msgspec import Struct

from parsim.executor.run import Execution
from parsim.executor.serving import ServedExecution
from parsim.units import PS_PER_S

WINDOW: Final = 10  # steps over which a loss is averaged: the batches of single ones differ


class LossPoint(Struct, frozen=True):
    """After a step."""

    samples: int  # sequences of all gradients that were applied so far
    virtual_s: float  # on the cluster of the scenario
    wall_s: float | None  # on this machine, since the run went on; None: before that, or the ranks were no processes
    loss: float  # of the step
    mean_loss: float  # of the last WINDOW steps
    validation_loss: float | None = None  # of what the data set holds back, where it is measured then
    accuracy: float | None = None


def points_of(run: Execution | ServedExecution, rows: Sequence[Mapping[str, Any]]) -> tuple[LossPoint, ...]:
    """A point a step; `rows`: validation_loss and accuracy by step."""
    means = [sum(run.losses[max(0, i + 1 - WINDOW) : i + 1]) / min(i + 1, WINDOW) for i in range(len(run.losses))]
    if isinstance(run, ServedExecution):
        samples, ends_ps = zip(*((step.samples, step.end_ps) for step in run.steps), strict=True)
    else:
        batch = run.job.model.batch.global_batch
        samples, ends_ps = tuple(range(batch, batch * len(run.losses) + 1, batch)), run.ends_ps
    since = [*accumulate(run.step_walls_s)]
    walls_s = [*[None] * (len(ends_ps) - len(since)), *since]
    return tuple(
        LossPoint(count, end_ps / PS_PER_S, wall_s, loss, mean, row["validation_loss"], row["accuracy"])
        for count, end_ps, wall_s, loss, mean, row in zip(samples, ends_ps, walls_s, run.losses, means, rows, strict=True)
    )


def first_at(points: Sequence[LossPoint], loss: float) -> LossPoint | None:
    """The first point, WINDOW steps or more from the start, at which the mean loss is at most so much; None: it never is.

    >>> curve = [LossPoint(samples=n, virtual_s=n / 2, wall_s=None, loss=9 / n, mean_loss=9 / n) for n in range(1, 21)]
    >>> first_at(curve, 0.75).virtual_s, first_at(curve, 3.0).samples, first_at(curve, 0.1)
    (6.0, 10, None)
    """
    return next((point for point in points[WINDOW - 1 :] if point.mean_loss <= loss), None)
