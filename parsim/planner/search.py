"""`plan`: the ranked plans of a space, with the reasons of those that were left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from parsim.errors import ScenarioError, did_you_mean
from parsim.estimator.estimate import estimate, estimates
from parsim.estimator.result import Estimate
from parsim.parallel.plan import Plan
from parsim.planner.space import candidates

if TYPE_CHECKING:
    from parsim.scenario import PlanSpace, Scenario


@dataclass(frozen=True, slots=True)
class Ranked:
    """One plan with its full estimate."""

    plan: Plan
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best plans, fastest first, and how many were considered.

    `nearest` is the plan that misses the device's memory by least, where none fits.
    """

    rows: tuple[Ranked, ...]
    num_legal: int
    num_over_memory: int
    nearest: Ranked | None

    @property
    def num_fit(self) -> int:
        """Plans that fit their device."""
        return self.num_legal - self.num_over_memory


def plan(scenario: Scenario, space: str | None = None, *, top: int = 10) -> Ranking:
    """The `top` fastest plans that fit, of one space of the scenario, or of all plans that its model and cluster allow.

    Ties go to the plan with less memory, then to the smaller degrees.

    Raises:
        ScenarioError: the scenario has no space of that name, or several and none is named.
        PlanError: no plan of the space is legal.
    """
    plans = candidates(scenario, _space(scenario, space))
    priced = estimates(scenario, plans)
    order = sorted(range(len(plans)), key=lambda i: (priced.step_s[i], priced.peak_bytes[i], _degrees(plans[i])))
    fitting = [i for i in order if priced.fits[i]]
    rows = tuple(_ranked(scenario, plans[i]) for i in fitting[:top])
    nearest = None if fitting else _ranked(scenario, plans[int(np.argmin(priced.peak_bytes))])
    return Ranking(rows, len(plans), len(plans) - len(fitting), nearest)


def _space(scenario: Scenario, name: str | None) -> PlanSpace | None:
    if name is None and len(scenario.spaces) > 1:
        raise ScenarioError(f"which of its spaces: {', '.join(scenario.spaces)}?", scenario.path, "Name one.")
    if name is None:
        return next(iter(scenario.spaces.values()), None)
    if name not in scenario.spaces:
        known = ", ".join(scenario.spaces) or "none"
        hint = did_you_mean(name, scenario.spaces)
        raise ScenarioError(f"no plan '{name}' with open axes{hint}", scenario.path, f"Such plans here: {known}.")
    return scenario.spaces[name]


def _ranked(scenario: Scenario, chosen: Plan) -> Ranked:
    return Ranked(chosen, estimate(scenario, chosen))


def _degrees(chosen: Plan) -> tuple[object, ...]:
    return chosen.tensor_parallel, chosen.pipeline_parallel, chosen.virtual_pipeline, chosen.micro_batch, chosen.recompute
