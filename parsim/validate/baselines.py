"""What a prediction has to beat: two simple predictors, each fitted to the very rows that it is scored on.

One takes a constant utilisation for each accelerator, the other isolated kernels at their full rate and one factor for every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from msgspec.structs import replace

from parsim.scenario import Scenario
from parsim.validate.compare import MeasuredCase, predict


def utilisation_errors(cases: Sequence[MeasuredCase]) -> list[float | None]:
    """Errors where every step takes its FLOPs at the utilisation that is the median of the accelerator's rows.

    FLOPs are those of the hardware, with what is recomputed, over the peak of the dtype of GEMMs (Korthikanti et al. 2022, section 6).
    """
    peaks = [each.estimate.hfu * each.estimate.step_s if each.estimate else 0.0 for each in cases]  # seconds at the peak rate
    reached: dict[str, list[float]] = {}
    for case, peak_s in zip(cases, peaks, strict=True):
        if measured_s := scored_s(case):
            reached.setdefault(case.row.says("accelerator"), []).append(peak_s / measured_s)
    usual = {name: median(shares) for name, shares in reached.items()}
    return [
        peak_s / usual[case.row.says("accelerator")] / measured_s - 1 if (measured_s := scored_s(case)) else None
        for case, peak_s in zip(cases, peaks, strict=True)
    ]


def factor_errors(cases: Sequence[MeasuredCase], isolated_s: Sequence[float | None]) -> list[float | None]:
    """Errors where every step takes what isolated kernels would, times one factor, which leaves no bias."""
    ratios = [
        seconds / measured_s if seconds and (measured_s := scored_s(case)) else None
        for case, seconds in zip(cases, isolated_s, strict=True)
    ]
    usual = median([ratio for ratio in ratios if ratio] or [1.0])
    return [None if ratio is None else ratio / usual - 1 for ratio in ratios]


def isolated_step_s(case: MeasuredCase) -> float | None:
    """Seconds of the step if training sustained the rates of isolated kernels; None where nothing is scored."""
    if case.scenario is None or not scored_s(case):
        return None
    return predict(as_isolated(case.scenario), case.row)[0]


def as_isolated(scenario: Scenario) -> Scenario:
    """The scenario without a factor on its kernels' rates."""
    node = scenario.cluster.node
    bare = replace(node, accelerator=replace(node.accelerator, sustained_factor=1.0))
    return replace(scenario, cluster=replace(scenario.cluster, node=bare), stack=replace(scenario.stack, sustained_factor={}))


def scored_s(case: MeasuredCase) -> float | None:
    """The measured step of a row whose predicted step is scored; None of any other."""
    return None if case.result.step_error is None else case.result.measured_step_s
