"""The checks of parameter servers can fail: each wrong rule below turns one red."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

import parsim
from parsim import Plan
from parsim.asynchrony import bounds
from parsim.asynchrony.line import Line
from parsim.asynchrony.protocol import Outcome, Shard, Terms
from parsim.asynchrony.service import ServedWeights, Service, Way
from parsim.asynchrony.simulation import simulate_servers
from parsim.parallel.optimizer import Optimizer
from parsim.step import structure
from parsim.verify import verify_plan

SCENARIO = parsim.load("scenarios/digits-mlp.yaml")
PLAN = Plan(data_parallel=4, micro_batch=16, gradient_sync="parameter_server")
SYNCHRONOUS = replace(PLAN, staleness_bound=0)


def red(plan: Plan = PLAN) -> set[str]:
    return {check.quantity.split(",")[0] for check in verify_plan(SCENARIO, plan, "toy") if not check.ok}


def pace() -> int:
    """Of six workers at a server that takes 40 a gradient: 240 by arithmetic, whatever else they do."""
    way, weights = Way(5, 5, 1), ServedWeights(1, 4, 4, 4, "adamw")
    service = Service(Terms(6), weights, (1,), tuple(range(6)), (way,), (way,), (40,), (0,), 1)
    return simulate_servers(service, lambda worker, number: 10).step_ps


def most_stale(bound: int) -> int:
    """Of a worker that computes while another runs ahead as far as it may."""
    shard = Shard(Terms(2, staleness_bound=bound))
    shard.pull(0), shard.pull(1)
    for _ in range(bound):
        shard.push(0)
        shard.pull(0)
    while True:
        shard.push(1)
        if not shard.may_pull(1):
            return shard.push(0).staleness
        shard.pull(1)


def test_without_a_mutant_all_is_green() -> None:
    assert not red() | red(SYNCHRONOUS)
    assert (pace(), most_stale(1), most_stale(2)) == (240, 3, 5)


def test_a_queue_that_serves_all_at_once_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "enter", lambda self, now_ps, work_ps: now_ps + work_ps)
    assert pace() != 240


def test_a_bound_that_lets_a_worker_one_further_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Shard.may_pull

    def may_pull(self: Shard, worker: int) -> bool:
        bound = self.terms.staleness_bound
        return right(self, worker) or (bound is not None and self.handled[worker] - min(self.handled) <= bound + 1)

    monkeypatch.setattr(Shard, "may_pull", may_pull)
    assert most_stale(1) > 3


def test_updates_that_are_not_counted_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Shard.push

    def push(self: Shard, worker: int) -> Outcome:
        found = right(self, worker)
        self.version = 0
        return found

    monkeypatch.setattr(Shard, "push", push)
    assert most_stale(2) != 5


@pytest.mark.parametrize("left_out", [bounds.WORKERS, bounds.SERVER])
def test_a_bound_that_is_left_out_is_noticed(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = bounds._bounds
    monkeypatch.setattr(bounds, "_bounds", lambda *args: {name: ps for name, ps in right(*args).items() if name != left_out})
    scenario = SCENARIO
    if left_out == bounds.SERVER:  # which binds where memory is slow
        node = replace(scenario.cluster.node, host_memory_bytes_per_s=1e8)
        scenario = replace(scenario, cluster=replace(scenario.cluster, node=node))
    assert [check for check in verify_plan(scenario, PLAN, "toy") if not check.ok]


def test_rounds_without_the_update_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bounds._update
    monkeypatch.setattr(bounds, "_update", lambda service, shard, coming: right(service, shard, coming) - service.update_ps[shard])
    assert red(SYNCHRONOUS) == {"picoseconds of one gradient of each worker"}


def test_a_worker_that_updates_itself_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its step then has an update, and its memory the states."""
    monkeypatch.setattr(structure.Structure, "is_served", False)
    found = parsim.estimate(SCENARIO, PLAN)
    assert found.memory_bytes[0]["optimizer"] > 0 and found.breakdown_s["optimizer"] > 0


def test_states_that_a_server_does_not_read_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def update_ps() -> Any:
        found = parsim.estimate(SCENARIO, PLAN).served
        assert found is not None
        return found.bounds_ps[bounds.SERVER]

    right = update_ps()
    # Weight and two states of 4 bytes both ways, and the gradient; without the states a quarter as many and one gradient.
    monkeypatch.setattr(Optimizer, "state_bytes", lambda self, weight_bytes: 0)
    assert update_ps() * 28 == pytest.approx(right * 12, rel=1e-6)
