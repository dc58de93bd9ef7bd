"""The same cluster as a graph of wires: what the topologies build, and which wire binds a group when its rings are routed there.

Costs never read the graph: it checks the arithmetic of network.py, and figures are drawn from it.  networkx is imported when needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from math import isfinite
from typing import Any, Literal

from parsim.cluster.cluster import Cluster, Node
from parsim.cluster.link import Link
from parsim.cluster.network import nic_port, placement, rates, uplink_name, uplink_share
from parsim.errors import ScenarioError
from parsim.registry import Registry

Graph = (
    Any  # a networkx.DiGraph; its vertices are tuples: ("device", node, i), ("nic", node, i), ("switch", ...), ("leaf", i), ("spine", i)
)


@dataclass(frozen=True, slots=True)
class Topology:
    """How one level of a cluster is wired: `build` adds its vertices and edges to the graph."""

    name: str
    level: Literal["node", "fabric"]
    build: Callable[[Graph, Cluster, int], None]  # graph, cluster, number of nodes
    source: str = ""
    fault: Callable[[Node], str] = lambda node: ""  # why a node cannot be wired so, as a sentence; "" where it can


TOPOLOGIES: Registry[Topology] = Registry("topology")


def topology(name: str, level: Literal["node", "fabric"]) -> Topology:
    """The topology of that name and level.

    Raises:
        ParsimError: an unknown name; ScenarioError: it belongs to the other level.

    >>> topology("switched_node", "node").name
    'switched_node'
    """
    TOPOLOGIES.discover("parsim.cluster.topologies")
    found = TOPOLOGIES.get(name)
    if found.level != level:
        legal = ", ".join(each for each in TOPOLOGIES.names() if TOPOLOGIES.get(each).level == level)
        raise ScenarioError(f"topology '{name}' wires a {found.level}, not a {level}", where="cluster", remedy=f"Legal: {legal}.")
    return found


def join(graph: Graph, a: object, b: object, link: Link, *, lanes: float = 1.0, name: str = "") -> None:
    """Two edges, one each way, of `lanes` times the link."""
    for one, other in ((a, b), (b, a)):
        graph.add_edge(
            one, other, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * lanes, latency_s=link.latency_s, name=name or link.name
        )


def build(cluster: Cluster, num_nodes: int | None = None) -> Graph:
    """The directed graph of the cluster, or of as many of its nodes as `num_nodes`; edges have bandwidth_bytes_per_s, latency_s, name.

    Raises:
        ParsimError: an unknown topology.
    """
    networkx = import_module("networkx")

    count = cluster.num_nodes if num_nodes is None else num_nodes
    graph = networkx.DiGraph()
    topology(cluster.node.topology, "node").build(graph, cluster, count)
    if cluster.fabric is not None and count > 1:
        topology(cluster.fabric.topology, "fabric").build(graph, cluster, count)
    return graph


def faults(graph: Graph) -> list[str]:
    """What is wrong with a graph, a sentence each: parts that no path joins, one-way edges, wires without bandwidth."""
    networkx = import_module("networkx")

    found = []
    if not networkx.is_strongly_connected(graph):
        found.append(f"{networkx.number_strongly_connected_components(graph)} parts that no path joins")
    for a, b, edge in graph.edges(data=True):
        if graph.get_edge_data(b, a) != edge:
            found.append(f"{a} -> {b} differs from its opposite")
        if not edge["bandwidth_bytes_per_s"] > 0:
            found.append(f"{a} -> {b} has no bandwidth")
    return found


def binding_link(cluster: Cluster, operation: str, num_ranks: int, stride: int) -> str:
    """The name of the edges that bind a large collective when all groups' rings are routed on a small instance; "" for n = 1.

    An edge that reaches only a share of its bandwidth (the fitted laws) is as slow as that share says.  Rings follow the order of the
    devices: on a mesh without a switch that is not the best order, so there a fabric as wide as the mesh may go unseen.
    """
    inside, nodes = (int(each) for each in placement(cluster.node.devices_per_node, num_ranks, stride, cluster.num_nodes))
    if num_ranks == 1:
        return ""
    graph = build(cluster, min(nodes, 3))
    load = _ring_load(graph, cluster, inside, min(nodes, 3), stride)
    slowest: dict[str, float] = {}
    for (a, b), share in load.items():
        edge = graph.edges[a, b]
        seconds = share / (edge["bandwidth_bytes_per_s"] * _reached(cluster, operation, edge["name"], num_ranks, stride))
        slowest[edge["name"]] = max(slowest.get(edge["name"], 0.0), seconds)
    # A hair of preference for the node's own link, which the arithmetic names when both are equal.
    return max(slowest, key=lambda name: (round(slowest[name] / max(slowest.values()), 9), name == cluster.node.link.name, name))


def ring_shares(node: Node) -> tuple[tuple[int, int, float], ...]:
    """(ranks, stride, share) of the groups that tile a node: the rate of their rings over that of a ring of all its devices.

    Rings follow the order of the devices, all groups at once, on an otherwise idle node.

    Source: derived; the slowest edge of the rings that are routed on the graph.
    """
    alone, devices = Cluster(node), node.devices_per_node
    graph = build(alone)

    def rate(ranks: int, stride: int) -> float:
        load = _ring_load(graph, alone, ranks, 1, stride)
        return float(min(graph.edges[edge]["bandwidth_bytes_per_s"] / share for edge, share in load.items()))

    divisors = [each for each in range(1, devices + 1) if devices % each == 0]
    shapes = [(ranks, stride) for ranks in divisors[1:] for stride in divisors if devices % (ranks * stride) == 0]
    whole = rate(devices, 1) if devices > 1 else 1.0
    return tuple((ranks, stride, rate(ranks, stride) / whole) for ranks, stride in shapes)


def _reached(cluster: Cluster, operation: str, name: str, num_ranks: int, stride: int) -> float:
    """The share of an edge's bandwidth that the fitted laws grant a large collective there."""
    by_node, by_nic = rates(cluster, operation, num_ranks, stride)
    if name == cluster.node.link.name and isfinite(by_node):
        return by_node / cluster.node.link.bandwidth_bytes_per_s
    if cluster.fabric is None:
        return 1.0
    inside = int(placement(cluster.node.devices_per_node, num_ranks, stride)[0])
    nics = cluster.nics_per_node * nic_port(cluster.node, cluster.fabric).bandwidth_bytes_per_s
    reached = by_nic / uplink_share(cluster, operation, num_ranks, stride) * cluster.node.devices_per_node / (nics * inside)
    # Above 1 where the ranks of a node combine first: then the NIC's host link carries less than a ring's bytes, too.
    return reached if name in (nic_port(cluster.node, cluster.fabric).name, uplink_name(cluster.fabric)) else max(1.0, reached)


