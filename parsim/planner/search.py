"""`plan`: the ranked plans of a space, with the reasons of those that were left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from parsim.errors import ScenarioError, did_you_mean
from parsim.estimator.estimate import bounds, estimate, estimates
from parsim.estimator.result import Estimate, Estimates
from parsim.parallel.plan import Plan
from parsim.planner.space import candidates

if TYPE_CHECKING:
    from parsim.scenario import PlanSpace, Scenario


_BLOCK = 8  # plans priced at a time: few beyond the last place


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
    bounded = bounds(scenario, plans)
    fitting = [i for i in range(len(plans)) if bounded.fits[i]]
    best = _fastest(scenario, plans, bounded, fitting, top)
    rows = tuple(_estimate(scenario, plans[i]) for i in best)
    nearest = None if fitting else _estimate(scenario, plans[int(np.argmin(bounded.peak_bytes))])
    return Ranking(rows, len(plans), len(plans) - len(fitting), nearest)


def _fastest(scenario: Scenario, plans: Sequence[Plan], bounded: Estimates, fitting: Sequence[int], top: int) -> list[int]:
    """The `top` fastest of the fitting plans.

    Plans are priced in the order of their lower bounds, until no bound is below the last place: the same ranking as pricing all.
    """
    order = sorted(fitting, key=lambda i: (bounded.step_s[i], i))
    keys: dict[int, tuple[object, ...]] = {}
    for first in range(0, len(order), _BLOCK):
        places = sorted(keys, key=keys.__getitem__)[:top]
        if len(places) == top and bounded.step_s[order[first]] > keys[places[-1]][0]:
            break
        block = order[first : first + _BLOCK]
        priced = estimates(scenario, [plans[i] for i in block])
        for index, step_s in zip(block, priced.step_s, strict=True):
            keys[index] = (float(step_s), int(bounded.peak_bytes[index]), _degrees(plans[index]))
    return sorted(keys, key=keys.__getitem__)[:top]


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


def _estimate(scenario: Scenario, chosen: Plan) -> Ranked:
    return Ranked(chosen, estimate(scenario, chosen))


def _degrees(chosen: Plan) -> tuple[object, ...]:
    return chosen.tensor_parallel, chosen.pipeline_parallel, chosen.virtual_pipeline, chosen.micro_batch, chosen.recompute
