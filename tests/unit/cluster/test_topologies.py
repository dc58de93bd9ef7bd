"""Every topology is a sound graph, and routing rings on it finds the link that the arithmetic says binds."""

from __future__ import annotations

import json
from importlib import import_module
from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np
import pytest
import routing
from cluster_rows import cluster, rows
from msgspec.structs import replace
from pydantic import ValidationError

from parsim.cluster import Cluster, Edge, topology
from parsim.cluster.network import binding_link, collective_s
from parsim.cluster.topologies import hybrid_cube_mesh
from parsim.errors import ParsimError, ScenarioError
from parsim.scenario.rows import SCHEMAS
from support import tiered

topology.TOPOLOGIES.discover("parsim.cluster.topologies")
SHAPES = [(n, stride) for n in (2, 4, 8, 16, 32, 64) for stride in (1, 2, 4, 8, 16) if n * stride <= 64]


def small(name: str) -> Cluster:
    """A cluster of 3 nodes that uses the topology."""
    where = cluster("dgx-a100-80gb", 3, "ib-hdr-8rail")
    assert where.fabric is not None
    if topology.TOPOLOGIES.get(name).level == "node":
        ring = tuple(Edge(each, (each + 1) % 8, 1e9) for each in range(8))
        torus = {"torus_2d": (4, 2), "torus_3d": (2, 2, 2)}.get(name, ())
        return replace(where, node=replace(where.node, topology=name, torus=torus, edges=ring if name == "custom" else ()))
    return replace(where, fabric=replace(where.fabric, topology=name))


@pytest.mark.parametrize("name", topology.TOPOLOGIES.names())
def test_every_topology_is_connected_symmetric_and_holds_each_device_once(name: str) -> None:
    graph = topology.build(small(name))
    assert routing.faults(graph) == []
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


# Each switched box or tree on one narrow and one wide fabric, and one node on every fabric.  Not the meshes with 8 rails: NCCL finds
# better rings there than the order of the devices, which the graph routes.
WIRES = ("link", "host_link", "devices_per_node", "num_nics", "topology", "law")  # of nodes with the same, one is enough
ONE_EACH = {json.dumps([row[key] for key in WIRES]): name for name, row in reversed(rows("nodes").items())}
SWITCHED = [name for name in ONE_EACH.values() if rows("nodes")[name]["topology"] in ("switched_node", "pcie_tree")]
PAIRS = {("dgx-1v-32gb", "ib-edr"), *product(SWITCHED, ("ib-edr", "ib-ndr-8rail")), *product(("hgx-h100-80gb",), rows("fabrics"))}


