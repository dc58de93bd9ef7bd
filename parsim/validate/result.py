"""What a validation says: one result a row, and how large the errors are in all and by source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

Figures = Mapping[str, float | int | None]
STATISTICS: Final = ("n", "median_abs", "mean_abs", "p90_abs", "max_abs", "bias")


@dataclass(frozen=True, slots=True)
class RowResult:
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


@dataclass(frozen=True, slots=True)
class Validation:
    """All rows of a table and the size of their errors.

    `summary` holds num_rows, num_skipped, skipped (how many rows, by reason), all and by_source_family; the last two hold `step` and
    `memory`, each with the keys of STATISTICS as shares (0.05 is 5 %), None where no row counts.
    """

    rows: tuple[RowResult, ...]
    summary: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The rows and the summary as plain dicts and lists, None where something is unknown."""
        return {"rows": [asdict(row) for row in self.rows], "summary": dict(self.summary)}


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
    return {"step": statistics(row.step_error for row in rows), "memory": statistics(row.memory_error for row in rows)}


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
