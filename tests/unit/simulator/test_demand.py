"""Which links a communication loads, by arithmetic on the toy cluster: 4 devices a node, links of 1e8 bytes/s, 4 NICs of 5e7."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parsim.errors import PlanError
from parsim.parallel.plan import Plan
from parsim.simulator.demand import Call, Demands, traffic
from parsim.simulator.network import Leg, Wire, fair_shares
from parsim.simulator.program import Program
from parsim.step.timing import Market
from support import CLUSTER, FABRIC, NODE, scenario

US = 1_000_000  # picoseconds


def demands(plan: Plan, cluster=CLUSTER) -> Demands:  # type: ignore[no-untyped-def]
    chosen = scenario(cluster=cluster)
    return Demands(Program.of(chosen.model, Market(cluster, chosen.stack, chosen.batch), plan, dict(chosen.itemsize_bytes)))


def leg(found: Demands, task: str, rank: int, to: int) -> Leg:
    """The only leg of a task."""
    price = next(ps for name, ps in found.calls if name == task and ps)
    (each,) = found.legs(rank, task, price, to)
    assert each.latency_ps + each.transfer_ps == price
    return each


def loads(each: Leg) -> dict[Wire, float]:
    return {wire: pytest.approx(load, rel=1e-3) for wire, load in each.loads}


def test_an_all_reduce_in_a_node_pays_start_and_steps_and_then_fills_its_port() -> None:
    found = traffic(CLUSTER, Call("all_reduce", 1000.0, 2, 2, 1))
    assert (found.latency_ps, found.transfer_ps) == (3 * US, 10 * US)  # 1 us + 2 steps of 1 us; 1000 / 1e8 s
    assert (found.port_bytes_per_s, found.nic_bytes_per_s) == (1e8, 0)


def test_an_all_gather_across_nodes_takes_nine_tenths_of_its_nic() -> None:
    found = traffic(CLUSTER, Call("all_gather", 2700.0, 3, 4, 4))
    assert (found.latency_ps, found.transfer_ps) == (4 * US, 60 * US)  # 1 us + 3 further nodes; 2700 / (.9 x 5e7) s
    assert (found.port_bytes_per_s, found.nic_share) == (0, pytest.approx(0.9))


def test_a_ring_over_whole_nodes_sends_a_quarter_of_its_bytes_by_each_nic() -> None:
    found = traffic(CLUSTER, Call("all_gather", 8000.0, 7, 8, 1))  # the port binds at 1e8; its NICs could take 4 x .9 x 5e7
    assert found.port_bytes_per_s == pytest.approx(0.75e8)
    assert found.nic_bytes_per_s == pytest.approx(0.25e8)
    assert found.nic_share == pytest.approx(0.5)


def test_a_message_to_the_next_node_leaves_one_and_enters_the_other() -> None:
    found = demands(Plan(tensor_parallel=2, data_parallel=2, pipeline_parallel=2))  # a stage fills a node
    assert dict(leg(found, "send", 0, 1).loads) == loads(
        Leg(0, 0, 0, ((Wire("toy nic", "node 0 out"), 0.8), (Wire("toy nic", "node 1 in"), 0.8)))
    )


def test_stages_of_one_node_have_ports_of_their_own_and_parts_of_its_nics() -> None:
    found = demands(Plan(tensor_parallel=2, data_parallel=2, pipeline_parallel=2, rank_order="pp-dp-tp"))
    assert dict(leg(found, "send", 0, 1).loads) == loads(
        Leg(0, 0, 0, ((Wire("toy link", "stage 0 out"), 1.0), (Wire("toy link", "stage 1 in"), 1.0)))
    )
    name, price = next((name, ps) for (name, ps), calls in found.calls.items() if ps and calls[0].stride == 4)
    (across,) = found.legs(1, name, price, 1)  # tp across nodes: each stage is half of the node's devices
    assert dict(across.loads) == loads(Leg(0, 0, 0, ((Wire("toy nic", "node 0 out"), 0.45), (Wire("toy nic", "node 0 in"), 0.45))))


def test_sharing_that_is_part_of_the_price_is_not_charged_again() -> None:
    """Two stages in one node: the price of their gradients gives each device its even part of the NICs, so both fit side by side."""
    found = demands(Plan(tensor_parallel=2, data_parallel=2, pipeline_parallel=2, rank_order="tp-pp-dp"))
    ((name, price),) = {key for key, calls in found.calls.items() if key[1] and calls[0].stride == 4 and key[0] == "layer"}
    both = [*found.legs(0, name, price, 0), *found.legs(1, name, price, 1)]
    assert [dict(each.loads)[Wire("toy nic", "node 0 out")] for each in both] == [pytest.approx(0.45, rel=1e-3)] * 2
    assert [share.rate for share in fair_shares(both)] == [1.0, 1.0]


def test_oversubscribed_leaves_are_links_too() -> None:
    fabric = replace(FABRIC, topology="fat_tree", oversubscription=2.0, nodes_per_leaf=1)
    found = demands(Plan(tensor_parallel=2, data_parallel=2, pipeline_parallel=2), replace(CLUSTER, fabric=fabric))
    # The uplinks keep half of the rate: .4 of the NICs, and all that one sends crosses: .8 of the uplink.
    assert dict(leg(found, "send", 0, 1).loads) == loads(
        Leg(
            0,
            0,
            0,
            (
                (Wire("toy nic", "node 0 out"), 0.4),
                (Wire("toy nic uplink", "leaf 0 out"), 0.8),
                (Wire("toy nic", "node 1 in"), 0.4),
                (Wire("toy nic uplink", "leaf 1 in"), 0.8),
            ),
        )
    )


def test_devices_on_a_tree_share_the_wires_of_their_node() -> None:
    found = demands(Plan(tensor_parallel=2, pipeline_parallel=2), replace(CLUSTER, node=replace(NODE, topology="pcie_tree")))
    assert dict(leg(found, "send", 0, 1).loads) == loads(Leg(0, 0, 0, ((Wire("toy link", "node 0"), 0.5),)))


def test_a_price_that_the_cluster_was_not_asked_for_is_refused_with_the_way_out() -> None:
    found = demands(Plan(tensor_parallel=2))
    with pytest.raises(PlanError, match="which links 'ghost' loads is not known"):
        found.legs(0, "ghost", 5, 0)
