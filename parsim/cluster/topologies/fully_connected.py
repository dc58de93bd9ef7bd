"""A node without a switch in which each pair of devices has wires of its own (MI300X, Gaudi, boards of 4 V100)."""

from itertools import combinations

from parsim.cluster.cluster import Cluster
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology, join


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """Each pair of devices joined by an equal part of the devices' ports."""
    devices = cluster.node.devices_per_node
    for node in range(num_nodes):
        graph.add_nodes_from(("device", node, device) for device in range(devices))
        for a, b in combinations(range(devices), 2):
            join(graph, ("device", node, a), ("device", node, b), cluster.node.link, lanes=1.0 / (devices - 1))


TOPOLOGIES.register("fully_connected", Topology("node", build, "AMD Instinct MI300X platform data sheet: 7 links, one to each peer"))
