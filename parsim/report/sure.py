"""How sure predictions are, in tables and JSON: 80 % intervals, whether a plan fits by the same, and on which measured runs they rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from parsim.confidence import ErrorSpread, Setting, setting_of, spread_of
from parsim.confidence.runs import HELD, STEP
from parsim.confidence.setting import kind_of
from parsim.confidence.spread import HIGH, LOW, pair_spread
from parsim.estimator.cells import span
from parsim.estimator.result import Estimate
from parsim.parallel.plan import Plan
from parsim.report.console import say, show_table
from parsim.scenario import Scenario
from parsim.units import percent

_FIGURES: Final[Mapping[str, str]] = {STEP: "steps", HELD: "peaks"}
FIT: Final = (
    "whether what will be measured fits, by the errors of comparable runs: yes where 9 of 10 would, likely where half would, unlikely "
    "where 1 of 10 would, else no; `fits` is whether the predicted peak itself does"
)


def show_intervals(scenario: Scenario, found: Mapping[str, Estimate], label: str) -> None:
    """Both intervals of plans by name, and what they rest on."""
    rows = []
    for name, each in found.items():
        if each.step_interval_s and each.peak_interval_bytes:
            spans = {"step": span(each.step_interval_s, "s"), "peak": span(each.peak_interval_bytes, "GiB")}
            rows.append({label: name, **spans, "fits": each.fit, "probably": percent(each.fit_probability or 0.0)})
    if not rows:
        return
    show_table(rows, left=(label,), title="80 % intervals: as far off as comparable measured runs were")
    told: dict[str, list[str]] = {}
    for name, each in found.items():
        for figure in _FIGURES:
            told.setdefault(rests_on(scenario, each.plan, figure), []).append(name)
    for sentence, names in told.items():
        whose = "" if len(names) == len(found) else f"{', '.join(names)}:\n  "
        say(f"{whose}{sentence}".replace("; ", "\n  "))


def near_first(scenario: Scenario, found: Sequence[Estimate]) -> tuple[float, list[int]]:
    """By what share a plan must be slower than the first so that the order of the two is sure in 9 of 10, and places nearer than that.

    Two plans of one scenario share most of their error, so that this is less than an interval.
    """
    share = math.expm1(pair_spread(kind_of(scenario, found[0].plan)))
    return share, [place for place, each in enumerate(found[1:], 2) if each.step_s <= found[0].step_s * (1 + share)]


def rests_on(scenario: Scenario, plan: Plan, figure: str) -> str:
    """How far off predictions of comparable runs were, which these are, and why the interval is wider than that."""
    setting, spread = _of(scenario, plan, figure)
    low, high = (percent(end - 1, signed=True) for end in spread.around(1.0))
    why = "".join(f"; wider: {each}" for each in spread.reasons)
    return f"{_FIGURES[figure]} {low} to {high}: {_runs(spread, setting)}{why}"


def _of(scenario: Scenario, plan: Plan, figure: str) -> tuple[Setting, ErrorSpread]:
    setting = setting_of(scenario, plan)
    return setting, spread_of(figure, setting)


def _runs(spread: ErrorSpread, setting: Setting) -> str:
    """The nearest pool that has runs."""
    sources = f"{len(spread.sources)} {'sources' if len(spread.sources) > 1 else 'source'}"
    match spread.level:
        case "stack":
            return f"{spread.num_runs} runs of {setting.stack} ({setting.kind}, {sources})"
        case "class":
            return f"{spread.num_runs} runs, other stacks ({setting.kind}, {sources})"
    return f"all {spread.num_runs} runs ({sources}), none comparable"


def explanation(scenario: Scenario, estimate: Estimate, figure: str) -> str:
    """The interval of a figure, with the pools that it is drawn from and their sources."""
    _, spread = _of(scenario, estimate.plan, figure)
    interval = estimate.step_interval_s if figure == STEP else estimate.peak_interval_bytes
    ends = span(interval, "s" if figure == STEP else "GiB") if interval else "unknown"
    whose = f"{rests_on(scenario, estimate.plan, figure)}; these count for {percent(spread.weight)}, all runs around them for the rest"
    return f"{ends} holds {percent(HIGH - LOW)} of what will be measured: {whose} [{', '.join(spread.sources)}]"


def document(scenario: Scenario, estimate: Estimate) -> dict[str, Any]:
    """What JSON has of it: SI base units, null where nothing is known."""
    rests: dict[str, Any] = {"class": setting_of(scenario, estimate.plan).kind}
    for figure, name in ((STEP, "step"), (HELD, "peak")):
        _, spread = _of(scenario, estimate.plan, figure)
        rests[name] = {
            **{"pool": spread.level, "num_runs": spread.num_runs, "sources": list(spread.sources)},
            **{"times_wider": spread.wider, "wider_since": list(spread.reasons)},
        }
    return {**figures(estimate), "intervals_rest_on": rests}


def figures(estimate: Estimate) -> dict[str, Any]:
    """The ends of both intervals and whether the plan fits, in a word and as a probability."""
    intervals = {"step_interval_s": estimate.step_interval_s, "peak_interval_bytes": estimate.peak_interval_bytes}
    listed = {name: list(each) if each else None for name, each in intervals.items()}
    return {**listed, "fit": estimate.fit, "fit_probability": estimate.fit_probability}
