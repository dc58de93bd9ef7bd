"""`plan`: the legal plans of a space, all bounded as columns, and ranked exactly as far as the bounds leave a choice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parsim.cluster.scalars import Ints
from parsim.errors import PlanError, ScenarioError, did_you_mean
from parsim.estimator.estimate import Priced, estimate_of
from parsim.estimator.host import host_peak_bytes
from parsim.estimator.memory import peak_bytes
from parsim.estimator.pipeline import lower_bound, step_ps
from parsim.estimator.result import Estimate, Estimates
from parsim.parallel.plans import Plans
from parsim.planner.relief import relief
from parsim.planner.space import Rejected, candidates
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import PlanSpace, Scenario

_BLOCK = 8  # plans priced at a time: few beyond the last place


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best plans, fastest first, and how many were considered.

    A plan that the scenario names bears that name, others none.  `nearest` is the plan that misses its memory, the device's or the host's,
    by least, where none fits.
    """

    # Share of a step by which runs of one configuration and software differ in the median.  Source: 21 groups of equal submissions to
    # MLPerf Training (mlcommons.org/benchmarks/training).
    NOISE: ClassVar[float] = 0.022

    rows: tuple[Estimate, ...]
    num_legal: int
    num_over_memory: int
    nearest: Estimate | None
    rejected: tuple[Rejected, ...]  # combinations of values that are no legal plan, or not tried, by what keeps them out
    num_combinations: int = 0  # of values of the axes: those that are legal plans of the space, and those rejected
    alike: int = 0  # how many of all that fit cannot be told from the first: their steps differ by less than repeated runs of one plan do
    outside: tuple[str, ...] = ()  # plans that the scenario names and that are none of the space
    nothing_legal: str = ""  # where no plan of the space is legal, why not the first

    def slower_by(self, place: int) -> dict[str, float]:
        """Seconds of each part of the step beyond those of the first plan, what costs most first; they sum to how much slower it is."""
        first, other = (dict(self.rows[each].breakdown_s) for each in (0, place))
        more = {part: other.get(part, 0.0) - first.get(part, 0.0) for part in dict.fromkeys((*first, *other))}
        return dict(sorted(more.items(), key=lambda each: -each[1]))

    @property
    def num_fit(self) -> int:
        """Plans that fit their device."""
        return self.num_legal - self.num_over_memory


def plan(
    scenario: Scenario, space: str | Mapping[str, object] | PlanSpace | None = None, *, top: int | None = 10, runnable: bool = False
) -> Ranking:
    """The `top` fastest plans that fit, or all, of one space of the scenario, or of all plans that its model and cluster allow.

    Args:
        scenario: the plans that it names always take part.
        space: the name of one of its spaces, or the axes of another, each a value, "auto" or a list.
        top: how many; None: all.
        runnable: whether to leave out what the scenario's stack cannot run.

    Ties go to the plan with less memory, then to the smaller degrees.

    Raises:
        ScenarioError: the scenario has no space of that name, or several and none is named.
        PlanError: no plan of the space is legal, or none is asked for, or an axis or a value of it is unknown.
    """
    if top is not None and (type(top) is not int or top < 1):
        raise PlanError(f"top = {top} asks for no plan", remedy="Ask for 1 or more; None asks for all.")
    chosen = space_named(scenario, space)
    found = candidates(scenario, chosen, runnable=runnable)
    pools, rejected = [_Pool.of(scenario, found.plans)], list(found.rejected)
    best = _fastest(pools, top)
    if chosen is None:
        (first,) = pools
        last_ps = best[top - 1].ps if top is not None and len(best) >= top else math.inf
        variants, left_out = relief(first.priced, first.bound_ps, first.peaks, found.num_in_space, last_ps)
        pools += [_Pool.of(scenario, each) for each in variants]
        best, rejected = _fastest(pools, top) if variants else best, rejected + left_out
    num_legal, num_fit = (sum(each.priced.plans.num_plans for each in pools), sum(int(each.fits.sum()) for each in pools))
    rows = tuple(pools[key.pool].estimate(key.row, found.names if key.pool == 0 else {}) for key in best[:top])
    nearest = None
    if not num_fit:
        pool = min(pools, key=lambda each: float(each.fill.min()))
        nearest = pool.estimate(int(np.argmin(pool.fill)), found.names if pool is pools[0] else {})
    alike = sum(key.ps <= best[0].ps * (1 + Ranking.NOISE) for key in best) if best else 0
    more = sum(each.priced.plans.num_plans for each in pools[1:]) + sum(each.count for each in rejected[len(found.rejected) :])
    outside = tuple(name for index, name in found.names.items() if index >= found.num_in_space)
    return Ranking(
        rows, num_legal, num_legal - num_fit, nearest, tuple(rejected), found.num_combinations + more, alike, outside, found.nothing_legal
    )


