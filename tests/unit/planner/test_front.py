"""The front is that of pricing every plan, on drawn spaces, at the price of few; figures and clusters hold it, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from msgspec.structs import replace
from test_search import AUTO, SPACES, spaced, tight, toy

from parsim import estimates, pareto, plan
from parsim.errors import PlanError, ScenarioError
from parsim.estimator import estimate as priced_plans
from parsim.planner import Front, bounded
from parsim.planner.front import Bounded, landscape
from parsim.planner.space import candidates
from parsim.scenario import PlanSpace, Scenario
from support import tiered

DRAWN = 6


def drawn_space(seed: int) -> Scenario:
    """Three open axes of the toy, and a capacity that some plans exceed."""
    rng = np.random.default_rng(seed)
    names = rng.choice(["micro_batch", "recompute", "sequence_parallel", "zero_stage", "virtual_pipeline", "rank_order"], 2, replace=False)
    axes = {"tensor_parallel": AUTO, "pipeline_parallel": AUTO, **dict.fromkeys(names.tolist(), AUTO)}
    chosen = replace(toy(), spaces={"drawn": PlanSpace("drawn", axes)})
    capacity = float(np.quantile([each.peak for each in every(chosen)], rng.uniform(0.3, 1)))
    return replace(toy(capacity=capacity), spaces=chosen.spaces)


class Priced(NamedTuple):
    cell: tuple[int, int]
    step: float
    peak: int
    fits: bool


def every(chosen: Scenario) -> list[Priced]:
    """All plans of its space, priced without a bound."""
    (space,) = chosen.spaces.values()
    found = estimates(chosen, candidates(chosen, space).plans)
    cells = [(each.tensor_parallel, each.pipeline_parallel) for each in found.plans]
    return [*map(Priced, cells, found.step_s.tolist(), found.peak_bytes.tolist(), found.fits.tolist())]


def by_hand(found: list[Priced]) -> list[tuple[float, int]]:
    """Step and memory of those that no other that fits beats: of pairs, each compared with each."""
    pairs = {(each.step, each.peak) for each in found if each.fits}
    return sorted(one for one in pairs if not any(o != one and o[0] <= one[0] and o[1] <= one[1] for o in pairs))


@pytest.mark.parametrize("seed", [tiered(seed, str(seed), slow=seed > 2) for seed in range(DRAWN)])
def test_the_front_is_that_of_pricing_every_plan(seed: int) -> None:
    chosen = drawn_space(seed)
    found, ranking = pareto(chosen), plan(chosen, top=1)
    assert [(each.step_s, each.peak_bytes) for each in found.rows] == by_hand(every(chosen))
    assert found.rows[0] == ranking.rows[0]
    assert (found.num_legal, found.num_fit) == (ranking.num_legal, ranking.num_fit)


@pytest.mark.parametrize("name", [tiered(name, name, slow=i % 2 == 1) for i, name in enumerate(SPACES)])  # as rows are, the others
def test_so_it_is_whatever_axis_is_open(name: str) -> None:
    chosen = spaced(name)
    assert [(each.step_s, each.peak_bytes) for each in pareto(chosen).rows] == by_hand(every(chosen))


def test_what_saves_memory_is_on_the_front_as_it_is_in_the_ranking() -> None:
    """That of all that the ranking has, the optimizer on the host and modules that run again among them, in the figure, too."""
    chosen = tight()
    ranking, found = plan(chosen, top=None), pareto(chosen)
    pairs = {(each.step_s, each.peak_bytes) for each in ranking.rows}
    assert [(each.step_s, each.peak_bytes) for each in found.rows] == sorted(one for one in pairs if not any(_beats(o, one) for o in pairs))
    assert found.rows[0] == ranking.best
    assert (found.num_legal, found.num_fit) == (ranking.num_legal, ranking.num_fit)
    assert any(each.plan.offload_optimizer or each.plan.recompute_modules for each in found.rows)
    drawn = landscape(Bounded.of(chosen))
    assert {each.plan for each in found.rows} == {each for each, best in zip(drawn.plans.plans, drawn.on_front, strict=True) if best}


def _beats(one: tuple[float, int], other: tuple[float, int]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]


def test_few_plans_are_priced_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    priced: list[int] = []
    right = priced_plans.Priced.steps
    monkeypatch.setattr(priced_plans.Priced, "steps", lambda self, rows, **told: priced.append(len(rows)) or right(self, rows, **told))  # type: ignore[func-returns-value]
    found = pareto(spaced("degrees"))
    assert len(found.rows) <= sum(priced) < found.num_legal / 2


def _bounds_are_taken_for_steps(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Bounded, "finish", lambda self, rows: self.exact_ps.__setitem__(rows, self.bound_ps[rows]) or self.bound_ps[rows])


def _a_bound_that_is_none(patch: pytest.MonkeyPatch) -> None:
    right = bounded.lower_bound
    patch.setattr(bounded, "lower_bound", lambda stages: right(stages) + 10**12 * (stages.workload.micro_batches % 3))


def _memory_is_that_of_half_the_plan(patch: pytest.MonkeyPatch) -> None:
    right = priced_plans.fullest_bytes
    patch.setattr(priced_plans, "fullest_bytes", lambda stages: right(stages) // (1 + stages.workload.micro_batches % 3))


@pytest.mark.parametrize("mutate", [_bounds_are_taken_for_steps, _a_bound_that_is_none, _memory_is_that_of_half_the_plan])
def test_a_wrong_front_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        test_the_figure_shows_the_front_of_each_cell_and_where_none_fits_the_nearest()
        for seed in range(DRAWN):
            test_the_front_is_that_of_pricing_every_plan(seed)


def test_more_nodes_are_on_the_front_only_where_they_gain() -> None:
    chosen = spaced("sequence")
    alone = [pareto(chosen, num_nodes=[count]) for count in (1, 2)]
    found = pareto(chosen, num_nodes=[1, 2])
    every_one = [(each.step_s, each.peak_bytes, each.plan.num_devices) for one in alone for each in one.rows]
    wanted = {one for one in every_one if not any(o != one and all(a <= b for a, b in zip(o, one, strict=True)) for o in every_one)}
    assert {(each.step_s, each.peak_bytes, each.plan.num_devices) for each in found.rows} == wanted
    assert {each.plan.num_devices for each in found.rows} == {4, 8}
    assert found.num_legal == sum(one.num_legal for one in alone)


def test_nodes_without_a_fabric_or_a_legal_plan_are_told() -> None:
    chosen = spaced("degrees")
    alone = replace(chosen, cluster=replace(chosen.cluster, num_nodes=1, fabric=None))
    with pytest.raises(ScenarioError, match="without a fabric"):
        pareto(alone, num_nodes=[2])
    with pytest.raises(PlanError, match="no legal plan"):
        pareto(replace(chosen, spaces={"a": PlanSpace("a", {"tensor_parallel": (3,)})}))


def test_the_figure_shows_the_front_of_each_cell_and_where_none_fits_the_nearest() -> None:
    chosen = spaced("sequence", capacity=70_000)
    drawn, found = landscape(Bounded.of(chosen)), every(chosen)
    shown = [*zip(drawn.plans.plans, drawn.plans.step_s.tolist(), drawn.plans.peak_bytes.tolist(), strict=True)]
    empty = 0
    for cell in {each.cell for each in found}:
        own = [each for each in found if each.cell == cell]
        mine = sorted((step, peak) for each, step, peak in shown if (each.tensor_parallel, each.pipeline_parallel) == cell)
        if any(each.fits for each in own):
            assert mine == by_hand(own)
        else:
            empty += 1
            assert [peak for _, peak in mine] == [min(each.peak for each in own)]
    assert 0 < empty < len(set(shown))
    on_front = sorted((step, peak) for (_, step, peak), best in zip(shown, drawn.on_front, strict=True) if best)
    assert on_front == by_hand(found)


def test_a_front_comes_back_from_its_document() -> None:
    found = pareto(spaced("degrees"))
    assert Front.from_dict(found.to_dict()) == found


def test_the_planner_says_how_far_it_is() -> None:
    shares: list[float] = []
    plan(spaced("degrees"), top=1, progress=shares.append)
    assert shares == sorted(shares) and len(shares) > 1 and shares[-1] == 1
