"""Tokens that go to a node once: expected counts by enumeration, and never slower than a message a slot between nodes."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from parsim.cluster import network
from parsim.cluster.cluster import Cluster
from parsim.cluster.dispatch import per_node_s, share_that_meets
from parsim.estimator.estimate import stages_of
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import Phase
from parsim.step.task import Collective
from support import CLUSTER, MOE, STACK, scenario


@pytest.mark.parametrize(("experts", "held", "chosen"), [(8, 2, 3), (6, 3, 2), (4, 1, 4), (8, 8, 1)])
def test_the_share_of_tokens_is_that_of_all_choices(experts: int, held: int, chosen: int) -> None:
    every = list(combinations(range(experts), chosen))
    assert float(share_that_meets(experts, held, chosen)) == pytest.approx(sum(min(each) < held for each in every) / len(every))


def across_s(cluster: Cluster, copies: float) -> float:
    """By hand: of 4 nodes of 4 devices, with a NIC each of 50 MB/s at 0.9; 1 MB of tokens a rank, 16 ranks."""
    return copies * 1e6 / (50e6 * 0.9)


def test_a_token_goes_to_a_node_once() -> None:
    """3 other nodes, which a token that chooses 4 of 16 experts meets with a chance of 1 - C(12, 4) / C(16, 4)."""
    wire = 4 * 1e6 * 15 / 16
    free = replace(CLUSTER, node=replace(CLUSTER.node, law=replace(CLUSTER.node.law, ring_bytes_per_s=1e12)))
    law = network.all_to_all_rates(free, *network.floats(16, 1, 4, 4)[1])
    found = float(per_node_s(free, wire, 16, 1, num_experts=16, experts_per_token=4)) - float(np.ravel(law[0])[0])
    assert found == pytest.approx(across_s(free, 3 * (1 - 495 / 1820)), rel=1e-9)


def test_a_stack_says_so_and_only_seconds_change() -> None:
    plan, batch = Plan(data_parallel=4, expert_parallel=4), Batch(16, 8)
    prices = []
    for dispatch in ("all_to_all", "per_node"):
        case = scenario(model=MOE, batch=batch, stack=replace(STACK, dispatch=dispatch), cluster=replace(CLUSTER, num_nodes=1))
        workload = stages_of(case, plan).workload
        tasks = [task for task in workload.step.segments["expert_layer"].phases[Phase.F] if isinstance(task, Collective)]
        prices.append(sum(int(workload.ps(task)[0]) for task in tasks if task.operation == "all_to_all"))
    assert 0 < prices[1] < prices[0]
