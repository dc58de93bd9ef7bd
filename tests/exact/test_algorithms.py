"""Bytes sent are those of the algorithm that runs, in all three readers; seconds are those of the fitted laws unless a stack names one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.cluster.cluster import Cluster
from parsim.collectives.in_network import InNetwork
from parsim.estimator.estimate import estimate
from parsim.parallel.plan import Plan
from parsim.verify import verify_plan
from support import FABRIC, NODE, STACK, enough, every_other, scenario

EIGHT = Cluster(replace(NODE, devices_per_node=8, switch_adds=True), 2, FABRIC)
PLAN = Plan(data_parallel=8)


def sent_bytes(**changes: object) -> int:
    return int(estimate(scenario(**changes), PLAN).sent_bytes[0]["dp"])


@pytest.mark.parametrize("where", ["across nodes", "in a switch that adds"])
def test_all_readers_send_what_the_chosen_algorithm_sends(where: str) -> None:
    chosen = scenario() if where == "across nodes" else scenario(cluster=EIGHT)
    assert [str(check) for check in verify_plan(chosen, PLAN, where) if not check.ok] == []


NAMES = ("bidirectional_ring", "direct", "halving_doubling", "hierarchical", "ring", "tree")
PLANS = {"many replicas": PLAN, "three of a pipeline": Plan(data_parallel=3, tensor_parallel=2, pipeline_parallel=2)}


@pytest.mark.parametrize("case", every_other(NAMES, PLANS, "{}-{}".format))
def test_all_readers_agree_on_an_algorithm_that_the_stack_names(case: tuple[str, str]) -> None:
    name, plan = case[0], PLANS[case[1]]
    chosen = scenario(batch=enough(plan), stack=replace(STACK, collectives={"all_reduce": name}, gradient_overlap=True))
    assert [str(check) for check in verify_plan(chosen, plan, name) if not check.ok] == []


def test_a_rank_sends_the_gradients_once_to_a_switch_and_seven_quarters_of_them_round_a_ring() -> None:
    ring = sent_bytes(stack=replace(STACK, collectives={"all_reduce": "ring"}), cluster=EIGHT)
    assert 7 * sent_bytes(cluster=EIGHT) == 4 * ring


def test_the_choice_of_an_algorithm_changes_no_seconds_but_a_named_one_does() -> None:
    plain, added = (scenario(cluster=replace(EIGHT, node=replace(EIGHT.node, switch_adds=adds))) for adds in (False, True))
    assert estimate(plain, PLAN).step_s == estimate(added, PLAN).step_s
    assert sent_bytes(cluster=plain.cluster) > sent_bytes(cluster=added.cluster)
    small_is_fast = [estimate(scenario(stack=replace(STACK, collectives={"all_reduce": name})), PLAN).step_s for name in ("tree", "ring")]
    assert len(set(small_is_fast)) == 2


def test_a_rank_that_sends_a_chunk_more_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = InNetwork.sent_elements
    monkeypatch.setattr(InNetwork, "sent_elements", lambda self, *args: right(self, *args) + 1)
    wrong = [check.quantity for check in verify_plan(scenario(cluster=EIGHT), PLAN, "one more") if not check.ok]
    assert wrong == ["bytes sent over dp"]
