"""A fabric in which NIC i of every node of a unit hangs on leaf i, so that equal devices of two nodes are one switch apart."""

from __future__ import annotations

from parsim.cluster.cluster import Cluster
from parsim.cluster.network import nic_port, uplink_name
from parsim.cluster.topologies.fat_tree import attach_nics
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology, join


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """NICs, a leaf for each rail of a unit, and one spine of all spines' ports, which carry what NICs send over the oversubscription."""
    assert cluster.fabric is not None
    attach_nics(graph, cluster, num_nodes)
    unit, port = cluster.fabric.nodes_per_leaf, nic_port(cluster.node, cluster.fabric)
    for node in range(num_nodes):
        for nic in range(cluster.nics_per_node):
            join(graph, ("nic", node, nic), ("leaf", node // unit, nic), port)
    if num_nodes == 1:
        return
    lanes = unit / cluster.fabric.oversubscription
    for leaf in range((num_nodes - 1) // unit + 1):
        for nic in range(cluster.nics_per_node):
            join(graph, ("leaf", leaf, nic), ("spine", 0), port, lanes=lanes, name=uplink_name(cluster.fabric))


TOPOLOGIES.register(
    "rail_optimised_fat_tree",
    Topology("rail_optimised_fat_tree", "fabric", build, "NVIDIA DGX SuperPOD H100 reference architecture, compute fabric"),
)
