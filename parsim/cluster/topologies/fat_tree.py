"""A plain two-level fat tree: all NICs of a node on one leaf, whose uplinks may carry less than its NICs send."""

from parsim.cluster.cluster import Cluster
from parsim.cluster.network import uplink_name
from parsim.cluster.ports import nic_port
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology, join


def join_leaves(graph: Graph, cluster: Cluster, num_nodes: int, rails: int) -> None:
    """Devices joined to their NICs, the NICs of a rail to a leaf of as many nodes as have ports on it, the leaves to one spine of all.

    Devices that are more than the NICs share them in order, and NICs the rails in turn.
    """
    assert cluster.fabric is not None
    node, nics, unit = cluster.node, cluster.nics_per_node, cluster.fabric.nodes_per_leaf
    port, lanes = nic_port(node, cluster.fabric), unit * nics / rails / cluster.fabric.oversubscription
    for each in range(num_nodes):
        for device in range(node.devices_per_node):
            join(graph, ("device", each, device), ("nic", each, device * nics // node.devices_per_node), node.host_link)
        for nic in range(nics):
            leaf = ("leaf", each // unit, nic % rails)
            join(graph, ("nic", each, nic), leaf, port)
            join(graph, leaf, ("spine", 0), port, lanes=lanes, name=uplink_name(cluster.fabric))


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """All NICs of a node on one leaf."""
    join_leaves(graph, cluster, num_nodes, 1)


TOPOLOGIES.register("fat_tree", Topology("fabric", build, "Leiserson 1985, IEEE Trans. Computers C-34(10)"))
