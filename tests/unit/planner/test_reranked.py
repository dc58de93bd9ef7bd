"""Plans ranked anew by simulated contention: the order of simulating each, no work where nothing can share, what is left out said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from parsim import estimate, plan, simulate
from parsim.parallel.plan import Batch
from parsim.planner import Ranking, contention
from parsim.planner.contention import SHARED
from parsim.scenario import Scenario
from parsim.simulator.network import SharedLinks
from support import CLUSTER, FABRIC, GPT, STACK, scenario

SPACE = {"tensor_parallel": "auto", "pipeline_parallel": "auto", "virtual_pipeline": "auto", "micro_batch": "auto"}
TOP = 8


def crowded(nic_bytes_per_s: float = 1e5) -> Scenario:
    """Two nodes whose NICs take longer than the devices, under a stack that sends beside compute."""
    fabric = replace(FABRIC, nic=replace(FABRIC.nic, bandwidth_bytes_per_s=nic_bytes_per_s), efficiency=1.0, p2p_efficiency=1.0)
    stack = replace(STACK, gradient_overlap=True, tensor_overlap=True)
    cluster = replace(CLUSTER, num_nodes=2, fabric=fabric)
    return scenario(model=replace(GPT, num_layers=8), cluster=cluster, stack=stack, batch=Batch(16, 8))


def ranked(**options: Any) -> Ranking:
    return plan(crowded(), space=SPACE, **{"top": TOP, "contention": True, **options})


def check_order(ranking: Ranking) -> None:
    """The steps are those of simulating the same plans one by one, and so is their order, which is another than that of the estimates."""
    chosen, before = crowded(), plan(crowded(), space=SPACE, top=TOP)
    steps = {each.plan: max(each.step_s, simulate(chosen, each.plan, contention=True).step_s) for each in before.rows}
    assert [(each.plan, each.step_s) for each in ranking.rows] == sorted(steps.items(), key=lambda each: each[1])
    assert [each.plan for each in ranking.rows] != [each.plan for each in before.rows]


def test_the_order_is_that_of_simulating_the_best_with_contention() -> None:
    ranking = ranked()
    check_order(ranking)
    assert ranking.contention is not None and not ranking.contention.not_simulated
    assert ranking.contention.alone_s == tuple(estimate(crowded(), each.plan).step_s for each in ranking.rows)
    for place, each in enumerate(ranking.rows):
        assert sum(each.breakdown_s.values()) == pytest.approx(each.step_s)
        assert sum(ranking.slower_by(place).values()) == pytest.approx(each.step_s - ranking.rows[0].step_s)
        assert each.tokens_per_s == pytest.approx(16 * 8 / each.step_s)


@pytest.mark.parametrize("where", ["may_share", "links"])
def test_mutant_what_cannot_share_or_has_no_links_keeps_the_order_of_estimates(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "may_share":
        monkeypatch.setattr("parsim.planner.search.may_share", lambda workload: False)
    else:
        right = SharedLinks.carry
        monkeypatch.setattr(SharedLinks, "carry", lambda self, leg, *names: right(self, leg._replace(loads=()), *names))
    ranking = ranked()
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        check_order(ranking)


def test_where_nothing_can_share_nothing_is_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "run", lambda *_, **__: pytest.fail("it was simulated"))
    quiet = replace(crowded(), stack=STACK)
    axes = {**SPACE, "pipeline_parallel": 1, "virtual_pipeline": 1}
    alone, shared = (plan(quiet, space=axes, contention=each) for each in (False, True))
    assert shared.rows == alone.rows and not any(alone.may_share)
    assert shared.contention is not None and shared.contention.is_best


def test_the_first_is_called_the_best_only_where_no_estimate_left_out_is_below_its_step() -> None:
    chosen = crowded()
    every = plan(chosen, space=SPACE, top=None).rows
    for top in range(1, TOP):
        ranking = ranked(top=top)
        assert ranking.contention is not None
        below = [each for each in every[top:] if each.step_s < ranking.best.step_s]
        if ranking.contention.is_best:
            assert not below
            assert all(simulate(chosen, each.plan, contention=True).step_s >= ranking.best.step_s for each in every[top : top + 4])


def test_plans_of_too_many_events_stand_last_and_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [contention._num_events(crowded(), each.plan) for each in plan(crowded(), space=SPACE, top=TOP).rows]
    monkeypatch.setattr(contention, "MOST_EVENTS", sum(events[:2]))
    found = ranked()
    assert found.contention is not None
    left_out = found.contention.not_simulated
    assert left_out and left_out[-1] == TOP and [*left_out] == [*range(left_out[0], TOP + 1)]
    assert all(SHARED not in found.rows[place - 1].breakdown_s for place in left_out)
    assert found.contention.is_best == all(found.rows[place - 1].step_s >= found.best.step_s for place in left_out)


def test_limits_hold_for_the_steps_with_contention() -> None:
    free = ranked()
    assert free.contention is not None
    slowed = max(zip(free.rows, free.contention.alone_s, strict=True), key=lambda each: each[0].step_s / each[1])
    limit = (slowed[0].step_s + slowed[1]) / 2
    alone, kept = (ranked(constraints={"step_time": limit}, contention=each) for each in (False, True))
    assert slowed[0].plan in [each.plan for each in alone.rows]
    assert [each.plan for each in kept.rows] == [each.plan for each in free.rows if each.step_s <= limit]
    none = plan(crowded(), space=SPACE, top=1, constraints={"step_time": alone.rows[0].step_s}, contention=True)
    assert none.rows or none.beyond is not None


def test_energy_ranks_by_the_joules_of_the_steps_with_contention() -> None:
    chosen = crowded()
    powered = replace(chosen, cluster=replace(chosen.cluster, node=_powered(chosen)))
    ranking = plan(powered, space=SPACE, top=TOP, objective="energy", contention=True)
    assert ranking.contention is not None and ranking.alike == 1
    assert any(SHARED in each.breakdown_s for each in ranking.rows)


def _powered(chosen: Scenario) -> Any:
    node = chosen.cluster.node
    return replace(node, accelerator=replace(node.accelerator, tdp_w=400.0))


def test_a_ranking_is_a_document_and_back() -> None:
    ranking = ranked(top=3)
    assert Ranking.from_dict(ranking.to_dict()) == ranking
    assert [row["alone_step_s"] for row in ranking.records()] == [*ranking.contention.alone_s] if ranking.contention else False
