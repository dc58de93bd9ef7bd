"""The best plans ranked anew by simulated contention: links that collectives share while they overlap, which an estimate leaves out.

A step is at least its estimate, which also says what kernels and collectives beside them cost one another.  Where no link is shared, it
is the estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.estimator.estimate import OnProgress
from parsim.estimator.passes import Stages
from parsim.estimator.result import Estimate
from parsim.estimator.whole import step_joules
from parsim.goodput.columns import planned_step_s
from parsim.planner.constraints import Cut, Sieve, sieve_of
from parsim.planner.objectives import OF_RUN, peak_beside
from parsim.planner.ranking import Contention, Ranking
from parsim.simulator.run import workload_in
from parsim.simulator.shared import SharedStep
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import Scenario

FEW_EVENTS: Final = 20_000  # take about as long as a plan takes to be looked for: some 0.4 s
MANY_EVENTS: Final = 1_000_000  # of all rows together: some 20 s
StagesAt = Callable[[int], Stages] | None
SHARED: Final = "shared_links"  # a part of the step: what it takes longer than the estimate


class _Contender(Struct, frozen=True):
    """A plan with its estimate, and what is to be least, by both."""

    row: Estimate
    alone: Estimate
    shares: bool | None  # None: not looked at
    loss: float
    alone_loss: float

    @property
    def is_simulated(self) -> bool:
        return self.row is not self.alone

    @property
    def is_counted(self) -> bool:
        """Whether the step counts all that its collectives share."""
        return self.is_simulated or self.shares is False

    @property
    def is_left_out(self) -> bool:
        """Whether it would have to be simulated, and runs too many events."""
        return bool(self.shares) and not self.is_simulated


class _Judge:
    """Looks at one plan after another, and simulates those whose collectives overlap, as long as events are left."""

    def __init__(self, scenario: Scenario, objective: str, most_events: int, stages: StagesAt) -> None:
        self.scenario, self.left, self.loss, self.stages = scenario, most_events, _loss(scenario, objective), stages

    def look(self, alone: Estimate, place: int) -> _Contender:
        """The plan at a place with its step."""
        shared = SharedStep(self.stages(place).workload if self.stages else workload_in(self.scenario, alone.plan))
        if not shared.is_foreseen:
            return self.leave(alone, shares=False)
        if shared.num_events > self.left:
            return self.leave(alone, shares=shared.overlaps_alone or None)
        self.left -= shared.num_events
        if not shared.overlaps:
            return self.leave(alone, shares=False)
        last, steps = shared.step_ps(), alone.plan.local_steps
        quiet = SharedStep(shared.program.workload.quiet).step_ps() if steps > 1 else 0
        step_s = max(
            alone.step_s, (last + (steps - 1) * quiet) / steps / PS_PER_S
        )  # kernels may meet fewer collectives than the estimate charges
        row = replace(alone.with_step(step_s), breakdown_s={**alone.breakdown_s, SHARED: step_s - alone.step_s})
        return _Contender(row, alone, True, self.loss(row), self.loss(alone))

    def leave(self, alone: Estimate, *, shares: bool | None = None) -> _Contender:
        """A plan with its estimate."""
        return _Contender(alone, alone, shares, self.loss(alone), self.loss(alone))


def simulate_best(
    scenario: Scenario,
    ranking: Ranking,
    constraints: Mapping[str, object],
    progress: OnProgress = None,
    *,
    stages: StagesAt = None,
) -> Ranking:
    """The rows of a ranking in the order of their steps with contention, without those that a limit then keeps out.

    As many are simulated as run MANY_EVENTS together.  `progress` is told the share of the rows that is done; `stages`: those of the plan
    at a place, where they are priced already.
    """
    if not ranking.rows:
        return ranking
    judge, found = _Judge(scenario, ranking.objective, MANY_EVENTS, stages), list[_Contender]()
    for place, alone in enumerate(ranking.rows):
        found.append(judge.look(alone, place))
        if progress:
            progress(len(found) / len(ranking.rows))
    return _ranking_of(scenario, ranking, constraints, found)


def simulate_first(scenario: Scenario, ranking: Ranking, constraints: Mapping[str, object], *, stages: StagesAt = None) -> Ranking:
    """The same of as few rows as show which is the first: the others take longer than it even by their estimates.

    Where these would run more than FEW_EVENTS the order is left as it is, and `shares` says which they are.  `stages` as before.
    """
    judge, found = _Judge(scenario, ranking.objective, FEW_EVENTS, stages), list[_Contender]()
    for place, alone in enumerate(ranking.rows):
        if found and judge.loss(alone) >= min(each.loss for each in found):
            found.append(judge.leave(alone))
            continue
        found.append(judge.look(alone, place))
        if found[-1].is_left_out:
            break
    if (found and found[-1].is_left_out) or not any(each.is_simulated for each in found):
        return replace(ranking, shares=(*(each.shares for each in found), *ranking.shares[len(found) :]))
    return _ranking_of(scenario, ranking, constraints, found)


def _ranking_of(scenario: Scenario, ranking: Ranking, constraints: Mapping[str, object], found: list[_Contender]) -> Ranking:
    found = sorted(found, key=lambda each: (each.is_left_out, each.loss))
    more = ranking.num_fit - sum(cut.count for cut in ranking.cuts) > len(found)  # plans that were none of the best
    late, cuts = _late(found, ranking.cuts, sieve_of(constraints, scenario), lambda row: planned_step_s(scenario, row), more=more)
    kept = [each for each in found if each not in late]
    others = [each.alone_loss for each in found if not each.is_counted] + [max(each.alone_loss for each in found)] * more
    return replace(
        ranking,
        rows=tuple(each.row for each in kept),
        shares=tuple(each.shares for each in kept),
        contention=Contention(
            alone_s=tuple(each.alone.step_s if each.is_simulated else None for each in kept),
            is_best=bool(kept) and kept[0].is_counted and kept[0].loss <= min(others, default=kept[0].loss),
        ),
        alike=_alike(kept, ranking),
        cuts=cuts,
        beyond=ranking.beyond if kept else late[0].row,
    )


def _loss(scenario: Scenario, objective: str) -> Callable[[Estimate], float]:
    if objective == "energy":
        return lambda row: step_joules(scenario, row) or 0.0
    if objective in OF_RUN:
        return lambda row: planned_step_s(scenario, row)
    return lambda row: row.step_s * (peak_beside(scenario, row.plan.precision) if objective == "mfu" else 1)


def _late(
    found: list[_Contender], cuts: tuple[Cut, ...], sieve: Sieve, in_run: Callable[[Estimate], float], *, more: bool
) -> tuple[list[_Contender], tuple[Cut, ...]]:
    """Those that a limit keeps out, and the limits with them; more: other plans were never asked."""
    late, said = list[_Contender](), list[Cut]()
    for cut in cuts:
        own = [each for each in found if each not in late and sieve.is_over(cut.limit, each.row.step_s, partial(in_run, each.row))]
        said.append(replace(cut, count=cut.count + len(own), whole=cut.whole and not (more and cut.limit in sieve.most_ps)))
        late += own
    return late, tuple(said)


def _alike(kept: list[_Contender], ranking: Ranking) -> int:
    if ranking.objective == "energy":
        return min(1, len(kept))
    beyond = max(0, ranking.alike - len(ranking.rows))
    return beyond + sum(not each.is_left_out and each.loss <= kept[0].loss * (1 + ranking.NOISE) for each in kept)
