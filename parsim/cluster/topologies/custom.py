"""Any node: the wires that its row lists, between devices (by number) and switches (by name)."""

from __future__ import annotations

from collections.abc import Iterable

from parsim.cluster.cluster import Cluster, Node
from parsim.cluster.link import Edge, Link
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology, join


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """The listed edges in every node, with the latency of the node's link."""
    link = cluster.node.link
    for node in range(num_nodes):
        for edge in cluster.node.edges:
            a, b = (("device" if isinstance(each, int) else "switch", node, each) for each in (edge.a, edge.b))
            join(graph, a, b, Link(link.name, edge.bandwidth_bytes_per_s, link.latency_s))


def fault(node: Node) -> str:
    """What is wrong with the list of edges: none, a loop, a pair named twice, a device that is not there, or parts that no path joins."""
    seen: set[frozenset[int | str]] = set()
    for edge in node.edges:
        pair = frozenset((edge.a, edge.b))
        if edge.a == edge.b:
            return f"the edge from {edge.a} to itself joins nothing"
        if pair in seen:
            return f"the edge between {edge.a} and {edge.b} is listed twice; add up its bandwidth"
        seen.add(pair)
        for each in pair:
            if isinstance(each, int) and not 0 <= each < node.devices_per_node:
                return f"an edge ends at device {each}, but the devices are 0 to {node.devices_per_node - 1}"
    reached = _reached(0, node.edges)
    missing = [str(device) for device in range(node.devices_per_node) if device not in reached]
    missing += sorted({str(each) for pair in seen for each in pair if isinstance(each, str) and each not in reached})
    return f"no path joins device 0 to {', '.join(missing[:8])}; custom needs edges that do" if missing else ""


def _reached(start: int, edges: Iterable[Edge]) -> set[int | str]:
    """Everything that a path of edges joins to `start`."""
    near: dict[int | str, set[int | str]] = {}
    for edge in edges:
        near.setdefault(edge.a, set()).add(edge.b)
        near.setdefault(edge.b, set()).add(edge.a)
    found: set[int | str] = {start}
    waiting: list[int | str] = [start]
    while waiting:
        new = near.get(waiting.pop(), set()) - found
        found |= new
        waiting.extend(new)
    return found


TOPOLOGIES.register("custom", Topology("custom", "node", build, "the scenario that lists its edges", fault))
