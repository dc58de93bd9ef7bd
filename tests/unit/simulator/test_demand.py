"""Which links a price loads, by arithmetic on the toy cluster: 4 devices a node, links of 1e8 bytes/s, 4 NICs of 5e7."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cluster import Cluster, price
from parsim.cluster.price import Price, collective_price, p2p_price, private_price
from parsim.simulator.demand import Leg, LinkAt, Placement
from parsim.simulator.network import fair_shares
from support import CLUSTER, FABRIC, NODE

STAGE_A_NODE = Placement(CLUSTER, num_ranks=2, stride=4, used_devices=8)
BETWEEN_NODES = collective_price(CLUSTER, "all_gather", 1e6, 1, 2, 4)  # two ranks on two nodes


def message(stride: int, cluster: Cluster = CLUSTER) -> Price:
    return p2p_price(cluster, 1e6, stride, num_ranks=2)


def only(leg: Leg | None) -> Leg:
    assert leg is not None
    return leg


def loads(leg: Leg) -> dict[LinkAt, float]:
    return {wire: pytest.approx(load, rel=1e-6) for wire, load in leg.loads}


def test_a_message_to_the_next_node_leaves_one_and_enters_the_other() -> None:
    sent = only(STAGE_A_NODE.leg(0, 1, message(4)))
    assert loads(sent) == {LinkAt("toy nic", "node 0 out"): 0.8, LinkAt("toy nic", "node 1 in"): 0.8}


def test_stages_of_one_node_have_ports_of_their_own_and_parts_of_its_nics() -> None:
    inside = Placement(CLUSTER, num_ranks=2, stride=1, used_devices=8)
    assert loads(only(inside.leg(0, 1, message(1)))) == {
        LinkAt("toy link", "stage 0 out"): 1.0,
        LinkAt("toy link", "stage 1 in"): 1.0,
    }
    across = only(inside.leg(1, None, BETWEEN_NODES))  # each stage is half of the node's devices, and a ring takes .9 of its NICs
    assert loads(across) == {LinkAt("toy nic", "node 0 out"): 0.45, LinkAt("toy nic", "node 0 in"): 0.45}


def test_a_message_within_a_node_of_a_chain_that_leaves_it_loads_ports_at_the_pace_of_the_chain() -> None:
    chain = Placement(CLUSTER, num_ranks=4, stride=2, used_devices=8)
    sent = p2p_price(CLUSTER, 1e6, 2, num_ranks=4)  # a device sends .8 x 5e7 bytes/s
    assert loads(only(chain.leg(0, 1, sent))) == {LinkAt("toy link", "stage 0 out"): 0.4, LinkAt("toy link", "stage 1 in"): 0.4}
    assert loads(only(chain.leg(1, 2, sent))) == {LinkAt("toy nic", "node 0 out"): 0.4, LinkAt("toy nic", "node 1 in"): 0.4}


def test_sharing_that_is_part_of_the_price_is_not_charged_again() -> None:
    """Two stages in one node: the price of their gradients gives each device its even part of the NICs, so both fit side by side."""
    halves = Placement(CLUSTER, num_ranks=2, stride=2, used_devices=8)
    both = [only(halves.leg(stage, None, BETWEEN_NODES)) for stage in (0, 1)]
    assert [loads(each)[LinkAt("toy nic", "node 0 out")] for each in both] == [0.45, 0.45]
    assert [share.rate for share in fair_shares(both)] == [1.0, 1.0]


def test_oversubscribed_leaves_are_links_too() -> None:
    leaves = replace(CLUSTER, fabric=replace(FABRIC, topology="fat_tree", oversubscription=2.0, nodes_per_leaf=1))
    # The uplinks keep half of the rate: .4 of the NICs, and all that one sends crosses: .8 of the uplink.
    assert loads(only(Placement(leaves, 2, 4, 8).leg(0, 1, message(4, leaves)))) == {
        LinkAt("toy nic", "node 0 out"): 0.4,
        LinkAt("toy nic uplink", "leaf 0 out"): 0.8,
        LinkAt("toy nic", "node 1 in"): 0.4,
        LinkAt("toy nic uplink", "leaf 1 in"): 0.8,
    }


def test_devices_on_a_tree_share_the_wires_of_their_node() -> None:
    tree = replace(CLUSTER, node=replace(NODE, topology="pcie_tree"))
    assert loads(only(Placement(tree, 2, 2, 4).leg(0, 1, message(2, tree)))) == {LinkAt("toy link", "node 0"): 0.5}


def test_what_passes_no_link_between_devices_loads_none_and_a_price_of_nothing_has_no_leg() -> None:
    assert STAGE_A_NODE.leg(0, None, private_price(CLUSTER, 2e-6)) == Leg(2_000_000, 0, 0.0, ())
    assert STAGE_A_NODE.leg(0, None, private_price(CLUSTER, 0.0)) is None
    assert STAGE_A_NODE.leg(0, None, collective_price(CLUSTER, "all_reduce", 0.0, 0, 1, 1)) is None
    assert STAGE_A_NODE.leg(0, None, BETWEEN_NODES.where(np.array([False]))) is None


@pytest.mark.parametrize("sent_bytes", [0, 1, 7, 333, 10**6 + 1])
def test_a_leg_adds_up_to_the_picoseconds_of_their_price(sent_bytes: int) -> None:
    for ranks, stride in ((2, 1), (3, 1), (4, 4), (6, 2)):
        law = collective_price(CLUSTER, "all_reduce", sent_bytes, 3, ranks, stride)
        named = collective_price(CLUSTER, "all_reduce", sent_bytes, 3, ranks, stride, seconds=float(law.seconds[0]) / 3)
        for paid in (law, named, p2p_price(CLUSTER, sent_bytes, stride, num_ranks=ranks)):
            leg = STAGE_A_NODE.leg(0, None, paid)
            assert (leg.latency_ps + leg.transfer_ps if leg else 0) == int(paid.ps[0])


def test_mutant_traffic_that_never_leaves_its_node_turns_the_loads_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price, "_nic_part", lambda asked: np.zeros_like(asked.wire_bytes))
    with pytest.raises(AssertionError):
        test_a_message_to_the_next_node_leaves_one_and_enters_the_other()
