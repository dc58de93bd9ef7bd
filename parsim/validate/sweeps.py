"""Measured sweeps: what the plan that is ranked first costs beyond the best, and how like the measured the predicted order is."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import Final

import numpy as np
from msgspec import Struct

from parsim.cluster.scalars import Floats
from parsim.validate.baselines import scored_s
from parsim.validate.case import PLAN
from parsim.validate.compare import MeasuredCase
from parsim.validate.defaults import attention_of, fusions_of, software_of
from parsim.validate.sources import configuration_of

MANY: Final = 8  # rows of a sweep
# A sweep is rows equal in these.
SWEEP: Final = (
    *("source_family", "model_name", "num_layers", "hidden_size", "num_heads", "vocab_size", "accelerator", "num_devices"),
    *("sequence_length", "global_batch", "dtype"),
)
_FEWEST_RANKED: Final = 3  # plans of which an order means something


class MeasuredSweep(Struct, frozen=True):
    """A sweep as scored.  `regret`: the step of the plan predicted fastest over the fastest measured, less 1; `random`: of any plan."""

    source_family: str
    model_name: str
    accelerator: str
    num_devices: str
    sequence_length: str
    global_batch: str
    num_rows: int
    plans: tuple[tuple[float, float], ...]  # seconds as predicted and measured
    regret: float
    random: float
    rank_correlation: float | None  # None: two plans have no order worth telling, or all are equal


def measured_sweeps(cases: Sequence[MeasuredCase]) -> tuple[MeasuredSweep, ...]:
    """All sweeps of MANY rows that are scored, in the order of their first."""
    found: dict[tuple[str, ...], list[MeasuredCase]] = {}
    for case in cases:
        if scored_s(case):
            found.setdefault(tuple(case.row.says(column) for column in SWEEP), []).append(case)
    whole = (_runs_once(own) for own in found.values())
    return tuple(_sweep(own) for own in whole if len(own) >= MANY and len(_plans(own)) > 1)


def _runs_once(cases: Sequence[MeasuredCase]) -> list[MeasuredCase]:
    """The rows without those whose plan and time another table has already."""
    seen: dict[tuple[tuple[str, ...], str], MeasuredCase] = {}
    for case in cases:
        known = seen.setdefault((_plan_of(case), f"{case.result.measured_step_s:.5g}"), case)
        if known.table == case.table and known is not case:
            seen[_plan_of(case), case.result.id] = case
    return list(seen.values())


def _sweep(cases: Sequence[MeasuredCase]) -> MeasuredSweep:
    pairs, row = _plans(cases), cases[0].row
    columns = ("source_family", "model_name", "accelerator", "num_devices", "sequence_length", "global_batch")
    best = min(measured for _, measured in pairs)
    return MeasuredSweep(
        **{column: row.says(column) for column in columns},
        num_rows=len(cases),
        plans=tuple(pairs),
        regret=regret(pairs),
        random=fmean(measured for _, measured in pairs) / best - 1,
        rank_correlation=rank_correlation(pairs),
    )


def _plans(cases: Sequence[MeasuredCase]) -> list[tuple[float, float]]:
    """Seconds of each plan as predicted and measured, each the median of its repeats."""
    repeats: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for case in cases:
        seconds = case.result.predicted_step_s or 0.0, case.result.measured_step_s or 0.0
        repeats.setdefault(_plan_of(case), []).append(seconds)
    return [(median(predicted for predicted, _ in each), median(measured for _, measured in each)) for each in repeats.values()]


def _plan_of(case: MeasuredCase) -> tuple[str, ...]:
    """What makes two rows of a sweep repeats of one plan: all that columns state, and what parsim reads in notes besides."""
    row = case.row
    read = repr(case.scenario.plan(PLAN)) if case.scenario else ""
    return (*configuration_of(row), read, attention_of(row), *fusions_of(row, ()), software_of(row).stack)


def regret(pairs: Sequence[tuple[float, float]]) -> float:
    """Of plans' (predicted, measured) seconds what the first costs beyond the best; of plans predicted equal the slowest is first.

    >>> round(regret([(1.0, 2.0), (1.1, 1.6)]), 6)
    0.25
    """
    first = min(predicted for predicted, _ in pairs)
    chosen = max(measured for predicted, measured in pairs if predicted == first)
    return chosen / min(measured for _, measured in pairs) - 1


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The rank correlation of plans' (predicted, measured) seconds, equal ones at the mean of their ranks; None where it says nothing.

    Source: Spearman 1904, American Journal of Psychology 15(1).

    >>> rank_correlation([(1.0, 10.0), (2.0, 30.0), (3.0, 20.0)])
    0.5
    """
    if len(pairs) < _FEWEST_RANKED:
        return None
    one, other = (_ranks(np.array(side)) for side in zip(*pairs, strict=True))
    spread = float(np.sqrt(np.sum(one**2) * np.sum(other**2)))
    return float(np.sum(one * other)) / spread if spread else None


def _ranks(values: Floats) -> Floats:
    """Ranks about their mean."""
    below = (values[:, None] > values).sum(axis=1) + (values[:, None] == values).sum(axis=1) / 2
    ranks: Floats = below - below.mean()
    return ranks