class _Key(NamedTuple):
    """What plans are ranked by."""

    ps: int
    peak_bytes: int
    degrees: tuple[object, ...]
    pool: int
    row: int


@dataclass(frozen=True, slots=True)
class _Pool:
    """Plans that are priced together, with what is known of each before its schedule is walked."""

    priced: Priced
    bound_ps: Ints
    peaks: Ints
    fill: NDArray[np.float64]

    @classmethod
    def of(cls, scenario: Scenario, plans: Plans) -> _Pool:
        priced, node = Priced(scenario, plans), scenario.cluster.node
        bound_ps, peaks, hosts = priced.figures(lower_bound, peak_bytes, host_peak_bytes)
        bounded = Estimates(plans, bound_ps / PS_PER_S, peaks, node.accelerator.hbm_capacity_bytes, hosts, node.host_memory_bytes)
        return cls(priced, bound_ps, peaks, bounded.fill)

    @property
    def fits(self) -> NDArray[np.bool_]:
        return self.fill <= 1

    def estimate(self, index: int, names: Mapping[int, str]) -> Estimate:
        return estimate_of(self.priced.scenario, self.priced.plans.plan(index), self.priced.alone(index), names.get(index, ""))

    def keys(self, own: int, block: Ints) -> Iterator[_Key]:
        for index, ps in zip(block.tolist(), self.priced.figures(step_ps, rows=block)[0].tolist(), strict=True):
            each = self.priced.plans.plan(index)
            degrees = each.tensor_parallel, each.pipeline_parallel, each.virtual_pipeline, each.micro_batch, each.recompute
            yield _Key(ps, int(self.peaks[index]), degrees, own, index)


def _fastest(pools: Sequence[_Pool], top: int | None) -> list[_Key]:
    """The plans that fit in order, at least `top` and all that cannot be told from the first: the same ranking as pricing all.

    They are priced in the order of their lower bounds, until no bound is below the last place.
    """
    fitting = [np.flatnonzero(each.fits) for each in pools]
    pool = np.repeat(np.arange(len(pools)), [len(each) for each in fitting])
    index = np.concatenate(fitting)
    bounds = np.concatenate([each.bound_ps[own] for each, own in zip(pools, fitting, strict=True)])
    order, keys, start = np.argsort(bounds, kind="stable"), list[_Key](), 0
    while start < len(order):
        last = keys[top - 1].ps if top is not None and len(keys) >= top else math.inf
        if keys and bounds[order[start]] > max(last, keys[0].ps * (1 + Ranking.NOISE)):
            break
        block = order[start : start + max(_BLOCK, len(keys) // 4)]  # ever more at a time, so that sorting stays cheap
        for own in np.unique(pool[block]).tolist():
            keys += pools[own].keys(own, index[block[pool[block] == own]])
        keys.sort()
        start += len(block)
    return keys


def space_named(scenario: Scenario, space: str | Mapping[str, object] | PlanSpace | None) -> PlanSpace | None:
    """A space of the scenario by its name, the only one where none is named, or one that is given.

    Raises:
        ScenarioError: the scenario has no space of that name, or several and none is named.
        PlanError: an axis or a value of it is unknown.
    """
    if space is None and len(scenario.spaces) > 1:
        raise ScenarioError(f"which of its spaces: {', '.join(scenario.spaces)}?", scenario.path, "Name one.")
    if space is None:
        return next(iter(scenario.spaces.values()), None)
    if not isinstance(space, str):
        from parsim.scenario.spaces import space_of_axes

        return space_of_axes(space)
    if space not in scenario.spaces:
        known = ", ".join(scenario.spaces) or "none"
        hint = did_you_mean(space, scenario.spaces)
        raise ScenarioError(f"no plan '{space}' with open axes{hint}", scenario.path, f"Such plans here: {known}.")
    return scenario.spaces[space]
