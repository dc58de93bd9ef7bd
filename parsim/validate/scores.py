"""Every row's error beside those that it is to be held against: of two baselines, and of predictions that did not see its source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from parsim.validate.baselines import factor_errors, isolated_step_s, utilisation_errors
from parsim.validate.classes import CLASSES, SCALES, groups_of
from parsim.validate.compare import Figures, MeasuredCase, errors_once, statistics
from parsim.validate.left_out import left_out_errors

KINDS: Final = ("class", "source", "accelerator", "devices")
ALL: Final = "all"


class ScoredCase(Struct, frozen=True):
    """A row with the errors of its step, each predicted / measured - 1; None where the row is not scored."""

    case: MeasuredCase
    left_out: float | None = None  # without what is fitted to the row's source
    utilisation: float | None = None
    factor: float | None = None

    @property
    def ours(self) -> float | None:
        """Of the step as predicted."""
        return self.case.result.step_error

    @property
    def memory(self) -> float | None:
        """Of peak memory."""
        return self.case.result.memory_error


class GroupErrors(Struct, frozen=True):
    """Errors of a group, of which `num_rows` rows have a measured value; those of `ours` were predicted, repeats of a run as one."""

    kind: str  # class, source, accelerator or devices; of memory metric or source
    group: str
    num_rows: int
    ours: Figures
    left_out: Figures
    utilisation: Figures
    factor: Figures


def score(cases: Sequence[MeasuredCase], progress: Callable[[float], None] | None = None) -> list[ScoredCase]:
    """The rows with their errors; `progress` is told the share that is done."""
    isolated = []
    for done, case in enumerate(cases, start=1):
        isolated.append(isolated_step_s(case))
        if progress:
            progress(done / len(cases))
    errors = left_out_errors(cases), utilisation_errors(cases), factor_errors(cases, isolated)
    return [ScoredCase(case, *each) for case, *each in zip(cases, *errors, strict=True)]


def step_errors(scored: Sequence[ScoredCase]) -> tuple[GroupErrors, ...]:
    """Of steps, all first, then by class, source, accelerator and devices."""
    counted = [each for each in scored if each.case.result.measured_step_s and each.case.row.says("workload") != "ci"]
    groups: dict[tuple[str, str], list[ScoredCase]] = {("class", ALL): counted} if counted else {}
    for each in counted:
        for kind, names in groups_of(each.case.row).items():
            for name in names:
                groups.setdefault((kind, name), []).append(each)
    return tuple(_of_steps(kind, name, groups[kind, name]) for kind, name in sorted(groups, key=_order))


def _order(place: tuple[str, str]) -> tuple[int, int, str]:
    kind, name = place
    listed = {"class": (ALL, *CLASSES), "devices": SCALES}.get(kind, ())
    return KINDS.index(kind), listed.index(name) if name in listed else len(listed), name


def _of_steps(kind: str, name: str, rows: Sequence[ScoredCase]) -> GroupErrors:
    figures = (_once(rows, which) for which in ("ours", "left_out", "utilisation", "factor"))
    return GroupErrors(kind, name, len(rows), *figures)


def memory_errors(scored: Sequence[ScoredCase]) -> tuple[GroupErrors, ...]:
    """Of peak memory, all first, then by metric and by source."""
    counted = [each for each in scored if each.case.result.measured_peak_bytes]
    groups: dict[tuple[str, str], list[ScoredCase]] = {("metric", ALL): counted} if counted else {}
    for kind, column in (("metric", "memory_metric"), ("source", "source_family")):
        for each in sorted(counted, key=lambda each: each.case.row.says(column)):
            groups.setdefault((kind, each.case.row.says(column) or "not stated"), []).append(each)
    return tuple(GroupErrors(kind, name, len(rows), _once(rows, "memory"), *[statistics([])] * 3) for (kind, name), rows in groups.items())


def _once(rows: Sequence[ScoredCase], which: str) -> Figures:
    """Statistics of one of their errors."""
    return statistics(errors_once((row.case.result.run, getattr(row, which)) for row in rows))
