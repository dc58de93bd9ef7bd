"""The gradient noise scale of an executed training: the batch above which more sequences a step save few steps.

Source: McCandlish et al. 2018 (arXiv:1812.06162), section 2.2 and appendix A.1: the squared norms of gradients over a small and a large
batch, of the same weights, tell the squared norm of the true gradient from the trace of the gradients' covariance.
"""

from __future__ import annotations

from math import sqrt
from statistics import fmean, stdev

from msgspec import Struct

from parsim.errors import ParsimError, PlanError
from parsim.executor.run import Execution
from parsim.parallel.plan import Plan

LEAST_STEPS = 8  # of which an error is estimated


class NoiseScale(Struct, frozen=True):
    """What the gradients of some steps say; batches in sequences."""

    sequences: float  # variance of a sequence's gradient over the square of the true gradient
    error: float  # standard error, by leaving out a step at a time
    small_batch: float  # of a replica
    global_batch: int
    num_steps: int


def check_noise(plan: Plan, num_steps: int) -> None:
    """Refuse a plan whose gradients before and behind a sum over replicas cannot be compared, or too few steps of it.

    Raises:
        PlanError: it has not replicas alone, or does not sum their gradients once a step; or an error cannot be told from so few steps.
    """
    once = plan.zero_stage < 2 and not plan.optimizer_in_backward and plan.gradient_sync in ("all_reduce", "master")
    if not (1 < plan.data_parallel == plan.num_devices and once):
        why = "a noise scale shows between replicas of one rank each, which sum their gradients once a step"
        raise PlanError(
            why,
            remedy="Execute a plan with data_parallel alone, zero_stage 0 or 1, and no optimizer_in_backward or parameter servers.",
        )
    if num_steps < LEAST_STEPS:
        raise PlanError(f"{num_steps} steps are too few to tell a noise scale", remedy=f"Execute {LEAST_STEPS} or more.")


def noise_scale(run: Execution) -> NoiseScale:
    """The noise scale of a run of replicas, a rank each, of which each sees its part of every batch.

    Raises:
        PlanError: the plan has others, or the steps are too few.
        ParsimError: their gradients are so noisy that their mean cannot be told from 0.
    """
    plan = run.job.asked.plan
    check_noise(plan, len(run.losses))
    large = run.job.model.batch.global_batch
    replicas = plan.data_parallel
    small = large / replicas
    # Each rank's gradient is its part of the mean over the batch.
    squares = [_split(small, fmean(own) * replicas**2, large, norm) for own, norm in zip(run.own_norms, run.norms, strict=True)]
    found = _ratio(squares)
    without = [_ratio(squares[:each] + squares[each + 1 :]) for each in range(len(squares))]
    if found is None or any(each is None for each in without):
        raise ParsimError(
            "the gradients are so noisy that their mean cannot be told from 0", remedy="Execute more steps, or larger batches."
        )
    error = stdev(each for each in without if each is not None) * (len(squares) - 1) / sqrt(len(squares))
    return NoiseScale(found, error, small, large, len(squares))


def _split(small: float, small_norm: float, large: float, large_norm: float) -> tuple[float, float]:
    """The square of the true gradient and the variance of a sequence's, from squared norms of means over two batches.

    The mean over B sequences has E|g|^2 = |G|^2 + S / B.

    >>> _split(1, 4 + 8 / 1, 2, 4 + 8 / 2)
    (4.0, 8.0)
    """
    return (large * large_norm - small * small_norm) / (large - small), (small_norm - large_norm) / (1 / small - 1 / large)


def _ratio(squares: list[tuple[float, float]]) -> float | None:
    """Each is averaged over steps before they are divided; None where the mean of the gradient's square is not positive."""
    gradient, variance = (fmean(each) for each in zip(*squares, strict=True))
    return max(variance, 0.0) / gradient if gradient > 0 else None
