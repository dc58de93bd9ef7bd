"""Plans ranked anew by simulated contention: the order of simulating each, no work where nothing can share, what is left out said."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from parsim import estimate, plan, simulate
from parsim.cost.workload import Workload
from parsim.parallel.plan import Batch, Plan
from parsim.planner import Ranking, contention
from parsim.planner.contention import SHARED
from parsim.scenario import Scenario
from parsim.simulator.network import SharedLinks
from parsim.simulator.run import workload_in
from parsim.simulator.shared import SharedStep
from support import CLUSTER, FABRIC, FREE_NODE, GPT, STACK, scenario

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
    chosen, before = crowded(), plan(crowded(), space=SPACE, top=TOP, contention=False)
    steps = {each.plan: max(each.step_s, simulate(chosen, each.plan, contention=True).step_s) for each in before.rows}
    assert [(each.plan, each.step_s) for each in ranking.rows] == sorted(steps.items(), key=lambda each: each[1])
    assert [each.plan for each in ranking.rows] != [each.plan for each in before.rows]


def test_the_order_is_that_of_simulating_the_best_with_contention() -> None:
    ranking = ranked()
    check_order(ranking)
    assert ranking.contention is not None and not ranking.not_simulated
    alone = [estimate(crowded(), each.plan).step_s if shares else None for each, shares in zip(ranking.rows, ranking.shares, strict=True)]
    assert [*ranking.contention.alone_s] == alone and {True} <= {*ranking.shares} <= {True, False}
    for place, each in enumerate(ranking.rows):
        assert sum(each.breakdown_s.values()) == pytest.approx(each.step_s)
        assert sum(ranking.slower_by(place).values()) == pytest.approx(each.step_s - ranking.rows[0].step_s)
        assert each.tokens_per_s == pytest.approx(16 * 8 / each.step_s)


def flipped() -> tuple[Scenario, Plan, Plan]:
    """Two stages on nodes of their own with NICs of 4e4 bytes/s, whose replicas sum gradients there; and, named, four without replicas.

    The last stage sends the gradient of its input, 2 sequences x 8 tokens x 12 channels x 2 bytes = 384 on each device, when the sums of
    its own gradients have begun, which last far longer.  Both have half of the NIC then, so that the message, on which the first stage
    waits and so the step, takes 2 x 384 / 4e4 s in place of 384 / 4e4.
    """
    two, four = (Plan(tensor_parallel=4, pipeline_parallel=pp, data_parallel=4 // pp, micro_batch=pp) for pp in (2, 4))
    stack, model = replace(STACK, gradient_overlap=True), replace(GPT, tied_embedding=False)
    chosen = crowded(4e4)
    cluster = replace(chosen.cluster, num_nodes=4, node=FREE_NODE)
    return replace(chosen, model=model, cluster=cluster, stack=stack, batch=Batch(4, 8), plans={"four": four}), two, four


def check_flip(**options: Any) -> None:
    """The plan whose message shares is the second, by its simulated step."""
    chosen, two, four = flipped()
    axes = {"tensor_parallel": 4, "pipeline_parallel": 2, "micro_batch": 2}
    alone, shared = (plan(chosen, space=axes, top=2, contention=False), plan(chosen, space=axes, top=2, **options))
    assert [each.plan for each in alone.rows] == [two, four] and alone.contention is None
    assert [each.plan for each in shared.rows] == [four, two]
    assert shared.rows[1].step_s == pytest.approx(alone.rows[0].step_s + 384 / 4e4, rel=1e-9)  # both are rounded to picoseconds
    assert shared.contention is not None and shared.shares == (False, True) and shared.contention.is_best
    assert shared.contention.alone_s == (None, alone.rows[0].step_s)
    assert shared.rows[0] == replace(alone.rows[1], name="four")


@pytest.mark.parametrize("options", [{}, {"contention": True}])
def test_a_message_that_shares_its_nic_with_gradients_takes_twice_as_long_which_changes_the_order(options: dict[str, Any]) -> None:
    check_flip(**options)


def test_mutant_without_windows_that_overlap_the_order_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parsim.simulator.shared._WHOLE", 2.5)
    with pytest.raises(AssertionError):
        check_flip()


def test_plans_that_are_slower_than_the_first_even_alone_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, looked_at = ranked(), list[Workload]()
    monkeypatch.setattr(contention, "SharedStep", lambda workload: looked_at.append(workload) or SharedStep(workload))
    first = ranked(contention=None)
    assert first.best == whole.best and 1 <= len(looked_at) < TOP
    unseen = [each for each, shares in zip(first.rows, first.shares, strict=True) if shares is None]
    assert len(unseen) == TOP - len(looked_at) and all(each.step_s >= first.best.step_s for each in unseen)


def test_where_simulating_would_take_long_the_order_is_left_and_what_shares_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, _, four = flipped()
    axes = {"tensor_parallel": 4, "pipeline_parallel": 2, "micro_batch": 2}
    monkeypatch.setattr(contention, "FEW_EVENTS", 1)
    left, alone = (plan(chosen, space=axes, contention=each) for each in (None, False))
    assert (left.rows, left.shares, left.contention) == (alone.rows, (True, None), None)
    assert left.not_simulated == (1,) and left.rows[1].plan == four


@pytest.mark.parametrize("where", ["overlaps", "links"])
def test_mutant_what_cannot_share_or_has_no_links_keeps_the_order_of_estimates(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "overlaps":
        monkeypatch.setattr(SharedStep, "overlaps", False)
    else:
        right = SharedLinks.carry
        monkeypatch.setattr(SharedLinks, "carry", lambda self, leg, *names: right(self, leg._replace(loads=()), *names))
    ranking = ranked()
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        check_order(ranking)


def test_where_nothing_can_share_nothing_is_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedStep, "step_ps", lambda self: pytest.fail("it was simulated"))
    quiet = replace(crowded(), stack=STACK)
    axes = {**SPACE, "pipeline_parallel": 1, "virtual_pipeline": 1}
    alone, first, shared = (plan(quiet, space=axes, contention=each) for each in (False, None, True))
    assert shared.rows == first.rows == alone.rows and not any(shared.shares) and first.shares[:2] == (False, None)
    assert first.contention is None and shared.contention is not None and shared.contention.is_best


def test_the_first_is_called_the_best_only_where_no_estimate_left_out_is_below_its_step() -> None:
    chosen = crowded()
    every = plan(chosen, space=SPACE, top=None, contention=False).rows
    shared_s = [simulate(chosen, each.plan, contention=True).step_s for each in every[: TOP + 3]]
    for top in range(1, TOP, 2):
        ranking = ranked(top=top)
        assert ranking.contention is not None
        below = [each for each in every[top:] if each.step_s < ranking.best.step_s]
        if ranking.contention.is_best:
            assert not below
            assert all(step_s >= ranking.best.step_s for step_s in shared_s[top : top + 4])


def test_plans_of_too_many_events_stand_last_and_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [each.plan for each in plan(crowded(), space=SPACE, top=TOP, contention=False).rows]
    looked_at = [SharedStep(workload_in(crowded(), own)) for own in plans]
    done = [each.overlaps for each in looked_at].index(True) + 1
    monkeypatch.setattr(contention, "MANY_EVENTS", sum(each.num_events for each in looked_at[:done]))
    found = ranked()
    assert found.contention is not None
    left_out = found.not_simulated
    assert left_out == tuple(range(TOP + 1 - sum(each.overlaps for each in looked_at[done:]), TOP + 1))
    assert found.shares.count(None) == sum(each.is_foreseen and not each.overlaps for each in looked_at[done:])  # only a simulation knows
    assert all(SHARED not in found.rows[place - 1].breakdown_s for place in left_out)
    assert found.contention.is_best == all(found.rows[place - 1].step_s >= found.best.step_s for place in left_out)


def test_limits_hold_for_the_steps_with_contention() -> None:
    free = ranked()
    assert free.contention is not None
    simulated = ((row, alone_s) for row, alone_s in zip(free.rows, free.contention.alone_s, strict=True) if alone_s is not None)
    slowed = max(simulated, key=lambda each: each[0].step_s / each[1])
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
