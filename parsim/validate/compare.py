"""Predicts every row of a table by `estimate`, sets it beside what was measured, and sums the errors up, in all and by source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict, replace

from parsim.confidence import setting_of
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate_legal, stages_of
from parsim.estimator.memory import rank_memory
from parsim.estimator.parts import ALLOCATED, DEVICE, PARTS, QUANTITIES
from parsim.estimator.result import Estimate
from parsim.scenario import Scenario
from parsim.scenario.left_open import names_of
from parsim.validate.case import PLAN, missing_cells, missing_features, scenario_of
from parsim.validate.defaults import LOGGED_BY_LAST_RANK, software_of
from parsim.validate.intervals import intervals_of
from parsim.validate.published import tables as published
from parsim.validate.sources import run_of
from parsim.validate.table import TableRow, derived_step_s, read_all

Figures = Mapping[str, float | int | None]
# What a stack's own log says of memory.  Source: sail-sg/zero-bubble-pipeline-parallelism@7b4527eb, megatron/training.py (report_memory,
# which prints what is allocated first); assumed of nanotron, whose log has it, too (src/nanotron/helpers.py, log_memory).
LOGGED_BY_STACK: Final[Mapping[str, str]] = {"zero-bubble-2023": ALLOCATED, "nanotron": ALLOCATED}
STATISTICS: Final = ("n", "median_abs", "mean_abs", "p90_abs", "max_abs", "bias")


class RowResult(Struct, frozen=True):
    """One row, predicted beside measured; None: not stated, or not predicted.  error = predicted / measured - 1."""

    id: str
    source_family: str
    predicted_step_s: float | None = None
    measured_step_s: float | None = None
    step_error: float | None = None
    predicted_peak_bytes: int | None = None
    measured_peak_bytes: float | None = None
    memory_error: float | None = None
    skipped: str | None = None  # what the row needs that is not built yet, lacks, or has wrong
    assumed: tuple[str, ...] = ()  # what the row leaves open, by the names of parsim/scenario/left_open.py, whose rules stand for it
    notes: str | None = None  # what these chose
    kind: str | None = None  # the class of training by which errors differ
    repeats: str | None = None  # the first row of the same run, which counts once in statistics
    # 80 % intervals of both, and whether what was measured is inside; made without the source `left_out`, the row's own where intervals
    # rest on runs of it.  A pool is the nearest that has comparable runs: of the stack, the class, or all.
    left_out: str | None = None
    step_pool: str | None = None
    step_low_s: float | None = None
    step_high_s: float | None = None
    step_inside: bool | None = None
    peak_pool: str | None = None
    peak_low_bytes: float | None = None
    peak_high_bytes: float | None = None
    peak_inside: bool | None = None

    @property
    def run(self) -> str:
        """The first row of its run, or this."""
        return self.repeats or self.id


class MeasuredCase(Struct, frozen=True):
    """A row with its result and, where it was predicted, from what and as what."""

    row: TableRow
    table: str  # the name of its file
    result: RowResult
    scenario: Scenario | None = None
    estimate: Estimate | None = None


class Validation(Struct, frozen=True):
    """All rows of a table and the size of their errors.

    `summary` holds num_rows, num_skipped, skipped (how many rows, by reason), all and by_source_family; the last two hold `step` and
    `memory`, each with the keys of STATISTICS as shares (0.05 is 5 %), None where no row counts.
    """

    rows: tuple[RowResult, ...]
    summary: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The rows and the summary as plain dicts and lists, None where something is unknown."""
        return {"rows": [asdict(row) for row in self.rows], "summary": dict(self.summary)}


def validate(tables: str | Path | Sequence[str | Path] = (), where: Sequence[str] = ()) -> Validation:
    """Predicted against measured for tables of published training steps: step time and peak memory, error = predicted / measured - 1.

    A table may lack any column.  What a row leaves open is the default of its source_family's software, never a value of its own.  A row
    that needs what is not built yet, states too little or is wrong is listed with the reason.  Rows of workload `ci` count for memory
    only, since launches bound their time.  Peak memory is the most loaded rank's (the last one's, where the source logs that one only), in
    the sense of memory_metric, as parsim/estimator/parts.py defines it: allocated, reserved or device, that is what fits or does not.

    Args:
        tables: a CSV file in UTF-8 with named columns, e.g. num_layers, hidden_size, accelerator, global_batch, step_s; or several, whose
            columns may differ; where left out those that parsim ships.
        where: conditions COLUMN=VALUE that rows must meet, e.g. strict=yes.

    Raises:
        ParsimError: a file cannot be read, no column of it is known, or a condition names a column that all lack.
    """
    return validation_of([case.result for case in cases_of(tables, where)])


def cases_of(
    tables: str | Path | Sequence[str | Path] = (), where: Sequence[str] = (), progress: Callable[[float], None] | None = None
) -> list[MeasuredCase]:
    """The rows of `validate`, each with what it was predicted from; `progress` is told the share that is done.

    Raises:
        ParsimError: as `validate`.
    """
    paths = [tables] if isinstance(tables, str | Path) else list(tables)
    rows = read_all(paths or published(), where)
    found, known = [], dict[tuple[object, ...], MeasuredCase]()
    for path, row in rows:
        cells = path, *sorted(row.text.items())  # of rows that say the same each is predicted once
        if cells not in known:
            known[cells] = case_of(row, str(path))
        found.append(replace(known[cells], row=row))
        if progress:
            progress(len(found) / len(rows))
    return _with_repeats(found)


def _with_repeats(cases: Sequence[MeasuredCase]) -> list[MeasuredCase]:
    """The same, each row that repeats an earlier one's run with the id of that."""
    firsts, found = dict[tuple[str, ...], str](), list[MeasuredCase]()
    for case in cases:
        run = run_of(case.row)
        first = firsts.get(run)
        firsts.setdefault(run, case.result.id)
        found.append(replace(case, result=replace(case.result, repeats=first)) if first else case)
    return found


