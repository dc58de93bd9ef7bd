"""The noise floor: how far measured steps differ that no stated column tells apart, and that no software does, either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from msgspec import Struct

from parsim.validate.compare import measured_step_s
from parsim.validate.sources import configuration_of, told_software_of
from parsim.validate.table import TableRow


class NoiseFloor(Struct, frozen=True):
    """Groups of equal rows: how far the slowest is above the fastest, as a share, and how far a row is from the middle of its group."""

    equal_in: str
    num_groups: int
    num_rows: int
    median_spread: float | None
    max_spread: float | None
    median_error: float | None


def noise_floors(rows: Sequence[TableRow]) -> tuple[NoiseFloor, ...]:
    """Of rows equal in configuration and software, and in configuration alone; steps of workload `ci`, which nobody scores, left out."""
    scored = [row for row in rows if row.says("workload") != "ci" and measured_step_s(row)]
    return (
        _floor("configuration and software", scored, lambda row: (*configuration_of(row), *told_software_of(row))),
        _floor("configuration", scored, configuration_of),
    )


def _floor(name: str, rows: Iterable[TableRow], key: Callable[[TableRow], tuple[str, ...]]) -> NoiseFloor:
    by_key: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        by_key.setdefault(key(row), {})[row.says("id")] = measured_step_s(row) or 0.0  # a run that two tables have is one
    groups = [list(steps.values()) for steps in by_key.values() if len(steps) > 1]
    spreads = [max(steps) / min(steps) - 1 for steps in groups]
    errors = [abs(median(steps) / each - 1) for steps in groups for each in steps]
    middle, most = (median(spreads), max(spreads)) if spreads else (None, None)
    return NoiseFloor(name, len(groups), len(errors), middle, most, median(errors) if errors else None)
