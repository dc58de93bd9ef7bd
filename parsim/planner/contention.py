"""The best plans ranked anew by simulated contention: links that collectives share while they overlap, which an estimate leaves out.

A step is at least its estimate, which also says what kernels and collectives beside them cost one another.  Where no link can be shared,
it is the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from parsim.estimator.estimate import OnProgress
from parsim.estimator.result import Estimate
from parsim.estimator.whole import step_joules
from parsim.parallel.plan import Plan
from parsim.planner.constraints import Cut, sieve_of
from parsim.planner.ranking import Contention, Ranking
from parsim.simulator.program import Program
from parsim.simulator.run import MOST_EVENTS, run, workload_in
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import Scenario

SHARED: Final = "shared_links"  # a part of the step: what it takes longer than the estimate


@dataclass(frozen=True, slots=True)
class _Contender:
    """A plan with its estimate, and what is to be least, by both."""

    row: Estimate
    alone: Estimate
    may_share: bool
    counted: bool  # whether the step counts all that its collectives share
    loss: float
    alone_loss: float


def simulate_best(scenario: Scenario, ranking: Ranking, constraints: Mapping[str, object], progress: OnProgress = None) -> Ranking:
    """The rows of a ranking in the order of their steps with contention, without those that a limit then keeps out.

    As many are simulated as a simulation may run events.  `progress` is told the share of the rows that is done.
    """
    if not ranking.rows:
        return ranking
    found = sorted(_contenders(scenario, ranking, progress), key=lambda each: (not each.counted, each.loss))
    more = ranking.num_fit - sum(cut.count for cut in ranking.cuts) > len(found)  # plans that were none of the best
    late, cuts = _late(found, ranking.cuts, sieve_of(constraints, scenario).most_ps, more=more)
    kept = [each for each in found if each not in late]
    others = [each.alone_loss for each in found if not each.counted] + [max(each.alone_loss for each in found)] * more
    return replace(
        ranking,
        rows=tuple(each.row for each in kept),
        may_share=tuple(each.may_share for each in kept),
        contention=Contention(
            alone_s=tuple(each.alone.step_s for each in kept),
            not_simulated=tuple(place for place, each in enumerate(kept, 1) if not each.counted),
            is_best=bool(kept) and kept[0].counted and kept[0].loss <= min(others, default=kept[0].loss),
        ),
        alike=_alike(kept, 0.0 if ranking.objective == "energy" else ranking.NOISE),
        cuts=cuts,
        beyond=ranking.beyond if kept else late[0].row,
    )


def _contenders(scenario: Scenario, ranking: Ranking, progress: OnProgress) -> Iterator[_Contender]:
    left, loss = MOST_EVENTS, _loss(scenario, ranking.objective)
    for place, (alone, may_share) in enumerate(zip(ranking.rows, ranking.may_share, strict=True), 1):
        row, num_events = alone, _num_events(scenario, alone.plan) if may_share else 0
        if counted := num_events <= left:
            left -= num_events
            row = _with_contention(scenario, alone) if may_share else alone
        yield _Contender(row, alone, may_share, counted, loss(row), loss(alone))
        if progress:
            progress(place / len(ranking.rows))


def _num_events(scenario: Scenario, plan: Plan) -> int:
    return Program(workload_in(scenario, plan)).num_events(streams=True)


def _with_contention(scenario: Scenario, alone: Estimate) -> Estimate:
    shared_s = run(workload_in(scenario, alone.plan), contention=True).step_s
    step_s = max(alone.step_s, shared_s)  # kernels may meet fewer collectives than the estimate charges
    return replace(alone.with_step(step_s), breakdown_s={**alone.breakdown_s, SHARED: step_s - alone.step_s})


def _loss(scenario: Scenario, objective: str) -> Callable[[Estimate], float]:
    return (lambda row: step_joules(scenario, row) or 0.0) if objective == "energy" else (lambda row: row.step_s)


def _late(
    found: list[_Contender], cuts: tuple[Cut, ...], most_ps: Mapping[str, int], *, more: bool
) -> tuple[list[_Contender], tuple[Cut, ...]]:
    """Those that a limit keeps out, and the limits with them; more: other plans were never asked."""
    late, said = list[_Contender](), list[Cut]()
    for cut in cuts:
        most = most_ps.get(cut.limit, math.inf)
        own = [each for each in found if each not in late and round(each.row.step_s * PS_PER_S) > most]
        said.append(replace(cut, count=cut.count + len(own), whole=cut.whole and not (more and cut.limit in most_ps)))
        late += own
    return late, tuple(said)


def _alike(kept: list[_Contender], noise: float) -> int:
    return sum(each.counted and each.loss <= kept[0].loss * (1 + noise) for each in kept) if noise else min(1, len(kept))
