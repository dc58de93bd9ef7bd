"""`plan`: the legal plans of a space, all bounded as columns, and ranked exactly as far as the bounds leave a choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.errors import NoFeasiblePlan, PlanError, ScenarioError, did_you_mean
from parsim.estimator.estimate import OnProgress, Priced, estimate_of
from parsim.estimator.host import host_peak_bytes
from parsim.estimator.memory import peak_bytes
from parsim.estimator.pipeline import lower_bound, step_ps
from parsim.estimator.result import Estimate, Estimates
from parsim.plain import Plain
from parsim.planner.space import Rejected, candidates
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import PlanSpace, Scenario

_BLOCK = 8  # plans priced at a time: few beyond the last place
_ADVICE = "parsim.remedies(scenario, ranking.nearest.plan) says which changes would fit."


@dataclass(frozen=True, slots=True)
class Ranking(Plain):
    """The best plans, fastest first, and how many were considered.

    `nearest` is the plan that misses its memory, the device's or the host's, by least, where none fits.
    """

    # Share of a step by which runs of one configuration and software differ in the median.  Source: 21 groups of equal submissions to
    # MLPerf Training (mlcommons.org/benchmarks/training).
    NOISE: ClassVar[float] = 0.022

    rows: tuple[Estimate, ...]
    num_legal: int
    num_over_memory: int
    nearest: Estimate | None
    rejected: tuple[Rejected, ...]  # combinations of values that are no legal plan, by what keeps them out
    num_over_host: int = 0  # of those over memory: they fit their device

    @property
    def best(self) -> Estimate:
        """The first.

        Raises:
            NoFeasiblePlan: none fits.
        """
        if self.rows:
            return self.rows[0]
        said = f"; the nearest: {self.nearest.shortage}" if self.nearest else ""
        raise NoFeasiblePlan(f"none of {self.num_legal:,} legal plans fits{said}", remedy=_ADVICE, ranking=self)

    def records(self) -> list[dict[str, object]]:
        """A row a plan."""
        return [{"place": place, **each.records()[0]} for place, each in enumerate(self.rows, 1)]

    def slower_by(self, place: int) -> dict[str, float]:
        """Seconds of each part of the step beyond those of the first plan, what costs most first; they sum to how much slower it is."""
        first, other = (dict(self.rows[each].breakdown_s) for each in (0, place))
        more = {part: other.get(part, 0.0) - first.get(part, 0.0) for part in dict.fromkeys((*first, *other))}
        return dict(sorted(more.items(), key=lambda each: -each[1]))

    @property
    def alike(self) -> int:
        """How many of the first plans cannot be told apart: their steps differ by less than repeated runs of one plan do."""
        return sum(each.step_s <= self.rows[0].step_s * (1 + self.NOISE) for each in self.rows)

    @property
    def num_fit(self) -> int:
        """Plans that fit their device."""
        return self.num_legal - self.num_over_memory


def plan(scenario: Scenario, *, space: str | None = None, top: int = 10, runnable: bool = False, progress: OnProgress = None) -> Ranking:
    """The `top` fastest plans that fit, of one space of the scenario, or of all plans that its model and cluster allow.

    `runnable` leaves out what the scenario's stack cannot run.  `progress` is told the share of the plans that is bounded.  Ties go to the
    plan with less memory, then to the smaller degrees.

    Raises:
        ScenarioError: the scenario has no space of that name, or several and none is named.
        PlanError: no plan of the space is legal, or none is asked for.
    """
    if top < 1:
        raise PlanError(f"top = {top} asks for no plan", remedy="Ask for 1 or more.")
    found = candidates(scenario, space_of(scenario, space), runnable=runnable)
    priced, node = Priced(scenario, found.plans, progress), scenario.cluster.node
    bound_ps, peaks, hosts = priced.figures(lower_bound, peak_bytes, host_peak_bytes)
    bounded = Estimates(found.plans, bound_ps / PS_PER_S, peaks, node.accelerator.hbm_capacity_bytes, hosts, node.host_memory_bytes)
    best = _fastest(priced, bound_ps, peaks, np.flatnonzero(bounded.fits), top)
    over = int(np.sum(~bounded.fits))
    nearest = None if bounded.fits.any() else _estimate(priced, int(np.argmin(bounded.fill)))
    rows, on_host = tuple(_estimate(priced, each) for each in best), int(np.sum(bounded.short_of == "host"))
    return Ranking(rows, found.plans.num_plans, over, nearest, found.rejected, on_host)


def _estimate(priced: Priced, index: int) -> Estimate:
    return estimate_of(priced.scenario, priced.plans.plan(index), priced.alone(index))


def _fastest(priced: Priced, bound_ps: Ints, peaks: Ints, fitting: Ints, top: int) -> list[int]:
    """Plans are priced in the order of their lower bounds, until no bound is below the last place: the same ranking as pricing all."""
    order = fitting[np.argsort(bound_ps[fitting], kind="stable")]
    keys: dict[int, tuple[int, int, tuple[object, ...], int]] = {}
    for first in range(0, len(order), _BLOCK):
        places = sorted(keys, key=keys.__getitem__)[:top]
        if len(places) == top and bound_ps[order[first]] > keys[places[-1]][0]:
            break
        block = order[first : first + _BLOCK]
        for index, ps in zip(block.tolist(), priced.figures(step_ps, rows=block)[0].tolist(), strict=True):
            each = priced.plans.plan(index)
            degrees = each.tensor_parallel, each.pipeline_parallel, each.virtual_pipeline, each.micro_batch, each.recompute
            keys[index] = (ps, int(peaks[index]), degrees, index)
    return sorted(keys, key=keys.__getitem__)[:top]


def space_of(scenario: Scenario, name: str | None) -> PlanSpace | None:
    """The space of that name, or the only one; None where there is none.

    Raises:
        ScenarioError: there is none of that name, or several and none is named.
    """
    if name is None and len(scenario.spaces) > 1:
        raise ScenarioError(f"which of its spaces: {', '.join(scenario.spaces)}?", scenario.path, "Name one.")
    if name is None:
        return next(iter(scenario.spaces.values()), None)
    if name not in scenario.spaces:
        known = ", ".join(scenario.spaces) or "none"
        hint = did_you_mean(name, scenario.spaces)
        raise ScenarioError(f"no plan '{name}' with open axes{hint}", scenario.path, f"Such plans here: {known}.")
    return scenario.spaces[name]
