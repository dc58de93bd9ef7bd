"""What groups leave one another: axes of tori, wires of meshes and trees, and the uplinks of oversubscribed leaves."""

from __future__ import annotations

from itertools import pairwise, permutations, product

import numpy as np
import pytest
import routing
from cluster_rows import cluster, node, rows
from msgspec.structs import replace

from parsim.cluster import Cluster, topology
from parsim.cluster.network import binding_link, collective_s, p2p_s
from parsim.cluster.sharing import torus_hops, torus_share

MESHES = [name for name, row in rows("nodes").items() if row["topology"] == "fully_connected"]
TREES = [name for name, row in rows("nodes").items() if row["topology"] == "pcie_tree"]


def shares(name: str) -> dict[tuple[int, int], float]:
    return {(members, apart): share for members, apart, share in node(name).group_share}


def of_torus(torus: tuple[int, ...], ranks: int, stride: int) -> float:
    return float(torus_share(torus, np.array([float(ranks)]), np.array([float(stride)]))[0])


@pytest.mark.parametrize("name", MESHES)
def test_groups_of_a_full_mesh_use_the_wires_between_their_members(name: str) -> None:
    # All rings of a group at once, an equal part each, load each wire alike: the rate is that of the n - 1 wires of a member.
    devices = node(name).devices_per_node
    for (members, _), share in shares(name).items():
        orders = list(permutations(range(1, members)))
        through = sum((0, *order, 0)[at : at + 2] == (0, 1) for order in orders for at in range(members))
        wires = 1.0 / (through / len(orders)) if members > 2 else 1.0
        assert share == pytest.approx(wires / (devices - 1), abs=1e-4)
    assert {(2, 1), (2, 2)} <= set(shares(name))


@pytest.mark.parametrize("name", TREES)
def test_groups_of_a_pcie_box_share_the_wire_between_its_sockets(name: str) -> None:
    routed = {(members, apart): share for members, apart, share in topology.ring_shares(node(name))}
    for shape, share in routed.items():
        found = shares(name).get(shape, 1.0)
        faster = share == 1.0 < found and shape[1] == 1  # as measured: neighbours below one socket, where no wire of the graph is shared
        assert faster or found == pytest.approx(share, rel=1e-12), shape


def test_a_group_on_a_torus_has_the_links_of_the_axes_it_spans() -> None:
    cube = (4, 4, 4)
    assert of_torus(cube, 64, 1) == 1
    assert of_torus(cube, 4, 1) == of_torus(cube, 4, 4) == of_torus(cube, 4, 16) == pytest.approx(1 / 3)
    assert of_torus(cube, 16, 1) == of_torus(cube, 16, 4) == pytest.approx(2 / 3)
    # Half an axis is a line without the way back.  Every second device of an axis: two groups on the same wires.
    assert of_torus(cube, 2, 1) == pytest.approx(1 / 6)
    assert of_torus(cube, 2, 2) == pytest.approx(1 / 6)
    # Half of the first axis's neighbours and the whole second: (1 / 2 + 1) / 3.
    assert of_torus(cube, 8, 2) == pytest.approx((1 / 2 + 1) / 3)


@pytest.mark.parametrize(("torus", "stride", "ranks"), [((4, 4), 1, 4), ((4, 4), 4, 4), ((4, 4), 2, 2), ((4, 4, 4), 16, 4), ((8, 4), 2, 4)])
def test_shares_of_a_torus_axis_are_those_of_rings_routed_both_ways_on_the_graph(torus: tuple[int, ...], stride: int, ranks: int) -> None:
    base = node("tpu-v5p-4x4x4")
    devices = int(np.prod(torus))
    where = Cluster(replace(base, topology=f"torus_{len(torus)}d", torus=torus, devices_per_node=devices))
    graph, load = topology.build(where), {}
    length = ranks * stride
    groups = [[b + f + stride * i for i in range(ranks)] for b in range(0, devices, length) for f in range(stride)]
    networkx = pytest.importorskip("networkx")
    for group, way in product(groups, (1, -1)):
        ring = group[::way]
        for a, b in zip(ring, ring[1:] + ring[:1], strict=True):
            paths = list(networkx.all_shortest_paths(graph, ("device", 0, a), ("device", 0, b)))
            for path in paths:
                for edge in pairwise(path):
                    load[edge] = load.get(edge, 0.0) + 0.5 / len(paths)
    rate = min(graph.edges[edge]["bandwidth_bytes_per_s"] / share for edge, share in load.items())
    assert of_torus(torus, ranks, stride) == pytest.approx(rate / base.link.bandwidth_bytes_per_s, rel=1e-12)


def test_a_torus_gathers_in_half_the_length_of_each_axis() -> None:
    # 8 x 8 x 8: 3 axes of 8, half way round each: 12 hops instead of 511.  Part of an axis: from end to end.
    def hops(torus: tuple[int, ...], ranks: int, stride: int) -> float:
        return float(torus_hops(torus, np.array([float(ranks)]), np.array([float(stride)]))[0])

    assert hops((8, 8, 8), 512, 1) == 12
    assert hops((16, 16), 4, 1) == 3
    assert hops((4, 4, 4), 4, 16) == 2
    where = cluster("tpu-v5p-8x8x8")
    law = where.node.law
    assert float(np.asarray(collective_s(where, "all_gather", 1.0, 511, 512, 1))) == pytest.approx(law.start_s + 12e-6, rel=1e-6)


