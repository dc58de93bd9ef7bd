"""A fabric in which NIC i of every node of a unit hangs on leaf i, so that equal devices of two nodes are one switch apart."""

from __future__ import annotations

from parsim.cluster.cluster import Cluster
from parsim.cluster.network import nic_port
from parsim.cluster.topologies.fat_tree import attach_nics
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology, join

NODES_PER_UNIT = 32  # of a DGX SuperPOD H100 (20 with A100)


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """NICs, a leaf for each rail of a unit, and one spine of all spines' ports; a leaf's uplinks carry what its NICs can send."""
    assert cluster.fabric is not None
    attach_nics(graph, cluster, num_nodes)
    for node in range(num_nodes):
        for nic in range(cluster.nics_per_node):
            join(graph, ("nic", node, nic), ("leaf", node // NODES_PER_UNIT, nic), nic_port(cluster.node, cluster.fabric))
    if num_nodes == 1:
        return
    for unit in range((num_nodes - 1) // NODES_PER_UNIT + 1):
        for nic in range(cluster.nics_per_node):
            join(
                graph, ("leaf", unit, nic), ("spine", 0), cluster.fabric.nic, lanes=NODES_PER_UNIT, name=f"{cluster.fabric.nic.name} uplink"
            )


TOPOLOGIES.register(
    "rail_optimised_fat_tree",
    Topology("rail_optimised_fat_tree", "fabric", build, "NVIDIA DGX SuperPOD H100 reference architecture, compute fabric"),
)
