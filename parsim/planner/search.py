"""`plan`: the legal plans of a space, all bounded as columns, and ranked exactly as far as the bounds leave a choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.errors import PlanError, ScenarioError, did_you_mean
from parsim.estimator.estimate import Priced, estimate_of
from parsim.estimator.host import host_peak_bytes
from parsim.estimator.memory import peak_bytes
from parsim.estimator.pipeline import lower_bound, step_ps
from parsim.estimator.result import Estimate, Estimates
from parsim.planner.constraints import Cut, Sieve, sieve_of
from parsim.planner.objectives import Least, check_objective, loss_of
from parsim.planner.space import Rejected, candidates
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import PlanSpace, Scenario

_BLOCK = 8  # plans priced at a time: few beyond the last place


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best plans by an objective, best first, and how many were considered.

    `nearest` is the plan that misses its memory, the device's or the host's, by least, where none fits; `beyond` the best of those that fit
    where the limits leave none.
    """

    # Share of a step by which runs of one configuration and software differ in the median.  Source: 21 groups of equal submissions to
    # MLPerf Training (mlcommons.org/benchmarks/training).
    NOISE: ClassVar[float] = 0.022

    rows: tuple[Estimate, ...]
    num_legal: int
    num_over_memory: int
    nearest: Estimate | None
    rejected: tuple[Rejected, ...]  # combinations of values that are no legal plan, by what keeps them out
    objective: str = "step_time"
    cuts: tuple[Cut, ...] = ()  # plans that fit, by the limit that keeps them out
    beyond: Estimate | None = None

    def slower_by(self, place: int) -> dict[str, float]:
        """Seconds of each part of the step beyond those of the first plan, what costs most first; they sum to how much slower it is."""
        first, other = (dict(self.rows[each].breakdown_s) for each in (0, place))
        more = {part: other.get(part, 0.0) - first.get(part, 0.0) for part in dict.fromkeys((*first, *other))}
        return dict(sorted(more.items(), key=lambda each: -each[1]))

    @property
    def alike(self) -> int:
        """How many of the first plans cannot be told apart: their steps differ by less than repeated runs of one plan do.

        Ranked by energy, how far repeated runs differ is not known.
        """
        if self.objective == "energy":
            return min(1, len(self.rows))
        return sum(each.step_s <= self.rows[0].step_s * (1 + self.NOISE) for each in self.rows)

    @property
    def num_fit(self) -> int:
        """Plans that fit their device."""
        return self.num_legal - self.num_over_memory


def plan(
    scenario: Scenario,
    space: str | None = None,
    *,
    top: int = 10,
    runnable: bool = False,
    objective: str = "step_time",
    constraints: Mapping[str, object] | None = None,
) -> Ranking:
    """The `top` best plans that fit, of one space of the scenario, or of all plans that its model and cluster allow.

    `runnable` leaves out what the scenario's stack cannot run; `objective` is one of OBJECTIVES; `constraints` are those of `sieve_of`.
    Ties go to the plan with less memory, then to the smaller degrees.

    Raises:
        ScenarioError: the scenario has no space of that name, or several and none is named.
        PlanError: no plan of the space is legal, or none is asked for; an objective or a limit is unknown, or needs what nobody states.
    """
    sieve = sieve_of(constraints or {}, scenario)
    check_objective(objective, scenario)
    if top < 1:
        raise PlanError(f"top = {top} asks for no plan", remedy="Ask for 1 or more.")
    found = candidates(scenario, _space(scenario, space), runnable=runnable)
    priced, node = Priced(scenario, found.plans), scenario.cluster.node
    bound_ps, peaks, hosts = priced.figures(lower_bound, peak_bytes, host_peak_bytes)
    bounded = Estimates(found.plans, bound_ps / PS_PER_S, peaks, node.accelerator.hbm_capacity_bytes, hosts, node.host_memory_bytes)
    fits, loss = bounded.fits, loss_of(objective, priced)
    kept = sieve.quick(sieve.roomy(fits, bounded.fill), bound_ps)
    best, whole = _best(priced, loss, sieve, bound_ps, peaks, np.flatnonzero(kept), top)
    beyond = [] if best or not fits.any() else _best(priced, loss, Sieve(0, {}), bound_ps, peaks, np.flatnonzero(fits), 1)[0]
    return Ranking(
        rows=tuple(_estimate(priced, each) for each in best),
        num_legal=found.plans.num_plans,
        num_over_memory=int(np.sum(~fits)),
        nearest=None if fits.any() else _estimate(priced, int(np.argmin(bounded.fill))),
        rejected=found.rejected,
        objective=objective,
        cuts=sieve.cuts(whole=whole),
        beyond=_estimate(priced, beyond[0]) if beyond else None,
    )


def _estimate(priced: Priced, index: int) -> Estimate:
    return estimate_of(priced.scenario, priced.plans.plan(index), priced.alone(index))


def _best(priced: Priced, loss: Least, sieve: Sieve, bound_ps: Ints, peaks: Ints, kept: Ints, top: int) -> tuple[list[int], bool]:
    """Plans are priced in the order of their lower bounds, until no bound is below the last place: the same ranking as pricing all.

    Also whether all were priced.
    """
    least = loss(bound_ps[kept], kept)
    order = np.argsort(least, kind="stable")
    keys: dict[int, tuple[float, int, tuple[object, ...], int]] = {}
    for first in range(0, len(order), _BLOCK):
        places = sorted(keys, key=keys.__getitem__)[:top]
        if len(places) == top and least[order[first]] > keys[places[-1]][0]:
            return places, False
        block = kept[order[first : first + _BLOCK]]
        (steps,) = priced.figures(step_ps, rows=block)
        within = sieve.quick(np.ones(len(block), dtype=bool), steps)
        for index, lost in zip(block[within].tolist(), loss(steps, block)[within].tolist(), strict=True):
            each = priced.plans.plan(index)
            degrees = each.tensor_parallel, each.pipeline_parallel, each.virtual_pipeline, each.micro_batch, each.recompute
            keys[index] = (lost, int(peaks[index]), degrees, index)
    return sorted(keys, key=keys.__getitem__)[:top], True


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
