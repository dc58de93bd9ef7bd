"""How far predictions of published runs are off, a line a run: what intervals of other predictions rest on (parsim/confidence)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from parsim.confidence import ComparedRun, setting_of
from parsim.errors import ParsimError
from parsim.validate.case import PLAN, missing_cells, missing_features, scenario_of
from parsim.validate.compare import measured_step_s, predict
from parsim.validate.intervals import figure_of
from parsim.validate.sweeps import SWEEP
from parsim.validate.table import TableRow, read


def residuals(tables: Iterable[str | Path]) -> tuple[ComparedRun, ...]:
    """The runs of all tables that can be predicted and state a step time, of a workload other than `ci`, or a peak."""
    firsts: dict[tuple[str, ...], str] = {}
    return tuple(run for table in tables for row in read(table) for run in _runs(row, str(table), firsts))


def _runs(row: TableRow, path: str, firsts: dict[tuple[str, ...], str]) -> Iterator[ComparedRun]:
    """The run of a row; none where it cannot be predicted or states neither figure."""
    if (found := residual_of(row, path)) is not None:
        sweep = firsts.setdefault(tuple(row.says(column) for column in SWEEP), found.id)
        yield replace(found, sweep=sweep)


def residual_of(row: TableRow, path: str) -> ComparedRun | None:
    """The run of a row, as if it stood alone; None where it cannot be predicted or states neither figure."""
    if row.faults or missing_features(row) or missing_cells(row):
        return None
    try:
        scenario = scenario_of(row, path)
        step_s, peak_bytes = predict(scenario, row)
    except ParsimError:
        return None
    setting = setting_of(scenario, scenario.plan(PLAN))
    step = None if row.says("workload") == "ci" else _error(measured_step_s(row), step_s)
    peak = {figure_of(row.says("memory_metric")): _error(row.measures.get("peak_memory_bytes"), peak_bytes)}
    if step is None and not any(each is not None for each in peak.values()):
        return None
    known: dict[str, Any] = {**asdict(setting), **peak}
    return ComparedRun(id=row.says("id"), source=row.says("source_family"), sweep="", step=step, **known)


def _error(measured: float | None, predicted: float) -> float | None:
    return None if measured is None else round(math.log(measured / predicted), 4)
