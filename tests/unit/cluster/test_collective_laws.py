"""Collectives and point-to-point messages against arithmetic on the page, and against what wires can carry."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from cluster_rows import cluster
from msgspec.structs import replace

from parsim.cluster import OPERATIONS, AllToAllLaw, Cluster, CollectiveLaw, Fabric, FewChannels, Link, Node, Protocol
from parsim.cluster.accelerator import Accelerator, AttentionLaw, ElementwiseLaw, Law
from parsim.cluster.network import binding_link, collective_s, p2p_s, placement
from parsim.cluster.price import collective_price, explain_collective
from parsim.errors import ScenarioError

DEVICE = Accelerator("toy", {"bf16": 1.0}, 1.0, 1, 1, Law(1, 1, 0, 1), AttentionLaw(((1, 1.0),), 0, 0, 1, 1), ElementwiseLaw(1, 0))
WIRE = Link("wire", 100.0, 0.25)
NODE = Node("toy", DEVICE, 8, WIRE, CollectiveLaw(2.0, 0.5, 50.0, 80.0, 0.125), WIRE, 4, "switched_node")
FABRIC = Fabric("toy", Link("nic", 10.0, 1.0), 4, "fat_tree", 0.5, 1.0, 3.0, 4.0, 0.25, 5.0, 0.5)
TOY = Cluster(NODE, 16, FABRIC)
CATALOG = [
    ("dgx-1v-32gb", "ib-edr"),
    ("dgx-a100-80gb", "ib-hdr-8rail"),
    ("dgx-a100-40gb", "ib-edr"),
    ("hgx-h100-80gb", "ib-ndr-8rail"),
]


def seconds(where: Cluster, operation: str, payload: float, ranks: int, stride: int) -> float:
    factor = {"all_reduce": 2, "reduce": ranks / max(ranks - 1, 1), "broadcast": ranks / max(ranks - 1, 1)}.get(operation, 1)
    steps = (2 if operation == "all_reduce" else 1) * (ranks - 1)
    return float(np.asarray(collective_s(where, operation, factor * (ranks - 1) / ranks * payload, steps, ranks, stride)))


def test_in_a_node_it_is_start_steps_bytes_and_ramp() -> None:
    # n = 4 of 400 bytes: wire 2 x 3 / 4 x 400 = 600, steps 6: 2 + 6 x .5 + 600 / 50 + .125 sqrt(600)
    assert seconds(TOY, "all_reduce", 400, 4, 1) == pytest.approx(2 + 3 + 12 + 0.125 * math.sqrt(600), rel=1e-14)
    assert seconds(TOY, "all_gather", 400, 4, 2) == pytest.approx(2 + 1.5 + 6 + 0.125 * math.sqrt(300), rel=1e-14)


def test_only_all_reduce_of_more_than_4_ranks_uses_the_switch_rate() -> None:
    # n = 8 of 800 bytes: wire 1400, steps 14 at 80 bytes/s; the others 700 bytes at 50 bytes/s.
    assert seconds(TOY, "all_reduce", 800, 8, 1) == pytest.approx(2 + 7 + 1400 / 80 + 0.125 * math.sqrt(1400), rel=1e-14)
    assert seconds(TOY, "reduce_scatter", 800, 8, 1) == pytest.approx(2 + 3.5 + 14 + 0.125 * math.sqrt(700), rel=1e-14)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_group_of_one_costs_nothing(operation: str) -> None:
    assert seconds(TOY, operation, 10**6, 1, 1) == 0.0
    assert collective_s(TOY, operation, 10**6, 5, 1, 8) == 0.0
    assert p2p_s(TOY, 10**6, 8, num_ranks=1) == 0.0


def test_devices_are_numbered_node_by_node() -> None:
    found = [
        tuple(int(np.asarray(each)) for each in placement(8, n, s))
        for n, s in ((8, 1), (4, 2), (2, 8), (16, 1), (16, 2), (12, 1), (3, 16), (1, 1))
    ]
    assert found == [(8, 1), (4, 1), (1, 2), (8, 2), (4, 4), (8, 2), (1, 3), (1, 1)]


def test_groups_of_stride_8_share_their_nodes_nics_and_whole_nodes_have_them_all() -> None:
    # The node's NICs carry 4 x 10 x .5 = 20 bytes/s.  Eight groups of stride 8: 2.5 each.  One group of whole nodes: 20 < 80 of the node.
    big = 10.0**13  # so large that latency and ramp are a few millionths
    eighth = seconds(TOY, "all_reduce", big, 4, 8)
    assert eighth == pytest.approx(1.5 * big / 2.5, rel=1e-5)
    assert seconds(TOY, "all_reduce", big, 32, 1) == pytest.approx(2 * 31 / 32 * big / 20, rel=1e-5)
    assert seconds(TOY, "all_reduce", big, 16, 2) == pytest.approx(2 * 15 / 16 * big / 10, rel=1e-5)


def test_the_node_binds_where_its_ring_is_slower_than_its_nics() -> None:
    wide = replace(TOY, fabric=replace(FABRIC, efficiency=1.0, nic=Link("nic", 100.0, 1.0)))
    assert seconds(wide, "all_gather", 10.0**13, 32, 1) == pytest.approx(31 / 32 * 10.0**13 / 50, rel=1e-5)
    assert binding_link(wide, "all_gather", 32, 1) == "wire"
    assert binding_link(TOY, "all_gather", 32, 1) == "nic"


def test_across_nodes_latency_is_logarithmic_for_all_reduce_and_linear_for_rings() -> None:
    # 8 nodes of 1 rank: wire 2 x 7 / 8 x 800 = 1400 at 2.5 bytes/s; log2 k = 3
    assert seconds(TOY, "all_reduce", 800, 8, 8) == pytest.approx(1 + 9 + 560 + 0.25 * math.sqrt(4200), rel=1e-14)
    assert seconds(TOY, "all_gather", 800, 8, 8) == pytest.approx(1 + 28 + 280, rel=1e-14)  # the ramp is that of trees
    assert seconds(TOY, "broadcast", 800, 8, 8) == pytest.approx(1 + 28 + 320, rel=1e-14)


def test_rings_across_nodes_have_a_start_a_ramp_and_a_quicker_protocol_of_their_own() -> None:
    # 8 nodes of 1 rank, 800 bytes: 700 on the wire at 2.5 bytes/s; 1 + 2 + 7 x 4 + 280 + .5 sqrt(700), or 3 + 7 x 2 + 700 / 2.
    rings = replace(FABRIC, ring_start_s=2.0, ring_ramp_s_per_sqrt_byte=0.5)
    slow = replace(TOY, fabric=rings)
    assert seconds(slow, "all_gather", 800, 8, 8) == pytest.approx(1 + 2 + 28 + 280 + 0.5 * math.sqrt(700), rel=1e-14)
    quick = replace(TOY, fabric=replace(rings, ring_small=(Protocol(3.0, 2.0, 2.0), Protocol(3.0, 2.0, 99.0))))
    assert seconds(quick, "all_gather", 800, 8, 8) == pytest.approx(3 + 14 + 280, rel=1e-14)  # no quicker than the ring's 2.5 bytes/s
    assert seconds(slow, "all_reduce", 800, 8, 8) == seconds(TOY, "all_reduce", 800, 8, 8)


def test_an_all_reduce_along_a_ring_takes_two_steps_a_further_node() -> None:
    # 1400 bytes at 2.5 bytes/s, 7 further nodes: 2 x 7 x .1 + 560, quicker than 1 + 9 + 560 + ramp by trees.
    where = replace(TOY, fabric=replace(FABRIC, all_reduce_ring_step_s=0.1))
    assert seconds(where, "all_reduce", 800, 8, 8) == pytest.approx(1.4 + 560, rel=1e-14)


def test_an_all_reduce_may_use_some_of_many_nics_and_combine_on_more_than_two_nodes() -> None:
    big = 10.0**13
    few = replace(TOY, fabric=replace(FABRIC, all_reduce_nics=1))  # 1 of 4 NICs: 5 of 20 bytes/s for whole nodes; one of 8 groups keeps 2.5
    assert seconds(few, "all_reduce", big, 32, 1) == pytest.approx(2 * 31 / 32 * big / 5, rel=1e-5)
    assert seconds(few, "all_reduce", big, 4, 8) == pytest.approx(1.5 * big / 2.5, rel=1e-5)
    assert seconds(few, "all_gather", big, 32, 1) == seconds(TOY, "all_gather", big, 32, 1)
    combining = replace(TOY, fabric=replace(FABRIC, two_node_gain=9.0, gain_nodes=4))  # 31 / 32 x 4 / 3 of 20 bytes/s
    assert seconds(combining, "all_reduce", big, 32, 1) == pytest.approx(1.5 * big / 20, rel=1e-5)
    assert seconds(combining, "all_reduce", big, 40, 1) == seconds(TOY, "all_reduce", big, 40, 1)


def test_a_nic_that_serves_peers_in_turn_waits_for_those_in_the_node() -> None:
    # 16 ranks on 2 nodes, 15 bytes a rank: 8 leave it, 7 stay; half of these count.
    where = replace(TOY, fabric=replace(FABRIC, all_to_all=AllToAllLaw(0.0, 0.5, 0.0, 0.5)))
    assert float(np.asarray(collective_s(where, "all_to_all", 15e9, 15, 16, 1))) == pytest.approx(11.5e9 / 2.5, rel=1e-12)


def test_the_quickest_protocol_sends_and_a_rank_copies_the_chunk_that_it_keeps() -> None:
    law = replace(NODE.law, ramp_s_per_sqrt_byte=0.0, own_chunk=0.5, small=(Protocol(0.5, 0.25, 10.0), Protocol(1.0, 0.25, 20.0)))
    where = replace(TOY, node=replace(NODE, law=law))
    # n = 4 of 4 bytes: 3 on the wire in 3 steps; then 40 and 4000 bytes.
    assert seconds(where, "all_gather", 4, 4, 1) == pytest.approx(0.5 + 0.75 + 3 / 10, rel=1e-14)
    assert seconds(where, "all_gather", 40, 4, 1) == pytest.approx(1 + 0.75 + 30 / 20, rel=1e-14)
    assert seconds(where, "all_gather", 4000, 4, 1) == pytest.approx(2 + 1.5 + 3000 * (1 + 0.5 / 3) / 50, rel=1e-14)
    assert seconds(where, "all_reduce", 4000, 4, 1) == pytest.approx(2 + 3 + 6000 * (1 + 0.5 / 6) / 50, rel=1e-14)


def test_the_switch_adds_where_it_is_quicker_than_a_ring_of_more_than_4_ranks() -> None:
    node = replace(NODE, switch_adds=True, in_switch=CollectiveLaw(20.0, 0.0, 120.0, 120.0, 0.0, own_chunk=2.0))
    where = replace(TOY, node=node)
    # n = 8 of 8000 bytes: 14000 on the wire, and 1 + 2 / 14 of that at 120 bytes/s, 2 x 8000 / 120.
    assert seconds(where, "all_reduce", 8000, 8, 1) == pytest.approx(20 + 16000 / 120, rel=1e-14)
    for operation, size, ranks in (("all_reduce", 80, 8), ("all_reduce", 8000, 4), ("all_gather", 8000, 8)):
        assert seconds(where, operation, size, ranks, 1) == seconds(TOY, operation, size, ranks, 1)


def test_a_law_scales_with_the_link_that_it_was_fitted_on() -> None:
    law = replace(NODE.law, small=(Protocol(1.0, 0.5, 25.0),), link_bytes_per_s=100.0)
    fitted = replace(TOY, node=replace(NODE, law=law))
    faster = replace(TOY, node=replace(NODE, law=law, link=Link("wire", 400.0, 0.25)))
    assert seconds(fitted, "all_gather", 4, 4, 1) == pytest.approx(1 + 1.5 + 3 / 25, rel=1e-14)
    assert seconds(faster, "all_gather", 4, 4, 1) == pytest.approx(1 + 1.5 + 3 / 100, rel=1e-14)
    assert seconds(faster, "all_gather", 4000, 4, 1) == pytest.approx(2 + 1.5 + 3000 / 200 + 0.125 / 2 * math.sqrt(3000), rel=1e-14)


def test_h100_with_8_ndr_is_the_law_of_its_row() -> None:
    # The quicker of 2 + 32.1 log2 k + S / 21.8 + .0192 sqrt(S) and 71.5 log2 k + W / 390 + .0072 sqrt(W log2 k), us, bytes, GB/s.
    where = cluster("hgx-h100-80gb", 1024, "ib-ndr-8rail")
    for nodes in (2, 4, 16, 128, 1024):
        for size in (4096.0, 10.0**5, 10.0**6, 10.0**8, 10.0**10):
            ranks, doublings = 8 * nodes, math.log2(nodes)
            wire = 2 * (ranks - 1) / ranks * size
            # Two nodes: the switch of a node sends 7 / 8 of 553 GB/s, less than 390 x 15 / 8.
            rate = 553 * 7 / 8 if nodes == 2 else 390.0
            large = 71.5 * doublings + wire / (rate * 1000) + 0.0072 * math.sqrt(wire * doublings)
            small = 2 + 32.1 * doublings + max(size / 21800, wire / (rate * 1000)) + 0.0192 * math.sqrt(size)
            assert seconds(where, "all_reduce", size, ranks, 1) * 1e6 == pytest.approx(min(large, small), rel=1e-3)


def test_dgx_a100_with_hdr_reaches_its_published_bus_bandwidth() -> None:
    # 192 GB/s at 32 GPUs and a large message: NVIDIA GTC24 S62129.
    where = cluster("dgx-a100-80gb", 4, "ib-hdr-8rail")
    size = 16e9
    assert 2 * 31 / 32 * size / seconds(where, "all_reduce", size, 32, 1) == pytest.approx(192e9, rel=0.02)


def test_all_to_all_loads_a_nic_with_what_leaves_the_node() -> None:
    # 16 ranks on 2 nodes: of 15 peers 8 are in the other node.  A device's share of the NICs is 5 x .5 bytes/s.
    big = 15.0 * 10**9
    assert float(np.asarray(collective_s(TOY, "all_to_all", big, 15, 16, 1))) == pytest.approx(1 + 8e9 / 2.5, rel=1e-12)


def test_hybrid_cube_mesh_pairs_have_one_link_of_six() -> None:
    where = cluster("dgx-1v-32gb")
    wire = 10.0**11
    pair, all_ = (float(np.asarray(collective_s(where, "all_gather", wire, 1, n, 1))) for n in (2, 8))
    assert pair / all_ == pytest.approx(6, rel=0.01)


def test_neighbours_in_a_node_use_its_link_and_stages_of_whole_nodes_a_nic_each() -> None:
    node = replace(NODE, p2p_start_s=2.0, p2p_efficiency=0.5)
    where = Cluster(node, 16, replace(FABRIC, p2p_ramp_s_per_sqrt_byte=0.5))
    assert p2p_s(where, 100, 4) == 2 + 100 / 50
    # Four NICs of 10 bytes/s at .5 for 8 senders: 2.5 each; 100 bytes: 5 + 40 + .5 x 10.
    assert p2p_s(where, 100, 8) == 5 + 40 + 5
    assert p2p_s(where, 100, 4, num_ranks=4) == 5 + 20 + 5  # leaves the node at every other boundary; 4 senders, a NIC each
    assert p2p_s(where, 100, 1, num_ranks=16) == 5 + 20 + 5  # a message leaves by one NIC, though four are idle


def test_a_short_message_gets_few_channels_and_a_longer_one_takes_no_less_time() -> None:
    where = replace(TOY, node=replace(NODE, p2p_start_s=2.0, p2p_efficiency=0.5, p2p_narrow=FewChannels(0.1, 40.0)))
    assert [p2p_s(where, size, 1) for size in (20, 40, 100, 1000)] == [2 + 20 / 10, 2 + 4, 2 + 4, 2 + 1000 / 50]


def test_a_law_that_promises_more_than_the_link_is_clipped() -> None:
    boast = replace(TOY, node=replace(NODE, law=CollectiveLaw(0.0, 0.0, 1000.0, 1000.0, 0.0)), fabric=replace(FABRIC, efficiency=9.0))
    assert seconds(boast, "all_gather", 400, 4, 1) == 3.0  # 300 bytes at 100 bytes/s
    assert seconds(boast, "all_gather", 10.0**12, 16, 8) == pytest.approx(
        15 / 16 * 10.0**12 / 5, rel=1e-12
    )  # 40 bytes/s of NICs over 8 groups


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_value_and_arrays_of_plans_agree_in_every_bit(operation: str) -> None:
    where = cluster("dgx-a100-80gb", 128, "ib-hdr-8rail")
    rng = np.random.default_rng(1)
    wire = rng.integers(1, 10**10, 41)
    ranks, stride = 2 ** rng.integers(0, 6, 41), 2 ** rng.integers(0, 5, 41)
    together = np.asarray(collective_s(where, operation, wire, 2 * (ranks - 1), ranks, stride))
    sent = np.asarray(p2p_s(where, wire, stride, num_ranks=ranks))
    assert together.dtype == sent.dtype == np.float64
    for i in range(41):
        one = int(wire[i]), int(2 * (ranks[i] - 1)), int(ranks[i]), int(stride[i])
        assert collective_s(where, operation, *one) == together[i]
        assert p2p_s(where, one[0], one[3], num_ranks=one[2]) == sent[i]
        assert np.asarray(collective_s(where, operation, *(np.array([each]) for each in one))).tolist() == [together[i]]


def test_time_grows_with_bytes_and_with_nodes() -> None:
    for node, fabric in CATALOG:
        where = cluster(node, 64, fabric)
        for operation in OPERATIONS:
            over_bytes = np.asarray(collective_s(where, operation, 10.0 ** np.arange(12), 1, 64, 8))
            assert np.all(np.diff(over_bytes) > 0)
            nodes = 2.0 ** np.arange(2, 7)  # two nodes combine better, so from four on
            assert np.all(np.diff(np.asarray(collective_s(where, operation, 10.0**6, nodes * 8, nodes, 8))) >= 0)


def test_faults_say_the_way_out() -> None:
    alone = Cluster(NODE)
    with pytest.raises(ScenarioError, match="there is no fabric"):
        collective_s(alone, "all_reduce", 1, 1, 16, 1)
    with pytest.raises(ScenarioError, match="there is no fabric"):
        p2p_s(alone, 1, 8)
    with pytest.raises(ScenarioError, match="did you mean 'all_reduce'"):
        collective_s(TOY, "allreduce", 1, 1, 2, 1)
    with pytest.raises(ScenarioError, match="2 nodes without a fabric"):
        Cluster(NODE, 2)
    with pytest.raises(ScenarioError, match="num_nodes = 0"):
        Cluster(NODE, 0, FABRIC)


def test_an_explanation_names_the_link_that_binds_and_its_numbers() -> None:
    where = cluster("dgx-a100-80gb", 8, "ib-hdr-8rail")
    text = explain_collective(collective_price(where, "all_reduce", 1.75e9, 14, 8, 8))
    assert text.splitlines()[:2] == ["all_reduce of 8 ranks, 8 apart: 1 a node on 8 nodes", "  ib-hdr binds"]
    assert "24 GB/s reached; 8 x 25 GB/s a node, shared by 8 groups" in text
    inside = explain_collective(collective_price(where, "all_reduce", 1.75e9, 14, 8, 1))
    assert "nvlink3 binds" in inside and "ib-hdr" not in inside
    assert explain_collective(collective_price(where, "all_gather", 0, 0, 1, 1)).endswith("nothing is sent")


def test_a_node_cannot_use_more_nics_than_it_has() -> None:
    assert Cluster(replace(NODE, num_nics=2), 2, FABRIC).nics_per_node == 2
    assert Cluster(NODE, 2, replace(FABRIC, nics_per_node=1)).nics_per_node == 1
    assert Cluster(NODE).nics_per_node == 0
    assert TOY.num_devices == 128


def test_a_message_over_faster_nics_of_the_same_kind_is_not_slower() -> None:
    sizes = 10.0 ** np.arange(2, 12)
    kinds = [
        ("dgx-a100-80gb", "ib-edr"),
        ("dgx-a100-80gb", "ib-hdr-8rail"),
        ("hgx-h100-80gb", "ib-ndr-8rail"),
        ("hgx-b300", "ib-xdr-8rail"),
    ]
    seconds_of = [np.asarray(p2p_s(cluster(node, 2, fabric), sizes, 8)) for node, fabric in kinds]
    assert all(np.all(faster <= slower) for slower, faster in pairwise(seconds_of))
