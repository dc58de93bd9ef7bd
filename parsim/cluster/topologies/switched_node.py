"""A node whose devices hang on one non-blocking switch (NVSwitch)."""

from parsim.cluster.cluster import Cluster
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology, join


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """Every device joined to its node's switch by the node's link."""
    for node in range(num_nodes):
        for device in range(cluster.node.devices_per_node):
            join(graph, ("device", node, device), ("switch", node), cluster.node.link)


TOPOLOGIES.register("switched_node", Topology("node", build, "NVIDIA DGX A100 and DGX H100 system architecture"))
