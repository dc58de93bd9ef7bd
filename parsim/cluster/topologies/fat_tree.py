"""A plain two-level fat tree: all NICs of a node on one leaf, whose uplinks may carry less than its NICs send."""

from __future__ import annotations

from parsim.cluster.cluster import Cluster
from parsim.cluster.network import nic_port, uplink_name
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology, join


def attach_nics(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """Each device joined to its NIC by the host link; devices that are more than the NICs share them in order."""
    nics, devices = cluster.nics_per_node, cluster.node.devices_per_node
    for node in range(num_nodes):
        for device in range(devices):
            join(graph, ("device", node, device), ("nic", node, device * nics // devices), cluster.node.host_link)


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """NICs, a leaf for as many as have ports on it, and one spine of all spines' ports."""
    assert cluster.fabric is not None
    attach_nics(graph, cluster, num_nodes)
    nics = cluster.nics_per_node
    nodes_per_leaf, port = cluster.fabric.nodes_per_leaf, nic_port(cluster.node, cluster.fabric)
    lanes = nodes_per_leaf * nics / cluster.fabric.oversubscription
    for node in range(num_nodes):
        leaf = ("leaf", node // nodes_per_leaf)
        for nic in range(nics):
            join(graph, ("nic", node, nic), leaf, port)
        if not graph.has_edge(leaf, ("spine", 0)):
            join(graph, leaf, ("spine", 0), port, lanes=lanes, name=uplink_name(cluster.fabric))


TOPOLOGIES.register("fat_tree", Topology("fat_tree", "fabric", build, "Leiserson 1985, IEEE Trans. Computers C-34(10)"))
