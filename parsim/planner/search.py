"""`plan`: the legal plans of a space, all bounded as columns, and ranked exactly as far as the bounds leave a choice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from msgspec import Struct, field

from parsim.arguments import check_arguments
from parsim.cluster.scalars import Ints
from parsim.errors import PlanError
from parsim.estimator.estimate import OnProgress
from parsim.estimator.passes import Stages
from parsim.estimator.result import Estimate
from parsim.goodput.columns import planned_steps
from parsim.planner.bounded import Bounded
from parsim.planner.constraints import Sieve, sieve_of
from parsim.planner.contention import simulate_best, simulate_first
from parsim.planner.objectives import Least, check_objective, loss_of
from parsim.planner.ranking import Ranking
from parsim.planner.relief import relief
from parsim.planner.space import AnySpace, candidates, space_named
from parsim.schedules.columnar import Bools

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_BLOCK = 8  # plans priced at a time: few beyond the last place


@check_arguments
def plan(
    scenario: Scenario,
    *,
    space: AnySpace = None,
    top: int | None = 10,
    runnable: bool = False,
    objective: str = "step_time",
    constraints: Mapping[str, object] | None = None,
    contention: bool | None = None,
    alike: bool = True,
    progress: OnProgress = None,
) -> Ranking:
    """The `top` best plans that fit, or all, of one space of the scenario, or of all plans that its model and cluster allow.

    Args:
        scenario: the plans that it names always take part.
        space: the name of one of its spaces, or the axes of another, each a value, "auto" or a list.
        top: how many; None: all.
        runnable: whether to leave out what the scenario's stack cannot run.
        objective: one of OBJECTIVES.
        constraints: limits, as `sieve_of` takes them.
        contention: whether the best are ranked anew by simulated contention; None: those that decide which is the first; False: none.
        alike: whether all are found that cannot be told from the first; without them fewer steps are priced.
        progress: is told the share of the plans whose memory is known.

    Ties go to the plan with less memory, then to the smaller degrees.

    Raises:
        ScenarioError: the scenario has no space of that name, or several and none is named.
        PlanError: no plan of the space is legal, or none is asked for; an axis, a value, an objective or a limit is unknown, or needs what
            nobody states.
    """
    sieve = sieve_of(constraints or {}, scenario)
    check_objective(objective, scenario)
    if top is not None and top < 1:
        raise PlanError(f"top = {top} asks for no plan", remedy="Ask for 1 or more; None asks for all.")
    found = candidates(scenario, chosen := space_named(scenario, space), runnable=runnable)
    first, rejected = Bounded(scenario, found.plans, progress), list(found.rejected)
    (race := _Race(objective, sieve, top, Ranking.NOISE if alike and objective != "energy" else 0.0)).join([first])
    if chosen is None:
        variants, left_out = relief(first.priced, first.bounds, first.peaks, first.holds, found.num_in_space, race.last_ps)
        rejected += left_out
        race.join([Bounded(scenario, each) for each in variants])
    more = sum(len(each.plans) for each in race.pools[1:]) + sum(each.count for each in rejected[len(found.rejected) :])
    num_legal, num_fit = sum(len(each.plans) for each in race.pools), sum(int(each.fits.sum()) for each in race.pools)
    ranking = Ranking(
        **race.best(found.names),
        num_legal=num_legal,
        num_over_memory=num_legal - num_fit,
        nearest=None if num_fit else race.explain([race.nearest()], found.names)[0],
        rejected=tuple(rejected),
        num_combinations=found.num_combinations + more,
        outside=tuple(name for index, name in found.names.items() if index >= found.num_in_space),
        nothing_legal=found.nothing_legal,
        num_over_host=sum(int(np.sum(each.short_of == "host")) for each in race.pools),
        objective=objective,
        cuts=sieve.cuts(whole=race.whole),
        beyond=race.beyond(found.names) if num_fit and not race.keys else None,
    )
    again = simulate_best if contention else simulate_first
    return ranking if contention is False else again(scenario, ranking, constraints or {}, stages=race.stages)


class _Key(NamedTuple):
    """What plans are ranked by, and where each stands."""

    loss: float
    peak_bytes: int
    degrees: tuple[object, ...]
    pool: int
    row: int


class _Race(Struct):
    """The best plans so far: at least `top`, and all that cannot be told from the first, of pools of plans that join one after another."""

    objective: str
    sieve: Sieve
    top: int | None
    noise: float = 0.0  # share of a step within which no plan can be told from the first
    pools: list[Bounded] = field(default_factory=list)
    in_run: list[Least | None] = field(default_factory=list)  # of each pool, where a limit is on the steps of a run
    keys: list[_Key] = field(default_factory=list)
    whole: bool = True  # every plan was priced that bounds did not keep out

    @property
    def last(self) -> tuple[float, float]:
        """The loss and the memory of the last place; infinite where places are left."""
        return self.keys[self.top - 1][:2] if self.top is not None and len(self.keys) >= self.top else (math.inf, math.inf)

    @property
    def _worst(self) -> tuple[float, float]:
        """The loss and the memory beyond which no plan matters: it is neither among the best nor alike."""
        return max(self.last, (self.keys[0].loss * (1 + self.noise), math.inf)) if self.noise else self.last

    @property
    def last_ps(self) -> float:
        """The step of the last place; infinite where it is not known."""
        differ = self.objective == "mfu" and any(len(each.priced.parts) > 1 for each in self.pools)
        return math.inf if self.objective == "energy" or differ else self.last[0]

    @property
    def alike(self) -> int:
        return sum(key.loss <= self.keys[0].loss * (1 + self.noise) for key in self.keys) if self.noise else min(1, len(self.keys))

    def join(self, pools: Sequence[Bounded]) -> None:
        """Price more plans in the order of their bounds, and of equal ones by memory, until none can come before the last place: the same
        ranking as pricing all."""
        start, losses = len(self.pools), [loss_of(self.objective, each.priced) for each in pools]
        self.pools += pools
        self.in_run += [planned_steps(each.priced) if self.sieve.of_run else None for each in pools]
        roomy = [np.flatnonzero(self.sieve.roomy(each.fits, each.fill)) for each in pools]
        kept = [rows[self._within(number, self.pools[number].bounds(rows), rows)] for number, rows in enumerate(roomy, start)]
        self._run(start, losses, kept)

    def _within(self, number: int, steps: Ints, rows: Ints) -> Bools:
        """Which of some plans of a pool are within the limits, by their steps or bounds below them."""
        run = self.in_run[number]
        return self.sieve.quick(np.ones(len(rows), dtype=bool), steps, run(steps, rows) if run else steps)

    def _run(self, start: int, losses: Sequence[Least], kept: Sequence[Ints]) -> None:
        pools = self.pools[start:]
        index, pool = np.concatenate([*kept, np.zeros(0, np.int64)]), np.repeat(np.arange(len(pools)), [len(each) for each in kept])
        bounds = [loss(each.bounds(rows), rows) for each, loss, rows in zip(pools, losses, kept, strict=True)]
        least = np.concatenate([*bounds, np.zeros(0, np.int64)])
        peaks = np.concatenate([*(self.pools[number].peaks[rows] for number, rows in enumerate(kept, start)), np.zeros(0, np.int64)])
        order, done = np.lexsort((peaks, least)), 0
        while done < len(order):
            if self.keys and (least[order[done]], peaks[order[done]]) > self._worst:
                self.whole = False
                return
            block = order[done : done + max(_BLOCK, len(self.keys) // 4)]  # ever more at a time, so that sorting stays cheap
            for own in sorted({*pool[block].tolist()}):
                self.keys += self._keys_of(start + own, losses[own], index[block[pool[block] == own]])
            self.keys.sort()
            done += len(block)

    def _keys_of(self, number: int, loss: Least, rows: Ints) -> Iterator[_Key]:
        pool = self.pools[number]
        steps = pool.finish(rows)
        within = self._within(number, steps, rows)
        for row, lost in zip(rows[within].tolist(), loss(steps, rows)[within].tolist(), strict=True):
            each = pool.plans.plan(row)
            degrees = each.tensor_parallel, each.pipeline_parallel, each.virtual_pipeline, each.micro_batch, each.recompute
            yield _Key(lost, int(pool.peaks[row]), degrees, number, row)

    def explain(self, keys: Sequence[_Key], names: Mapping[int, str]) -> tuple[Estimate, ...]:
        """The plans of keys, under the names that they have in the first pool."""
        found = dict[_Key, Estimate]()
        for number in {key.pool for key in keys}:
            own = [key for key in keys if key.pool == number]
            rows = np.array([key.row for key in own])
            found |= zip(own, self.pools[number].explain(rows, {} if number else names), strict=True)
        return tuple(found[key] for key in keys)

    def best(self, names: Mapping[int, str]) -> dict[str, Any]:
        """The fields of a ranking that its rows are in."""
        keys = self.keys[: self.top]
        return {"rows": self.explain(keys, names), "shares": (None,) * len(keys), "alike": self.alike}

    def stages(self, place: int) -> Stages:
        """Those of the plan at a place."""
        key = self.keys[place]
        return self.pools[key.pool].priced.alone(key.row)

    def nearest(self) -> _Key:
        """The plan that misses its memory by least."""
        pool = min(range(len(self.pools)), key=lambda each: float(self.pools[each].fill.min()))
        return _Key(0, 0, (), pool, int(np.argmin(self.pools[pool].fill)))

    def beyond(self, names: Mapping[int, str]) -> Estimate:
        """The best plan that fits, whatever the limits."""
        free = _Race(self.objective, Sieve(0, {}), 1)
        free.join(self.pools)
        return free.explain(free.keys[:1], names)[0]
