"""The same cluster as a graph of wires: what the topologies build, and what crosses each wire when rings are routed there.

Costs never read the graph, but for the groups' shares of a custom node; tests hold network.py against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import pairwise
from typing import Any, Literal

from msgspec import Struct

from parsim.cluster.cluster import Cluster, Node
from parsim.cluster.link import Link
from parsim.errors import ScenarioError
from parsim.registry import Registry

# A networkx.DiGraph; its vertices are tuples: ("device", node, i), ("nic", node, i), ("switch", ...), ("leaf", i, rail), ("spine", i).
Graph = Any


class Topology(Struct, frozen=True):
    """How one level of a cluster is wired: `build` adds its vertices and edges to the graph."""

    level: Literal["node", "fabric"]
    build: Callable[[Graph, Cluster, int], None]  # graph, cluster, number of nodes
    source: str = ""
    fault: Callable[[Node], str] = lambda node: ""  # why a node cannot be wired so, as a sentence; "" where it can


TOPOLOGIES: Registry[Topology] = Registry("topology")


def topology(name: str, level: Literal["node", "fabric"]) -> Topology:
    """The topology of that name and level.

    Raises:
        ParsimError: an unknown name; ScenarioError: it belongs to the other level.
    """
    TOPOLOGIES.discover("parsim.cluster.topologies")
    found = TOPOLOGIES.get(name)
    if found.level != level:
        legal = ", ".join(each for each in TOPOLOGIES.names() if TOPOLOGIES.get(each).level == level)
        raise ScenarioError(f"topology '{name}' wires a {found.level}, not a {level}", where="cluster", remedy=f"Legal: {legal}.")
    return found


def join(graph: Graph, a: object, b: object, link: Link, *, lanes: float = 1.0, name: str = "") -> None:
    """Two edges, one each way, of `lanes` times the link."""
    rate = link.bandwidth_bytes_per_s * lanes
    for one, other in ((a, b), (b, a)):
        graph.add_edge(one, other, bandwidth_bytes_per_s=rate, latency_s=link.latency_s, name=name or link.name)


def build(cluster: Cluster, num_nodes: int | None = None) -> Graph:
    """The directed graph of the cluster, or of as many of its nodes as `num_nodes`; edges have bandwidth_bytes_per_s, latency_s, name.

    Raises:
        ParsimError: an unknown topology; ScenarioError: one by which the node cannot be wired.
    """
    count = cluster.num_nodes if num_nodes is None else num_nodes
    graph, wiring = import_module("networkx").DiGraph(), topology(cluster.node.topology, "node")
    if found := wiring.fault(cluster.node):
        raise ScenarioError(found, where="cluster")
    wiring.build(graph, cluster, count)
    if cluster.fabric is not None and count > 1:
        topology(cluster.fabric.topology, "fabric").build(graph, cluster, count)
    return graph


def ring_shares(node: Node) -> tuple[tuple[int, int, float], ...]:
    """(ranks, stride, share) of the groups that tile a node: the rate of their rings over that of a ring of all its devices.

    Rings follow the order of the devices, all groups at once, on an otherwise idle node.

    Source: derived; the slowest edge of the rings that are routed on the graph.
    """
    alone, devices = Cluster(node), node.devices_per_node
    graph = build(alone)

    def rate(ranks: int, stride: int) -> float:
        load = ring_load(graph, alone, ranks, 1, stride)
        return float(min(graph.edges[edge]["bandwidth_bytes_per_s"] / share for edge, share in load.items()))

    divisors = [each for each in range(1, devices + 1) if devices % each == 0]
    shapes = [(ranks, stride) for ranks in divisors[1:] for stride in divisors if devices % (ranks * stride) == 0]
    whole = rate(devices, 1) if devices > 1 else 1.0
    return tuple((ranks, stride, rate(ranks, stride) / whole) for ranks, stride in shapes)


def ring_load(graph: Graph, cluster: Cluster, inside: int, nodes: int, stride: int) -> dict[tuple[Any, Any], float]:
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