def case_of(row: TableRow, path: str) -> MeasuredCase:
    """One row, predicted where that is possible, with what it was predicted from."""
    table = Path(path).name
    measured_s, measured_bytes = measured_step_s(row), row.measures.get("peak_memory_bytes")
    known = RowResult(row.says("id"), row.says("source_family"), measured_step_s=measured_s, measured_peak_bytes=measured_bytes)
    reasons = [*row.faults, *(f"needs {each}" for each in missing_features(row)), *(f"states no {each}" for each in missing_cells(row))]
    if reasons:
        return MeasuredCase(row, table, replace(known, skipped="; ".join(reasons)))
    try:
        scenario = scenario_of(row, path)
        estimate = estimate_legal(scenario, scenario.plan(PLAN))
    except ParsimError as error:
        return MeasuredCase(row, table, replace(known, skipped=error.what))
    peak_bytes = sum(_parts_of_rank(estimate.memory_bytes, row).values())
    measured = {"step_s": None if row.says("workload") == "ci" else measured_s, "peak_bytes": measured_bytes}
    result = replace(
        known,
        **intervals_of(row, setting_of(scenario, scenario.plan(PLAN)), quantity_of(row), estimate.step_s, peak_bytes, measured),
        predicted_step_s=estimate.step_s,
        predicted_peak_bytes=peak_bytes,
        step_error=_error(estimate.step_s, measured["step_s"]),
        memory_error=_error(peak_bytes, measured_bytes),
        assumed=names_of(scenario.assumed),
        notes="; ".join(map(str, scenario.assumed)) or None,
    )
    return MeasuredCase(row, table, result, scenario, estimate)


def measured_step_s(row: TableRow) -> float | None:
    """Seconds of a step as measured: stated, or derived from the tokens a device takes in a second; None where neither is known."""
    return row.measures.get("step_s") or derived_step_s(row)


def predict(scenario: Scenario, row: TableRow) -> tuple[float, int]:
    """Seconds of a step, and peak bytes of the rank and in the sense that the row reports."""
    predicted = estimate_legal(scenario, scenario.plan(PLAN))
    return predicted.step_s, sum(_parts_of_rank(predicted.memory_bytes, row).values())


def reported_memory(scenario: Scenario, row: TableRow) -> Mapping[str, int]:
    """Parts of the peak memory of the rank and in the sense that the row reports."""
    return _parts_of_rank(rank_memory(stages_of(scenario, scenario.plan(PLAN))).of_plan(0), row)


def quantity_of(row: TableRow) -> str:
    """The quantity of parsim/estimator/parts.py that the row reports; where it is not known, what its stack logs, or nvidia-smi shows."""
    stated = row.says("memory_metric")
    return stated if stated in QUANTITIES else LOGGED_BY_STACK.get(software_of(row).stack, DEVICE)


def _parts_of_rank(ranks: Sequence[Mapping[str, int]], row: TableRow) -> Mapping[str, int]:
    quantity = quantity_of(row)
    meant = [{name: parts[name] for name in PARTS[quantity]} for parts in ranks]
    if quantity == ALLOCATED and row.says("source_family") in LOGGED_BY_LAST_RANK:
        return meant[-1]
    return max(meant, key=lambda parts: sum(parts.values()))


def _error(predicted: float, measured: float | None) -> float | None:
    return None if measured is None else predicted / measured - 1.0


def validation_of(rows: Sequence[RowResult]) -> Validation:
    """The rows with their summary."""
    families = dict.fromkeys(row.source_family for row in rows)
    reasons = [reason for row in rows if row.skipped for reason in row.skipped.split("; ")]
    summary = {
        "num_rows": len(rows),
        "num_skipped": sum(row.skipped is not None for row in rows),
        "skipped": {reason: reasons.count(reason) for reason in sorted(set(reasons), key=lambda each: (-reasons.count(each), each))},
        "all": _both(rows),
        "by_source_family": {family: _both([row for row in rows if row.source_family == family]) for family in families},
    }
    return Validation(tuple(rows), summary)


def _both(rows: Sequence[RowResult]) -> dict[str, Figures]:
    errors = {"step": [(row.run, row.step_error) for row in rows], "memory": [(row.run, row.memory_error) for row in rows]}
    return {name: statistics(errors_once(each)) for name, each in errors.items()}


def errors_once(errors: Iterable[tuple[str, float | None]]) -> list[float]:
    """The known errors, each with its run, one a run: beside the median of what its repeats measured.

    >>> [round(each, 3) for each in errors_once([("a", 0.0), ("a", 0.25), ("b", None), ("c", -0.1)])]
    [0.111, -0.1]
    """
    measured: dict[str, list[float]] = {}
    for run, error in errors:
        if error is not None:
            measured.setdefault(run, []).append(1 / (1 + error))
    return [1 / median(each) - 1 for each in measured.values()]


def statistics(errors: Iterable[float | None]) -> Figures:
    """How large the errors are: n, median, mean, 90th percentile and maximum of their absolute values, and their signed median, the bias.

    >>> statistics([0.1, -0.3, None])["mean_abs"], statistics([])["bias"]
    (0.2, None)
    """
    known = np.array([each for each in errors if each is not None], dtype=np.float64)
    if not known.size:
        return {"n": 0, **dict.fromkeys(STATISTICS[1:])}
    size = np.abs(known)
    figures = np.median(size), np.mean(size), np.quantile(size, 0.9), np.max(size), np.median(known)
    return {"n": int(known.size), **{name: float(each) for name, each in zip(STATISTICS[1:], figures, strict=True)}}
