"""What a graph of wires says of a cluster: whether it is sound, and which wire binds a group whose rings are routed on it."""

from __future__ import annotations

from importlib import import_module
from math import isfinite

from parsim.cluster.cluster import Cluster
from parsim.cluster.network import placement, rates, uplink_name, uplink_share
from parsim.cluster.ports import nic_port
from parsim.cluster.topology import Graph, build, ring_load


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
    load = ring_load(graph, cluster, inside, min(nodes, 3), stride)
    slowest: dict[str, float] = {}
    for (a, b), share in load.items():
        edge = graph.edges[a, b]
        seconds = share / (edge["bandwidth_bytes_per_s"] * reached(cluster, operation, edge["name"], num_ranks, stride))
        slowest[edge["name"]] = max(slowest.get(edge["name"], 0.0), seconds)
    # A hair of preference for the node's own link, which the arithmetic names when both are equal.
    return max(slowest, key=lambda name: (round(slowest[name] / max(slowest.values()), 9), name == cluster.node.link.name, name))


def reached(cluster: Cluster, operation: str, name: str, num_ranks: int, stride: int) -> float:
    """The share of an edge's bandwidth that the fitted laws grant a large collective there."""
    (by_node,), (by_nic,) = rates(cluster, operation, num_ranks, stride)
    if name == cluster.node.link.name and isfinite(by_node):
        return by_node / cluster.node.link.bandwidth_bytes_per_s
    if cluster.fabric is None:
        return 1.0
    inside = int(placement(cluster.node.devices_per_node, num_ranks, stride)[0])
    nics = cluster.nics_per_node * nic_port(cluster.node, cluster.fabric).bandwidth_bytes_per_s
    reached = by_nic / uplink_share(cluster, operation, num_ranks, stride) * cluster.node.devices_per_node / (nics * inside)
    # Above 1 where the ranks of a node combine first: then the NIC's host link carries less than a ring's bytes, too.
    return reached if name in (nic_port(cluster.node, cluster.fabric).name, uplink_name(cluster.fabric)) else max(1.0, reached)
