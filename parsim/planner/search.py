"""`plan`: the legal plans of a space, all bounded as columns, and ranked exactly as far as the bounds leave a choice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.errors import NoFeasiblePlan, PlanError
from parsim.estimator.estimate import OnProgress
from parsim.estimator.result import Estimate
from parsim.plain import Plain
from parsim.planner.bounded import Bounded
from parsim.planner.relief import relief
from parsim.planner.space import AnySpace, Rejected, candidates, space_named

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_ADVICE = "parsim.remedies(scenario, ranking.nearest.plan) says which changes would fit."
_BLOCK = 8  # plans priced at a time: few beyond the last place


@dataclass(frozen=True, slots=True)
class Ranking(Plain):
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
    def num_fit(self) -> int:
        """Plans that fit their device."""
        return self.num_legal - self.num_over_memory


def plan(
    scenario: Scenario,
    *,
    space: AnySpace = None,
    top: int | None = 10,
    runnable: bool = False,
    progress: OnProgress = None,
) -> Ranking:
    """The `top` fastest plans that fit, or all, of one space of the scenario, or of all plans that its model and cluster allow.

    Args:
        scenario: the plans that it names always take part.
        space: the name of one of its spaces, or the axes of another, each a value, "auto" or a list.
        top: how many; None: all.
        runnable: whether to leave out what the scenario's stack cannot run.
        progress: is told the share of the plans that is bounded.

    Ties go to the plan with less memory, then to the smaller degrees.

    Raises:
        ScenarioError: the scenario has no space of that name, or several and none is named.
        PlanError: no plan of the space is legal, or none is asked for, or an axis or a value of it is unknown.
    """
    if top is not None and (type(top) is not int or top < 1):
        raise PlanError(f"top = {top} asks for no plan", remedy="Ask for 1 or more; None asks for all.")
    chosen = space_named(scenario, space)
    found = candidates(scenario, chosen, runnable=runnable)
    pools, rejected = [Bounded(scenario, found.plans, progress)], list(found.rejected)
    best = _fastest(pools, top)
    if chosen is None:
        (first,) = pools
        last_ps = best[top - 1].ps if top is not None and len(best) >= top else math.inf
        variants, left_out = relief(first.priced, first.bound_ps, first.peaks, found.num_in_space, last_ps)
        pools += [Bounded(scenario, each) for each in variants]
        best, rejected = _fastest(pools, top) if variants else best, rejected + left_out
    num_legal, num_fit = (sum(len(each.plans) for each in pools), sum(int(each.fits.sum()) for each in pools))
    nearest = None
    if not num_fit:
        pool = min(pools, key=lambda each: float(each.fill.min()))
        row = int(np.argmin(pool.fill))
        nearest = pool.estimate(row, found.names.get(row, "") if pool is pools[0] else "")
    more = sum(len(each.plans) for each in pools[1:]) + sum(each.count for each in rejected[len(found.rejected) :])
    return Ranking(
        rows=tuple(pools[key.pool].estimate(key.row, "" if key.pool else found.names.get(key.row, "")) for key in best[:top]),
        num_legal=num_legal,
        num_over_memory=num_legal - num_fit,
        nearest=nearest,
        rejected=tuple(rejected),
        num_combinations=found.num_combinations + more,
        alike=sum(key.ps <= best[0].ps * (1 + Ranking.NOISE) for key in best) if best else 0,
        outside=tuple(name for index, name in found.names.items() if index >= found.num_in_space),
        nothing_legal=found.nothing_legal,
        num_over_host=sum(int(np.sum(each.short_of == "host")) for each in pools),
    )


class _Key(NamedTuple):
    """What plans are ranked by."""

    ps: int
    peak_bytes: int
    degrees: tuple[object, ...]
    pool: int
    row: int


def _keys(pool: Bounded, own: int, block: Ints) -> Iterator[_Key]:
    for index, ps in zip(block.tolist(), pool.finish(block).tolist(), strict=True):
        each = pool.plans.plan(index)
        degrees = each.tensor_parallel, each.pipeline_parallel, each.virtual_pipeline, each.micro_batch, each.recompute
        yield _Key(ps, int(pool.peaks[index]), degrees, own, index)


def _fastest(pools: Sequence[Bounded], top: int | None) -> list[_Key]:
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
            keys += _keys(pools[own], own, index[block[pool[block] == own]])
        keys.sort()
        start += len(block)
    return keys
