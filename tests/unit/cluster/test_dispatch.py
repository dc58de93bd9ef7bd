"""Seconds of exchanges by nodes: bytes between nodes at what NICs reach, beside those inside, and fewer than a message a slot takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from parsim.cluster import network
from parsim.cluster.dispatch import by_node_s
from parsim.estimator.estimate import stages_of
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import Phase
from parsim.step.task import Collective
from support import CLUSTER, MOE, STACK, scenario


def test_what_leaves_nodes_passes_nics() -> None:
    """4 nodes of 4 devices, with a NIC each of 50 MB/s at 0.9."""
    free = replace(CLUSTER, node=replace(CLUSTER.node, law=replace(CLUSTER.node.law, ring_bytes_per_s=1e12)))
    law = network.all_to_all_rates(free, *network.floats(16, 1, 4, 4)[1])
    found = float(by_node_s(free, 1e6, 3e6, 16, 1)) - float(np.ravel(law[0])[0])
    assert found == pytest.approx(3e6 / (50e6 * 0.9), rel=1e-9)


def test_a_token_that_chooses_more_experts_than_there_are_ranks_goes_to_each_once() -> None:
    plan, batch, model = Plan(data_parallel=4, expert_parallel=4), Batch(16, 8), replace(MOE, num_experts=8, experts_per_token=6)
    prices = []
    for dispatch in ("hierarchical", "per_node"):
        case = scenario(model=model, batch=batch, stack=replace(STACK, dispatch=dispatch), cluster=replace(CLUSTER, num_nodes=1))
        workload = stages_of(case, plan).workload
        tasks = [task for task in workload.step.segments["expert_layer"].phases[Phase.F] if isinstance(task, Collective)]
        prices.append(sum(int(workload.ps(task)[0]) for task in tasks if task.operation == "all_to_all"))
    assert 0 < prices[1] < prices[0]