def _ring_load(graph: Graph, cluster: Cluster, inside: int, nodes: int, stride: int) -> dict[tuple[Any, Any], float]:
    """Of each edge, the wire bytes that cross it a wire byte of a rank, when all groups of a node run their rings at once.

    Where several paths are equally short they share the traffic evenly.
    """
    networkx = import_module("networkx")

    hops: dict[tuple[Any, Any], float] = {}
    for members in _groups(cluster.node.devices_per_node, inside, stride):
        for turn in range(inside):  # one ring a rail: each leaves the node by another of the group's devices
            ring = [("device", node, members[(turn + each) % inside]) for node in range(nodes) for each in range(inside)]
            for hop in zip(ring, ring[1:] + ring[:1], strict=True):
                hops[hop] = hops.get(hop, 0.0) + 1.0 / inside
    load: dict[tuple[Any, Any], float] = {}
    for (a, b), share in hops.items():
        paths = [list(pairwise(path)) for path in networkx.all_shortest_paths(graph, a, b, weight="latency_s")]
        for edge in (edge for path in paths for edge in path):
            load[edge] = load.get(edge, 0.0) + share / len(paths)
    return load


def _groups(devices: int, inside: int, stride: int) -> Iterator[list[int]]:
    """The members within one node of each group that has `inside` of them there, `stride` apart (or alone)."""
    apart = stride if inside > 1 else 1
    for block in range(0, devices - inside * apart + 1, inside * apart):
        for first in range(block, block + apart):
            yield [first + apart * each for each in range(inside)]
