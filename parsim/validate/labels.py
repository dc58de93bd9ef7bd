"""Published configurations that fitted or ran out of memory: how many of each parsim tells right."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from parsim.estimator.estimate import estimate_legal
from parsim.validate.case import PLAN
from parsim.validate.compare import MeasuredCase

FITS = "fits"  # the column: yes or no
SAID = ("no", "yes")


class LabelScore(Struct, frozen=True):
    """Labels of one kind and family of sources, "all" of all: how many were judged, how many right, and how many could not be judged."""

    source_family: str
    label: str
    num_judged: int
    num_right: int
    num_skipped: int


def label_scores(cases: Sequence[MeasuredCase]) -> tuple[LabelScore, ...]:
    """Of both kinds, all first, then by family."""
    told = [(case, _fits(case)) for case in cases if case.row.says(FITS) in SAID]
    families = dict.fromkeys(case.result.source_family for case, _ in told)
    return tuple(
        _score(family, label, [fits for case, fits in told if _is_of(case, family, label)])
        for family in (("all", *families) if told else ())
        for label in SAID
        if family == "all" or any(_is_of(case, family, label) for case, _ in told)
    )


def _is_of(case: MeasuredCase, family: str, label: str) -> bool:
    return case.row.says(FITS) == label and family in ("all", case.result.source_family)


def _score(family: str, label: str, judged: Sequence[bool | None]) -> LabelScore:
    right = sum(fits is (label == "yes") for fits in judged if fits is not None)
    skipped = sum(fits is None for fits in judged)
    return LabelScore(family, label, len(judged) - skipped, right, skipped)


def _fits(case: MeasuredCase) -> bool | None:
    """Whether the row's plan fits its device with all that is held there, whatever the row's source reports; None where it is not known."""
    if case.scenario is None or case.estimate is None:
        return None
    whole = estimate_legal(case.scenario, case.scenario.plan(PLAN)) if case.row.says("memory_metric") else case.estimate
    return whole.fits
