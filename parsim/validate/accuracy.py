"""How accurate parsim is on tables of published measurements, as one value: all that the page of `parsim validate --report` says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from parsim.validate.case import PLAN
from parsim.validate.classes import class_of
from parsim.validate.compare import MeasuredCase, validation_of
from parsim.validate.coverage import Coverage, coverage
from parsim.validate.labels import LabelScore, label_scores
from parsim.validate.noise import NoiseFloor, noise_floors
from parsim.validate.parameters import Parameter, parameters
from parsim.validate.parts import step_parts
from parsim.validate.scores import GroupErrors, ScoredCase, memory_errors, score, step_errors
from parsim.validate.sweeps import MeasuredSweep, measured_sweeps

_WORST, _PARTS = 12, 3  # rows that are listed, parts of each


class WorstCase(Struct, frozen=True):
    """A row that is far off, with what its predicted step is made of."""

    table: str
    id: str
    source_family: str
    model_name: str
    group: str  # its class
    accelerator: str
    num_devices: str
    measured_step_s: float
    predicted_step_s: float
    error: float
    parts: dict[str, float]  # the largest of the predicted step, each as its share


class Accuracy(Struct, frozen=True):
    """All of it; `skipped`: how many rows were not predicted, by reason."""

    num_rows: int
    num_skipped: int
    steps: tuple[GroupErrors, ...]
    memory: tuple[GroupErrors, ...]
    coverage: dict[str, Coverage]  # of intervals of step and memory
    noise: tuple[NoiseFloor, ...]
    sweeps: tuple[MeasuredSweep, ...]
    labels: tuple[LabelScore, ...]
    worst: tuple[WorstCase, ...]
    parameters: tuple[Parameter, ...]
    skipped: dict[str, int]
    rows: tuple[ScoredCase, ...]


def accuracy_of(cases: Sequence[MeasuredCase], progress: Callable[[float], None] | None = None) -> Accuracy:
    """Of rows that `cases_of` predicted; `progress` is told the share of what is predicted once more that is done."""
    scored, summary = score(cases, progress), validation_of([case.result for case in cases]).summary
    return Accuracy(
        num_rows=len(cases),
        num_skipped=summary["num_skipped"],
        steps=step_errors(scored),
        memory=memory_errors(scored),
        coverage=coverage([case.result for case in cases]),
        noise=noise_floors([case.row for case in cases]),
        sweeps=measured_sweeps(cases),
        labels=label_scores(cases),
        worst=worst_cases(cases),
        parameters=parameters(),
        skipped=summary["skipped"],
        rows=tuple(scored),
    )


def worst_cases(cases: Sequence[MeasuredCase], most: int = _WORST) -> tuple[WorstCase, ...]:
    """Those furthest off, the worst first."""
    known = [(abs(case.result.step_error), case) for case in cases if case.result.step_error is not None]
    return tuple(_worst(case) for _, case in sorted(known, key=lambda each: -each[0])[:most])


def _worst(case: MeasuredCase) -> WorstCase:
    row, result, estimate = case.row, case.result, case.estimate
    assert (
        case.scenario is not None
        and estimate is not None
        and result.predicted_step_s
        and result.measured_step_s
        and result.step_error is not None
    )
    parts = step_parts(case.scenario, case.scenario.plan(PLAN), estimate)
    return WorstCase(
        table=case.table,
        id=row.says("id"),
        source_family=row.says("source_family"),
        model_name=row.says("model_name"),
        group=class_of(row),
        accelerator=row.says("accelerator"),
        num_devices=row.says("num_devices"),
        measured_step_s=result.measured_step_s,
        predicted_step_s=result.predicted_step_s,
        error=result.step_error,
        parts={part: seconds / estimate.step_s for part, seconds in list(parts.items())[:_PARTS]},
    )
