"""A rack of NVLink switches (GB200 NVL72): every device has one link into each of 18 switch chips."""

from parsim.cluster.cluster import Cluster, Node
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology, join

PLANES = 18  # two chips in each of 9 switch trays
MOST_DEVICES = 72


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """Every device joined to each switch chip of its rack by an eighteenth of its port."""
    for node in range(num_nodes):
        for device in range(cluster.node.devices_per_node):
            for plane in range(PLANES):
                join(graph, ("device", node, device), ("switch", node, plane), cluster.node.link, lanes=1.0 / PLANES)


def fault(node: Node) -> str:
    """Why the rack does not hold the node's devices."""
    return f"nvl72 joins up to {MOST_DEVICES} devices, not {node.devices_per_node}" if node.devices_per_node > MOST_DEVICES else ""


TOPOLOGIES.register("nvl72", Topology("node", build, "NVIDIA GB200 NVL72 product page: 72 GPUs, 9 NVLink switch trays", fault))
