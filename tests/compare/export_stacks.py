"""What measured steps of exports say of the software they ran on here, and what this predicts of all others.

A framework's launches and messages are found from a few cases, as `parsim calibrate --from` finds them, on a machine that `parsim
calibrate` has measured.  Where ranks are more than cores they take turns: what is no waiting takes ranks / cores times as long, also in
the waits of others.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.calibrate.machine import build_node, num_cores
from parsim.calibrate.own_cluster import TimedStep, calibrate_own
from parsim.calibrate.own_rows import OwnFactor
from parsim.calibrate.wall import on
from parsim.cluster.cluster import Cluster, Fabric, Node
from parsim.estimator.estimate import estimate_legal
from parsim.estimator.result import Estimate
from parsim.parallel.plan import Plan, Stack
from parsim.report.own_steps import Predictor
from parsim.scenario import Scenario
from parsim.scenario.clusters import part_of
from parsim.scenario.inline import SCHEMAS
from parsim.units import count

_LAYOUT: Final = ("layer_split", "vocab_multiple")
BUBBLE: Final = "bubble"  # the part of a step in which a rank waits for others


class Timed(Struct, frozen=True):
    """A case with its measured step: the row that it starts from, what it is calibrated with, and whether others rest on it."""

    name: str
    base: str
    software: str
    scenario: Scenario
    plan: Plan
    measured_s: float
    calibrates: bool


class Found(Struct, frozen=True):
    """What was found of the software of some cases, and the predicted step of each of them by name [s]."""

    software: str
    factors: tuple[OwnFactor, ...]
    predicted_s: Mapping[str, float]
    errors: tuple[float, ...]  # of those that it does not rest on, relative


def find(cases: Sequence[Timed], row: Mapping[str, Any]) -> Iterator[Found]:
    """Of each software that has cases to rest on, its factors and predictions on the machine of a row.

    Raises:
        RuntimeError: a measured step cannot be of what it says that it is.
    """
    machine = build_node(row)
    for software in dict.fromkeys(each.software for each in cases):
        own = [each for each in cases if each.software == software]
        if resting := [each for each in own if each.calibrates]:
            stack, factors = _stack(resting, row, machine)
            predicted = {each.name: step_s(each, machine, stack) for each in own}
            others = tuple(predicted[each.name] / each.measured_s - 1.0 for each in own if not each.calibrates)
            yield Found(software, factors, predicted, others)


def _stack(cases: Sequence[Timed], row: Mapping[str, Any], machine: Node) -> tuple[Stack, tuple[OwnFactor, ...]]:
    """The row that cases start from, with its factors as these say."""
    steps = [TimedStep(each.measured_s, each.name, each.name, number, _predictor(each, machine)) for number, each in enumerate(cases, 1)]
    own = calibrate_own((row, None, cases[0].base), [], [], steps, cite=lambda paths: f"{len(paths)} exports that ran")
    if own.faults:
        raise RuntimeError("; ".join(map(str, own.faults)))
    return SCHEMAS.get("stacks").model_validate(own.stack).build(cases[0].base), tuple(own.factors)


def _predictor(case: Timed, machine: Node) -> Predictor:
    def predict(node: Node, fabric: Fabric | None, stack: Stack) -> tuple[float, float]:
        found = _estimate(case, machine, stack)
        return _in_turns(case, found), found.mfu_causal * found.step_s / _in_turns(case, found)

    return predict


def step_s(case: Timed, machine: Node, stack: Stack) -> float:
    """The predicted step [s], of ranks that take turns where they are more than cores."""
    return _in_turns(case, _estimate(case, machine, stack))


def _estimate(case: Timed, machine: Node, stack: Stack) -> Estimate:
    return estimate_legal(replace(_here(case, machine), stack=_as_exported(case, stack)), case.plan, case.name)


def _in_turns(case: Timed, found: Estimate) -> float:
    works = found.step_s - found.breakdown_s.get(BUBBLE, 0.0)
    return max(found.step_s, works * case.plan.num_devices / num_cores())


def _here(case: Timed, machine: Node) -> Scenario:
    """Its scenario on as many cores as it has ranks."""
    return replace(on(case.scenario, machine), cluster=Cluster(part_of(machine, case.plan.num_devices)))


def _as_exported(case: Timed, stack: Stack) -> Stack:
    """The software with the layout that the scenario's stack gave the program."""
    return replace(stack, **{name: getattr(case.scenario.stack, name) for name in _LAYOUT})


def said(found: Found) -> str:
    """A line on what was found, with its errors."""
    figures = ", ".join(f"{each.figure.partition('.')[0]} {each.shrunk}" for each in found.factors)
    (first, *_), off = found.factors, [abs(each) for each in found.errors]
    alone = f"each left out in turn {first.left_out:.0%} off" if first.left_out_by else "which nothing else says"
    others = f"; {count(len(off), 'other')} {statistics.median(off):.0%}" if off else ""
    return f"{found.software}: {figures}, from {count(first.found.num_points, 'row')}, {alone}{others}"
