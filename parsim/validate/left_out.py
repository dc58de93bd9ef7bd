"""Errors of predictions that did not see a row's source: each figure that was fitted to it is the default, or is fitted to other sources.

Fitted figures that no row of `validate` is scored on stay as they are (parameters.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, log
from statistics import median
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from parsim import catalog
from parsim.parallel.plan import Stack
from parsim.scenario import Scenario
from parsim.scenario.rows import read
from parsim.validate.baselines import scored_s
from parsim.validate.compare import MeasuredCase, predict
from parsim.validate.parameters import Parameter, parameters
from parsim.validate.table import TableRow

_ASSUMED: Final = "plain-pytorch"  # the stack whose launches of the host are assumed, not fitted
_LEAST: Final = 1e-3  # of a step, that a figure has to move before a row says what it should be


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

    default_s: float
    fitted_s: float
    measured_s: float

    @property
    def asks_for(self) -> float | None:
        """How much of the way from default to fit the measured step asks for; None where the figure hardly moves it."""
        way = log(self.fitted_s / self.default_s)
        return log(self.measured_s / self.default_s) / way if abs(way) > _LEAST else None


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
        for place in moved:
            ratios[place] *= _ratio(parameter, cases, moved, place, by_model=by_model)
    errors = [case.result.step_error for case in cases]
    return [None if error is None else (1 + error) * ratio - 1 for error, ratio in zip(errors, ratios, strict=True)]


def moves_of(cases: Sequence[MeasuredCase]) -> list[tuple[Parameter, Moves]]:
    """What each figure that was fitted to scored steps moves; takes a prediction for each row that it does."""
    fitted = [parameter for parameter in parameters() if parameter.scored and parameter.of == "steps"]
    return [(parameter, _moves_by(parameter, cases)) for parameter in fitted]


def _moves_by(parameter: Parameter, cases: Sequence[MeasuredCase]) -> Moves:
    """By place, the rows that have the figure; only those of its source where it has one, since no other is asked for theirs."""
    found = {}
    for place, case in enumerate(cases):
        asked = len(parameter.sources) > 1 or _is_from(case.row, parameter.sources[0])
        if asked and (measured_s := scored_s(case)) and case.scenario and case.estimate and _has(parameter, case.scenario):
            found[place] = _Move(predict(default(case.scenario, parameter), case.row)[0], case.estimate.step_s, measured_s)
    return found


def _ratio(parameter: Parameter, cases: Sequence[MeasuredCase], moved: Moves, place: int, *, by_model: bool) -> float:
    """The row's step over the predicted one, if the figure had been chosen without its source, or model; no further than a full rate."""
    own = [source for source in parameter.sources if _is_from(cases[place].row, source)]
    if not own:
        return 1.0
    if by_model and len(parameter.sources) == 1:
        others = [each for at, each in moved.items() if cases[at].row.says("model_name") != cases[place].row.says("model_name")]
    else:
        others = [each for at, each in moved.items() if not any(_is_from(cases[at].row, source) for source in own)]
    shares = [share for each in others if (share := each.asks_for) is not None]
    share = median(shares) if shares else 0.0
    if all(value == 1 for value in parameter.value.values()):
        share = min(share, 1.0)
    return exp((1 - share) * log(moved[place].default_s / moved[place].fitted_s))


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


def _is_from(row: TableRow, source: str) -> bool:
    """Whether a row's citation holds the name of a source, as vTrain that of VIA-Research/vTrain.

    >>> _is_from(TableRow({"source": "repo VIA-Research/vTrain data/ground_truth.csv"}, {}, {}, ()), "VIA-Research/vTrain")
    True
    """
    owner, _, name = source.lower().partition("/")
    return (name or owner) in row.says("source").lower()
