"""Every topology is a sound graph, and routing rings on it finds the link that the arithmetic says binds."""

from __future__ import annotations

from importlib import import_module
from itertools import combinations, permutations, product

import pytest
from cluster_rows import cluster, rows

from parsim.cluster import Cluster, topology
from parsim.cluster.topologies import hybrid_cube_mesh
from parsim.errors import ParsimError, ScenarioError

topology.TOPOLOGIES.discover("parsim.cluster.topologies")
SHAPES = [(n, stride) for n in (2, 4, 8, 16, 32, 64) for stride in (1, 2, 4, 8, 16) if n * stride <= 64]


def small(name: str) -> Cluster:
    """A cluster of 3 nodes that uses the topology."""
    from dataclasses import replace

    where = cluster("dgx-a100-80gb", 3, "ib-hdr-8rail")
    assert where.fabric is not None
    if topology.TOPOLOGIES.get(name).level == "node":
        return replace(where, node=replace(where.node, topology=name))
    return replace(where, fabric=replace(where.fabric, topology=name))


@pytest.mark.parametrize("name", topology.TOPOLOGIES.names())
def test_every_topology_is_connected_symmetric_and_holds_each_device_once(name: str) -> None:
    graph = topology.build(small(name))
    assert topology.faults(graph) == []
    devices = [vertex for vertex in graph if vertex[0] == "device"]
    assert sorted(devices) == [("device", node, each) for node in range(3) for each in range(8)]
    assert all(edge["latency_s"] > 0 and edge["name"] for _, _, edge in graph.edges(data=True))


@pytest.mark.parametrize("name", topology.TOPOLOGIES.names())
def test_every_device_of_every_node_looks_alike(name: str) -> None:
    graph = topology.build(small(name))
    ports = {}
    for vertex in graph:
        if vertex[0] == "device":
            ports[vertex] = sum(edge["bandwidth_bytes_per_s"] for _, _, edge in graph.out_edges(vertex, data=True))
    assert max(ports.values()) == pytest.approx(min(ports.values()), rel=1e-12)


@pytest.mark.parametrize("name", topology.TOPOLOGIES.names())
def test_no_level_of_a_fabric_is_oversubscribed(name: str) -> None:
    graph = topology.build(small(name))
    for vertex in graph:
        if vertex[0] == "leaf":
            down, up = (
                sum(
                    edge["bandwidth_bytes_per_s"] for _, other, edge in graph.out_edges(vertex, data=True) if (other[0] == "spine") is above
                )
                for above in (False, True)
            )
            assert up >= down * (1 - 1e-12)


# Not the cube mesh with 8 rails: NCCL finds better rings there than the order of the devices, which the graph routes.
@pytest.mark.parametrize(
    ("node", "fabric"), [each for each in product(rows("nodes"), rows("fabrics")) if each[0] != "dgx-1v-32gb" or each[1] == "ib-edr"]
)
@pytest.mark.parametrize("operation", ["all_reduce", "all_gather"])
def test_the_graph_and_the_arithmetic_agree_on_the_link_that_binds(node: str, fabric: str, operation: str) -> None:
    where = cluster(node, 8, fabric)
    for ranks, stride in SHAPES:
        assert topology.binding_link(where, operation, ranks, stride) == where.binding_link(operation, ranks, stride), (ranks, stride)
    assert topology.binding_link(where, operation, 1, 1) == where.binding_link(operation, 1, 1) == ""


def test_both_outcomes_occur() -> None:
    h100 = cluster("hgx-h100-80gb", 8, "ib-ndr-8rail")
    assert h100.binding_link("all_reduce", 64, 1) == "ib-ndr"
    assert h100.binding_link("all_reduce", 16, 1) == "nvlink4"  # two nodes combine in the node: 465 GB/s there, 471 on the NICs
    assert h100.binding_link("all_reduce", 8, 8) == "ib-ndr"
    assert h100.binding_link("all_reduce", 8, 1) == "nvlink4"
    # An NDR NIC behind PCIe gen 4 sends no faster than its slot: 31.5 of 50 GB/s.
    assert cluster("dgx-a100-80gb", 8, "ib-ndr-8rail").binding_link("all_reduce", 8, 8) == "pcie4"


def rings(members: tuple[int, ...], links: dict[tuple[int, ...], int]) -> int:
    """The most undirected rings (or, of two members, links) that the links between the members hold, by trying all."""
    if len(members) == 2:
        return links.get(members, 0)
    first, *others = members
    found = 0
    for order in permutations(others):
        if order[0] > order[-1]:
            continue  # the same ring the other way round
        edges = [tuple(sorted(edge)) for edge in zip((first, *order), (*order, first), strict=True)]
        if all(links.get(edge, 0) > 0 for edge in edges):
            found = max(found, 1 + rings(members, {edge: links[edge] - edges.count(edge) for edge in links}))
    return found


def test_group_shares_of_the_cube_mesh_are_the_rings_its_links_hold() -> None:
    # An undirected ring is two directed ones; a pair's link is one directed ring.  The slowest group of a shape counts.  All 8: 6 rings.
    node = cluster("dgx-1v-32gb").node
    shares = {(members, apart): share for members, apart, share in node.group_share}
    for (members, apart), share in shares.items():
        groups = [
            tuple(block + first + apart * each for each in range(members))
            for block in range(0, 8, members * apart)
            for first in range(apart)
        ]
        directed = min(
            (1 if members == 2 else 2) * rings(group, {tuple(pair): links for pair, links in hybrid_cube_mesh.LINKS.items()})
            for group in groups
        )
        assert share == pytest.approx(directed / 6, abs=1e-4)
    assert {(2, 1), (2, 2), (2, 4), (4, 1), (4, 2)} == set(shares)


def test_the_cube_mesh_uses_six_links_a_device() -> None:
    for device in range(8):
        assert sum(links for pair, links in hybrid_cube_mesh.LINKS.items() if device in pair) == hybrid_cube_mesh.LINKS_PER_DEVICE
    assert len(hybrid_cube_mesh.LINKS) == 16 < len(list(combinations(range(8), 2)))


def test_a_wrong_topology_names_the_legal_ones() -> None:
    with pytest.raises(ParsimError, match="did you mean 'fat_tree'"):
        topology.topology("fattree", "fabric")
    with pytest.raises(ScenarioError, match="wires a fabric, not a node") as fault:
        topology.topology("fat_tree", "node")
    assert "hybrid_cube_mesh, switched_node" in str(fault.value)


def test_faults_of_a_broken_graph_are_found() -> None:
    graph = import_module("networkx").DiGraph()
    graph.add_edge(1, 2, bandwidth_bytes_per_s=0.0)
    assert len(topology.faults(graph)) == 3  # two parts, no way back, no bandwidth
