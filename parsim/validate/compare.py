"""Predicts every row of a table by `estimate` and sets it beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate
from parsim.scenario import Scenario
from parsim.validate.case import PLAN, missing_cells, scenario_of
from parsim.validate.defaults import LOGGED_BY_LAST_RANK
from parsim.validate.features import missing_features
from parsim.validate.result import RowResult, Validation, validation_of
from parsim.validate.table import TableRow, read


def validate(path: str | Path, where: Sequence[str] = ()) -> Validation:
    """Predicted against measured for a table of published training steps: step time and peak memory, error = predicted / measured - 1.

    A table may lack any column.  What a row leaves open is the default of its source_family's software, never a value of its own.  A row
    that needs what is not built yet, states too little or is wrong is listed with the reason.  Rows of workload `ci` count for memory
    only, since launches bound their time.  Peak memory is the most loaded rank's (the last one's, where the source logs that one only); it
    includes the framework's overheads (context, libraries, communicators) unless memory_metric is `allocated`, which counts live tensors.

    Args:
        path: a CSV file in UTF-8 with named columns, e.g. num_layers, hidden_size, accelerator, global_batch, step_s.
        where: conditions COLUMN=VALUE that rows must meet, e.g. strict=yes.

    Raises:
        ParsimError: the file cannot be read, no column of it is known, or a condition names a column that it lacks.
    """
    return validation_of([result_of(row, str(path)) for row in read(path, where)])


def result_of(row: TableRow, path: str) -> RowResult:
    """One row, predicted where that is possible."""
    measured_s, measured_bytes = measured_step_s(row), row.measures.get("peak_memory_bytes")
    known = RowResult(row.says("id"), row.says("source_family"), measured_step_s=measured_s, measured_peak_bytes=measured_bytes)
    reasons = [*row.faults, *(f"needs {each}" for each in missing_features(row)), *(f"states no {each}" for each in missing_cells(row))]
    if reasons:
        return replace(known, skipped="; ".join(reasons))
    try:
        step_s, peak_bytes = predict(scenario_of(row, path), row)
    except ParsimError as error:
        return replace(known, skipped=error.what)
    return replace(
        known,
        predicted_step_s=step_s,
        predicted_peak_bytes=peak_bytes,
        step_error=None if row.says("workload") == "ci" else _error(step_s, measured_s),
        memory_error=_error(peak_bytes, measured_bytes),
    )


def measured_step_s(row: TableRow) -> float | None:
    """Seconds of a step as measured: stated, or derived from the tokens a device takes in a second; None where neither is known."""
    tokens_per_s = row.measures.get("tokens_per_s_per_device")
    sizes = [row.counts.get(column) for column in ("global_batch", "sequence_length", "num_devices")]
    if "step_s" in row.measures or tokens_per_s is None or None in sizes:
        return row.measures.get("step_s")
    sequences, tokens, devices = (each or 0 for each in sizes)
    return sequences * tokens / (tokens_per_s * devices)


def predict(scenario: Scenario, row: TableRow) -> tuple[float, int]:
    """Seconds of a step, and peak bytes of the rank and in the sense that the row reports."""
    metric, stack = row.says("memory_metric"), scenario.stack
    if metric in ("reserved", "allocated"):  # the caching allocator: no context, no libraries
        stack = replace(stack, framework_bytes=0.0, communicator_bytes=0.0 if metric == "allocated" else stack.communicator_bytes)
    predicted = estimate(replace(scenario, stack=stack), PLAN)
    last_only = metric == "allocated" and row.says("source_family") in LOGGED_BY_LAST_RANK
    return predicted.step_s, sum(predicted.memory_bytes[-1].values()) if last_only else predicted.peak_bytes


def _error(predicted: float, measured: float | None) -> float | None:
    return None if measured is None else predicted / measured - 1.0