def test_tpu_v5e_gathers_as_measured() -> None:
    # 34 MB over 4 chips of an axis without wraparound: 680 us measured (jax-ml/scaling-book, sharding.md).
    where = cluster("tpu-v5e-16x16")
    assert float(np.asarray(collective_s(where, "all_gather", 0.75 * 34e6, 3, 4, 1))) == pytest.approx(680e-6, rel=0.03)


def oversubscribed(ratio: float, nodes_per_leaf: int, fabric: str = "ib-hdr-8rail") -> Cluster:
    where = cluster("dgx-a100-80gb", 8, fabric)
    assert where.fabric is not None
    return replace(where, fabric=replace(where.fabric, oversubscription=ratio, nodes_per_leaf=nodes_per_leaf))


def test_a_ring_that_leaves_its_leaf_gets_what_the_uplinks_carry() -> None:
    # Two nodes a leaf: every second hop crosses.  At 4 : 1 the uplinks of two NICs carry half a NIC, for the one flow that crosses.
    plain, crossing = oversubscribed(1.0, 2), oversubscribed(4.0, 2)
    big, steps = 1e13, 7
    slow = float(np.asarray(collective_s(crossing, "all_gather", big, steps, 8, 8)))
    assert slow / float(np.asarray(collective_s(plain, "all_gather", big, steps, 8, 8))) == pytest.approx(2, rel=1e-3)
    # A group of 2 nodes stays on its leaf; neighbours 2 nodes apart all cross: 4 times.
    assert collective_s(crossing, "all_gather", big, 1, 2, 8) == collective_s(plain, "all_gather", big, 1, 2, 8)
    apart = float(np.asarray(collective_s(crossing, "all_gather", big, 3, 4, 16)))
    assert apart / float(np.asarray(collective_s(plain, "all_gather", big, 3, 4, 16))) == pytest.approx(4, rel=1e-3)


def test_an_all_to_all_crosses_with_the_peers_of_other_leaves() -> None:
    # 8 nodes, 2 a leaf: of 7 other nodes 6 are under other leaves; 1 / (4 x 6 / 7) of the rate is left.
    plain, crossing = (np.asarray(collective_s(oversubscribed(ratio, 2), "all_to_all", 1e13, 63, 64, 1)) for ratio in (1.0, 4.0))
    assert float(crossing) / float(plain) == pytest.approx(4 * 6 / 7, rel=1e-3)


def test_a_pipeline_across_leaves_waits_for_the_uplinks() -> None:
    plain, crossing = (np.asarray(p2p_s(oversubscribed(ratio, 2), 1e12, 16, num_ranks=4)) for ratio in (1.0, 4.0))
    assert float(crossing) / float(plain) == pytest.approx(4, rel=1e-3)
    assert p2p_s(oversubscribed(4.0, 8), 1e9, 8, num_ranks=8) == p2p_s(oversubscribed(1.0, 8), 1e9, 8, num_ranks=8)


@pytest.mark.parametrize("fabric", ["ib-hdr-8rail", "ib-edr", "ib-hdr"])
@pytest.mark.parametrize(("ratio", "nodes_per_leaf"), [(1.0, 2), (1.5, 2), (3.0, 2), (3.0, 1), (8.0, 32)])
def test_the_graph_of_oversubscribed_leaves_agrees_on_what_binds(fabric: str, ratio: float, nodes_per_leaf: int) -> None:
    where = oversubscribed(ratio, nodes_per_leaf, fabric)
    for ranks, stride in ((2, 8), (4, 8), (8, 8), (16, 1), (64, 1), (8, 1), (16, 4)):
        routed = routing.binding_link(where, "all_gather", ranks, stride)
        assert routed == binding_link(where, "all_gather", ranks, stride), (ranks, stride)


def test_both_the_uplink_and_the_nic_occur() -> None:
    assert binding_link(oversubscribed(3.0, 2), "all_gather", 8, 8) == "ib-hdr uplink"
    assert binding_link(oversubscribed(3.0, 2), "all_gather", 2, 8) == "ib-hdr"
    assert binding_link(oversubscribed(1.0, 2), "all_gather", 8, 8) == "ib-hdr"


def test_an_nvl72_rack_is_one_domain_of_18_planes() -> None:
    where = cluster("gb200-nvl72", 2, "ib-ndr-72rail")
    graph = topology.build(where, 1)
    assert routing.faults(graph) == []
    ports = [edge["bandwidth_bytes_per_s"] for _, _, edge in graph.out_edges(("device", 0, 71), data=True)]
    assert len(ports) == 18 and sum(ports) == pytest.approx(900e9)
    assert routing.binding_link(where, "all_reduce", 8, 1) == binding_link(where, "all_reduce", 8, 1) == "nvlink5"
    assert routing.binding_link(where, "all_reduce", 2, 72) == binding_link(where, "all_reduce", 2, 72) == "ib-ndr"


def test_groups_that_do_not_divide_a_node_cross_the_network() -> None:
    inside, whole = cluster("dgx-a100-80gb", 1), cluster("dgx-a100-80gb", 5, "ib-hdr-8rail")
    ten_mb = 10_000_000
    five = [collective_s(each, "all_reduce", ten_mb, 8, 5, 1) for each in (inside, whole)]
    assert five[1] > five[0]  # of ranks 5 to 9, three lie on the next node
    four = [collective_s(each, "all_reduce", ten_mb, 6, 4, 1) for each in (inside, whole)]
    assert four[1] == four[0]  # two groups of four fill a node
