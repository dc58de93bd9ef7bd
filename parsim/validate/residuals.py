"""How far predictions of published runs are off, a line a run: what intervals of other predictions rest on (parsim/confidence)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from parsim.confidence import ComparedRun, setting_of
from parsim.validate.case import PLAN
from parsim.validate.compare import MeasuredCase, cases_of, quantity_of
from parsim.validate.intervals import figure_of
from parsim.validate.left_out import left_out_errors, moves_of
from parsim.validate.sources import source_of
from parsim.validate.sweeps import SWEEP


def residuals(tables: Iterable[str | Path]) -> tuple[ComparedRun, ...]:
    """The runs of all tables that can be predicted and state a step time, of a workload other than `ci`, or a peak."""
    firsts, found = dict[tuple[str, ...], str](), list[ComparedRun]()
    cases = cases_of([*tables])
    moves = moves_of(cases)
    unseen, left_out = left_out_errors(cases, moves, by_model=True), left_out_errors(cases, moves)
    for case, of_stack, of_others in zip(cases, unseen, left_out, strict=True):
        if run := residual_of(case):
            sweep = firsts.setdefault(tuple(case.row.says(column) for column in SWEEP), run.id)
            found.append(replace(run, sweep=sweep, step_unseen=_log_ratio(of_stack), step_left_out=_log_ratio(of_others)))
    return tuple(found)


def residual_of(case: MeasuredCase) -> ComparedRun | None:
    """The run of a row, as if it stood alone and nothing were fitted to it; None where it was not predicted or states neither figure."""
    step, peak = _log_ratio(case.result.step_error), _log_ratio(case.result.memory_error)
    if case.scenario is None or (step is None and peak is None):
        return None
    known: dict[str, Any] = asdict(setting_of(case.scenario, case.scenario.plan(PLAN)))
    known[figure_of(quantity_of(case.row))] = peak
    known |= {"step": step, "step_unseen": step, "step_left_out": step}
    return ComparedRun(id=case.row.says("id"), source=source_of(case.row), sweep="", **known)


def _log_ratio(error: float | None) -> float | None:
    """log(measured / predicted), with as many digits as the file keeps."""
    return None if error is None else round(-math.log1p(error), 4)
