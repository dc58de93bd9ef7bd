"""Errors of predictions that did not see a row's source: each figure that was fitted to it is the default, or is fitted to other sources.

Fitted figures that no row of `validate` is scored on, and constants of the code, stay as they are (parameters.py).  Other sources say
what parsim/confidence/shrink.py makes of them, whose procedure the fits are by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import exp, log
from statistics import median
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from parsim import catalog
from parsim.confidence.shrink import evidence, seen_from, shrink
from parsim.parallel.plan import Stack
from parsim.scenario import Scenario
from parsim.scenario.rows import read
from parsim.validate.baselines import scored_s
from parsim.validate.compare import MeasuredCase, predict
from parsim.validate.parameters import Parameter, parameters
from parsim.validate.table import TableRow

_ASSUMED: Final = "plain-pytorch"  # the stack whose launches of the host are assumed, not fitted


def _without_factor(scenario: Scenario, of: str) -> Scenario:
    kept = {name: share for name, share in scenario.stack.sustained_factor.items() if name != of}
    return replace(scenario, stack=replace(scenario.stack, sustained_factor=kept))


def _without_launch(scenario: Scenario, _: str) -> Scenario:
    usual: Stack = read("stacks", _ASSUMED)
    return replace(scenario, stack=replace(scenario.stack, host_launch_s=usual.host_launch_s))


def _without_alignment(scenario: Scenario, _: str) -> Scenario:
    node = scenario.cluster.node
    return replace(scenario, cluster=replace(scenario.cluster, node=replace(node, accelerator=replace(node.accelerator, alignment={}))))


# By the key of a figure that is fitted to steps: the scenario without the fit.
DEFAULTS: Final[Mapping[str, Callable[[Scenario, str], Scenario]]] = {
    "sustained_factor": _without_factor,
    "host_launch": _without_launch,
    "alignment": _without_alignment,
}


class _Move(NamedTuple):
    """The step of a row that a fitted figure moves: with the default in its place, with the fit, and as measured."""

    source: str  # of the figure's
    model: str
    default_s: float
    fitted_s: float
    measured_s: float
    factor: float  # of the fit over the default
    most: float  # factor, at a full rate


_LEAST: Final = 1e-3  # share of a step below which it says nothing of a figure

Moves = Mapping[int, _Move]  # by the place of a row


def left_out_errors(
    cases: Sequence[MeasuredCase], moves: Sequence[tuple[Parameter, Moves]] = (), *, by_model: bool = False
) -> list[float | None]:
    """Errors of the steps, each predicted / measured - 1; those that no fitted figure saw are as they are.

    Args:
        moves: those of `moves_of`, where they are known.
        by_model: a figure of one source is fitted to the other models of that, where else it is the default: what a new row of the stack
            sees, as shrink.left_out_logs leaves out.
    """
    ratios = [1.0] * len(cases)
    for parameter, moved in moves or moves_of(cases):
        for place, each in moved.items():
            ratios[place] *= _ratio(each, moved.values(), by_model=by_model and len(parameter.sources) == 1)
    errors = [case.result.step_error for case in cases]
    return [None if error is None else (1 + error) * ratio - 1 for error, ratio in zip(errors, ratios, strict=True)]


def moves_of(cases: Sequence[MeasuredCase]) -> list[tuple[Parameter, Moves]]:
    """What each figure that was fitted to scored steps moves; takes a prediction for each row that it does."""
    fitted = [parameter for parameter in parameters() if parameter.scored and parameter.of == "steps" and not parameter.is_code]
    return [(parameter, _moves_by(parameter, cases)) for parameter in fitted]


def _moves_by(parameter: Parameter, cases: Sequence[MeasuredCase]) -> Moves:
    """By place, the rows of the figure's sources that have the figure."""
    found = {}
    for place, case in enumerate(cases):
        source = _source_of(case.row, parameter.sources)
        if source and (measured_s := scored_s(case)) and case.scenario and case.estimate and _has(parameter, case.scenario):
            default_s = predict(default(case.scenario, parameter), case.row)[0]
            found[place] = _Move(
                source, case.row.says("model_name"), default_s, case.estimate.step_s, measured_s, *_factors(parameter, case.scenario)
            )
    return found


def _factors(parameter: Parameter, scenario: Scenario) -> tuple[float, float]:
    """Of a share of the rate, over the accelerator's own: as fitted, and a full rate; 1 of another figure."""
    ((name, value),) = parameter.value.items()
    own = scenario.cluster.node.accelerator.sustained_factor
    return (float(value) / own, 1.0 / own) if name.startswith("sustained_factor.") else (1.0, 1.0)


def _ratio(row: _Move, moved: Iterable[_Move], *, by_model: bool) -> float:
    """The row's step over the predicted one, if the figure had been fitted without its source, or model."""
    others = [each for each in moved if (each.model != row.model if by_model else each.source != row.source)]
    return exp((1 - _way(row, others)) * log(row.default_s / row.fitted_s))


def _way(row: _Move, others: Sequence[_Move]) -> float:
    """How much of the way from default to fit others ask for: shares of the rate shrunk, no further than a full one; else the median."""
    if row.factor == 1.0:
        moved = [each for each in others if abs(log(each.fitted_s / each.default_s)) > _LEAST]
        asked = [log(each.measured_s / each.default_s) / log(each.fitted_s / each.default_s) for each in moved]
        return median(asked) if asked else 0.0
    usual = median(1 / each.most for each in (*others, row))  # share of the rate, of which a factor is
    told = [
        seen_from(evidence(each.source, "", each.measured_s, each.default_s, each.fitted_s, each.factor), usual * each.most)
        for each in others
        if each.factor != 1.0
    ]
    return log(shrink(told, most=1 / usual).factor * usual * row.most) / log(row.factor) if told else 0.0


def default(scenario: Scenario, parameter: Parameter) -> Scenario:
    """The scenario with the defaults in place of the fitted figures."""
    for key in parameter.value:
        name, _, of = key.partition(".")
        scenario = DEFAULTS[name](scenario, of)
    return scenario


def _has(parameter: Parameter, scenario: Scenario) -> bool:
    """Whether the scenario has the parameter: its row does, or has it from the row that states it."""
    kind = parameter.name.partition("/")[0]
    row = {"stacks": scenario.stack.name, "accelerators": scenario.cluster.node.accelerator.catalog_row}.get(kind, "")
    if not catalog.find(kind, row):
        return False
    stated: Mapping[str, Any] = catalog.row(kind, catalog.find(kind, row))
    key = next(iter(parameter.value)).partition(".")[0]
    return bool(stated["source"].get(key) == parameter.evidence)


def _source_of(row: TableRow, sources: Sequence[str]) -> str:
    """The source that a row's citation names first, by its name, as vTrain of VIA-Research/vTrain, the longer of two; "" none of these.

    >>> cites = TableRow({"source": "pytorch/torchtitan#1690, beside VIA-Research/vTrain"}, {}, {}, ())
    >>> _source_of(cites, ("VIA-Research/vTrain", "pytorch/torchtitan", "pytorch/torchtitan#1690"))
    'pytorch/torchtitan#1690'
    """
    cited, found = row.says("source").lower(), list[tuple[int, int, str]]()
    for source in sources:
        owner, _, name = source.lower().partition("/")
        if (place := cited.find(name or owner)) >= 0:
            found.append((place, -len(source), source))
    return min(found)[2] if found else ""
