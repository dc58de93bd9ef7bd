"""Any node: the wires that its row lists, between devices (by number) and switches (by name)."""

from importlib import import_module

from parsim.cluster.cluster import Cluster, Node
from parsim.cluster.link import Link
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
    networkx = import_module("networkx")
    reached = networkx.node_connected_component(networkx.Graph([(0, 0), *((edge.a, edge.b) for edge in node.edges)]), 0)
    missing = [str(device) for device in range(node.devices_per_node) if device not in reached]
    missing += sorted({str(each) for pair in seen for each in pair if isinstance(each, str) and each not in reached})
    return f"no path joins device 0 to {', '.join(missing[:8])}; custom needs edges that do" if missing else ""


TOPOLOGIES.register("custom", Topology("node", build, "the scenario that lists its edges", fault))
