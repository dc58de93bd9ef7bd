"""A box of PCIe cards: half of them under each of two CPU sockets, and one link's worth between the sockets."""

from parsim.cluster.cluster import Cluster
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology, join

SOCKETS = 2


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """Every device joined to its socket's root complex, and the roots to each other, by the node's link."""
    devices = cluster.node.devices_per_node
    sockets = min(SOCKETS, devices)
    for node in range(num_nodes):
        for device in range(devices):
            join(graph, ("device", node, device), ("root", node, device * sockets // devices), cluster.node.link)
        for root in range(1, sockets):
            join(graph, ("root", node, 0), ("root", node, root), cluster.node.link)


SOURCE = "two-socket GPU servers; `nvidia-smi topo -m` prints NODE and SYS for the two hops"
TOPOLOGIES.register("pcie_tree", Topology("node", build, SOURCE))