# Either operation on every other pair, with every other shape; the rest is slow.
ROUTES = [
    tiered((*pair, operation, k), "-".join((*pair, operation, half)), slow=(i + j) % 2 == 1 or (i // 2 + k) % 2 == 1)
    for i, pair in enumerate(sorted(PAIRS))
    for j, operation in enumerate(("all_reduce", "all_gather"))
    for k, half in enumerate(("even", "odd"))
]


@pytest.mark.parametrize("route", ROUTES)
def test_the_graph_and_the_arithmetic_agree_on_the_link_that_binds(route: tuple[str, str, str, int]) -> None:
    node, fabric, operation, half = route
    devices = rows("nodes")[node]["devices_per_node"]
    where = cluster(node, 64 // min(devices, 8), fabric)
    for ranks, stride in SHAPES[half::2]:
        if stride == 1 or stride <= devices:
            assert routing.binding_link(where, operation, ranks, stride) == binding_link(where, operation, ranks, stride), (ranks, stride)
    assert routing.binding_link(where, operation, 1, 1) == binding_link(where, operation, 1, 1) == ""


def test_both_outcomes_occur() -> None:
    h100 = cluster("hgx-h100-80gb", 8, "ib-ndr-8rail")
    assert binding_link(h100, "all_reduce", 64, 1) == "ib-ndr"
    assert binding_link(h100, "all_reduce", 16, 1) == "nvlink4"  # two nodes combine in the node: 484 GB/s there, 731 on the NICs
    assert binding_link(h100, "all_reduce", 8, 8) == "ib-ndr"
    assert binding_link(h100, "all_reduce", 8, 1) == "nvlink4"
    # An NDR NIC behind PCIe gen 4 sends no faster than its slot: 31.5 of 50 GB/s.
    assert binding_link(cluster("dgx-a100-80gb", 8, "ib-ndr-8rail"), "all_reduce", 8, 8) == "pcie4"


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
    assert "hybrid_cube_mesh, nvl72, pcie_tree, switched_node" in str(fault.value)


def test_faults_of_a_broken_graph_are_found() -> None:
    graph = import_module("networkx").DiGraph()
    graph.add_edge(1, 2, bandwidth_bytes_per_s=0.0)
    assert len(routing.faults(graph)) == 3  # two parts, no way back, no bandwidth


MADE_UP = """
from parsim.cluster.topology import TOPOLOGIES, Topology, join


def build(graph, cluster, num_nodes):
    for node in range(num_nodes):
        for device in range(cluster.node.devices_per_node):
            join(graph, ("device", node, device), ("device", node, (device + 1) % cluster.node.devices_per_node), cluster.node.link)


TOPOLOGIES.register("made_up_ring", Topology("node", build, "this test"))
"""


def test_a_topology_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made_up_topologies"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "ring.py").write_text(MADE_UP, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(topology.TOPOLOGIES, "_values", dict(topology.TOPOLOGIES._values))
    topology.TOPOLOGIES.discover("made_up_topologies")
    where = small("made_up_ring")
    assert routing.faults(topology.build(where)) == []
    # One ring of all 8; of the 4 pairs 4 apart both ways round are 4 long: 8 messages x 4 / 16 wires one way.
    shares = {(ranks, stride): share for ranks, stride, share in topology.ring_shares(where.node)}
    assert shares[8, 1] == shares[2, 1] == 1 and shares[2, 4] == pytest.approx(1 / 2)


NODE = {"base": "hgx-h100-80gb", "devices_per_node": 4, "topology": "custom"}
STAR = [{"a": device, "b": "hub", "bandwidth": "100 GB/s"} for device in range(4)]
CHAIN = [{"a": device, "b": device + 1, "bandwidth": "100 GB/s"} for device in range(3)]


def test_a_scenario_may_list_the_wires_of_its_node() -> None:
    found = SCHEMAS.get("nodes").model_validate({**NODE, "edges": CHAIN}).build("")
    assert [(edge.a, edge.b, edge.bandwidth_bytes_per_s) for edge in found.edges] == [(0, 1, 1e11), (1, 2, 1e11), (2, 3, 1e11)]
    # The ring 0 1 2 3 0 goes along the chain and back, once over each wire each way.  Pairs 2 apart, 0 2 and 1 3, meet on the middle one.
    shares = {(ranks, stride): share for ranks, stride, share in found.group_share}
    assert shares == {(4, 1): 1, (2, 1): 1, (2, 2): 0.5}
    star = SCHEMAS.get("nodes").model_validate({**NODE, "edges": STAR}).build("")
    assert set(star.group_share) == {(4, 1, 1.0), (2, 1, 1.0), (2, 2, 1.0)}
    pair, pairs = (float(np.asarray(collective_s(Cluster(found), "all_gather", 1e11, 1, 2, stride))) for stride in (1, 2))
    assert pairs / pair == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"edges": []}, "no path joins device 0 to 1, 2, 3; custom needs edges that do"),
        ({"edges": CHAIN[:2]}, "no path joins device 0 to 3; custom"),
        ({"edges": [*CHAIN, {"a": "x", "b": "y", "bandwidth": "1 GB/s"}]}, "no path joins device 0 to x, y; custom"),
        ({"edges": [*CHAIN, {"a": 2, "b": 2, "bandwidth": "1 GB/s"}]}, "the edge from 2 to itself joins nothing"),
        ({"edges": [*CHAIN, {"a": 1, "b": 0, "bandwidth": "1 GB/s"}]}, "the edge between 1 and 0 is listed twice; add up its bandwidth"),
        ({"edges": [*CHAIN, {"a": 3, "b": 4, "bandwidth": "1 GB/s"}]}, "an edge ends at device 4, but the devices are 0 to 3"),
        ({"edges": CHAIN, "topology": "switched_node"}, "edges are the wires of topology custom, not of switched_node"),
        ({"topology": "torus_2d"}, "torus_2d needs torus: the devices along 2 axes"),
        ({"topology": "torus_2d", "torus": [2, 3]}, "torus = [2, 3] holds 6 devices, not devices_per_node = 4"),
        ({"topology": "nvl72", "torus": [2, 2]}, "torus gives the axes of topology torus_2d or torus_3d, not of nvl72"),
        ({"topology": "nvl72", "devices_per_node": 73}, "nvl72 joins up to 72 devices, not 73"),
        ({"topology": "hybrid_cube_mesh", "devices_per_node": 3}, "hybrid_cube_mesh joins 1, 2, 4 or 8 devices, not 3"),
    ],
)
def test_a_node_that_cannot_be_wired_says_why(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as fault:
        SCHEMAS.get("nodes").model_validate({**NODE, **changes})
    assert sentence in str(fault.value)


def test_a_torus_of_a_wrong_size_cannot_be_drawn() -> None:
    where = small("torus_2d")
    with pytest.raises(ScenarioError, match="holds 6 devices"):
        topology.build(replace(where, node=replace(where.node, torus=(3, 2))))


@pytest.mark.parametrize("name", ["tpu-v5p-4x4x4", "trn1-32xlarge", "trn2-48xlarge", "mi300x-8", "jean-zay-v100-32gb", "gb200-tray"])
def test_nodes_of_the_catalog_are_sound_graphs_whose_devices_have_the_links_port(name: str) -> None:
    where = cluster(name)
    graph = topology.build(where)
    assert routing.faults(graph) == []
    for device in range(where.node.devices_per_node):
        port = sum(edge["bandwidth_bytes_per_s"] for _, _, edge in graph.out_edges(("device", 0, device), data=True))
        assert port == pytest.approx(where.node.link.bandwidth_bytes_per_s, rel=1e-12)
