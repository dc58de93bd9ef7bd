"""Seconds of exchanges by nodes: bytes between nodes at what NICs reach, beside those inside, and fewer than a message a slot takes."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cluster import network
from parsim.cluster.accelerator import Accelerator
from parsim.cluster.dispatch import by_node_s
from parsim.cluster.price import by_node_price, collective_price, load_of
from parsim.cost import timing
from parsim.estimator.estimate import stages_of
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.schedules.phase import Phase
from parsim.step.task import Collective
from support import CLUSTER, MOE, STACK, TOY, scenario


def test_what_leaves_nodes_passes_nics() -> None:
    """4 nodes of 4 devices, with a NIC each of 50 MB/s at 0.9."""
    free = replace(CLUSTER, node=replace(CLUSTER.node, law=replace(CLUSTER.node.law, ring_bytes_per_s=1e12)))
    law = network.all_to_all_rates(free, *network.floats(16, 1, 4, 4)[1])
    found = float(by_node_s(free, 1e6, 3e6, 16, 1)) - float(np.ravel(law[0])[0])
    assert found == pytest.approx(3e6 / (50e6 * 0.9), rel=1e-9)


def test_what_stays_in_a_node_loads_its_ports_in_the_time_of_the_exchange() -> None:
    price = collective_price(CLUSTER, "all_to_all", 4e6, 15, 16, 1)
    load = load_of(by_node_price(price, np.array([1_000_000]), np.array([3_000_000])))
    assert load.port_bytes_per_s * load.transfer_ps * 1e-12 == pytest.approx(1e6)
    assert load.nic_bytes_per_s * load.transfer_ps * 1e-12 == pytest.approx(3e6)


def exchanges_s(stack: Stack, ranks: int = 4, device: Accelerator = TOY) -> dict[str, float]:
    """Of a forward of a layer of 4 experts: 4 sequences of 8 tokens a rank that choose 2 each, 12 wide, in 2 bytes."""
    cluster = replace(CLUSTER, num_nodes=1, node=replace(CLUSTER.node, accelerator=device))
    case = scenario(model=MOE, batch=Batch(4 * ranks, 8), stack=stack, cluster=cluster)
    workload = stages_of(case, Plan(data_parallel=ranks, expert_parallel=ranks, micro_batch=4)).workload
    tasks = [task for task in workload.step.segments["expert_layer"].phases[Phase.F] if isinstance(task, Collective)]
    return {task.name: int(workload.ps(task)[0]) * 1e-12 for task in tasks if task.operation == "all_to_all"}


def order_s(monkeypatch: pytest.MonkeyPatch, ranks: int) -> float:
    """What tokens on their way to experts take longer than their exchange."""
    with_order = exchanges_s(STACK, ranks)["dispatch.all_to_all"]
    with monkeypatch.context() as patch:
        patch.setattr(timing, "_order_s", lambda *rest: 0.0)
        return with_order - exchanges_s(STACK, ranks)["dispatch.all_to_all"]


def test_messages_a_slot_are_put_in_order_of_experts_where_a_rank_has_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel reads and writes all slots of a rank: 1 us, and bytes at 0.8 of 1 GB/s."""
    assert order_s(monkeypatch, 2) == pytest.approx(1e-6 + 2 * (4 * 8 * 2 * 12 * 2) / (0.8 * 1e9), rel=1e-6)
    assert order_s(monkeypatch, 4) == 0


def test_a_stack_that_sorts_puts_them_in_order_by_fetching_rows() -> None:
    """At an eighth of 1 GB/s, not at 0.8."""
    device = replace(TOY, elementwise=replace(TOY.elementwise, gather_efficiency=0.125))
    longer_s = (
        exchanges_s(replace(STACK, permute="sort"), 2, device)["dispatch.all_to_all"] - exchanges_s(STACK, 2, device)["dispatch.all_to_all"]
    )
    assert longer_s == pytest.approx(2 * (4 * 8 * 2 * 12 * 2) / 1e9 * (8 - 1 / 0.8), rel=1e-6)


def test_a_token_that_chooses_more_experts_than_there_are_ranks_goes_to_each_once() -> None:
    plan, batch, model = Plan(data_parallel=4, expert_parallel=4), Batch(16, 8), replace(MOE, num_experts=8, experts_per_token=6)
    prices = []
    for dispatch in ("hierarchical", "per_node"):
        case = scenario(model=model, batch=batch, stack=replace(STACK, dispatch=dispatch), cluster=replace(CLUSTER, num_nodes=1))
        workload = stages_of(case, plan).workload
        tasks = [task for task in workload.step.segments["expert_layer"].phases[Phase.F] if isinstance(task, Collective)]
        prices.append(sum(int(workload.ps(task)[0]) for task in tasks if task.operation == "all_to_all"))
    assert 0 < prices[1] < prices[0]
