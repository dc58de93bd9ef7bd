"""The hybrid cube mesh of DGX-1: 8 devices with 6 links each, no switch; two quads with doubled edges, joined device by device.

A part of it, a quad as in p3.8xlarge or a pair, has the links among its own devices.
"""

from parsim.cluster.cluster import Cluster, Node
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology, join

LINKS_PER_DEVICE = 6
# Links between each pair of devices, as `nvidia-smi topo -m` prints NV1 and NV2 on a DGX-1V.
LINKS = {
    **{(0, 1): 1, (0, 2): 1, (0, 3): 2, (1, 2): 2, (1, 3): 1, (2, 3): 2},
    **{(4, 5): 1, (4, 6): 1, (4, 7): 2, (5, 6): 2, (5, 7): 1, (6, 7): 2},
    **{(0, 4): 2, (1, 5): 2, (2, 6): 1, (3, 7): 1},
}


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """Each pair of devices that has links joined by as many sixths of the device's port."""
    devices = cluster.node.devices_per_node
    for node in range(num_nodes):
        graph.add_nodes_from(("device", node, device) for device in range(devices))
        for (a, b), links in LINKS.items():
            if max(a, b) < devices:
                join(graph, ("device", node, a), ("device", node, b), cluster.node.link, lanes=links / LINKS_PER_DEVICE)


def fault(node: Node) -> str:
    """Why the mesh does not join the node's devices."""
    return "" if node.devices_per_node in (1, 2, 4, 8) else f"hybrid_cube_mesh joins 1, 2, 4 or 8 devices, not {node.devices_per_node}"


SOURCE = "NVIDIA DGX-1 with Tesla V100 system architecture white paper, figure 4"
TOPOLOGIES.register("hybrid_cube_mesh", Topology("node", build, SOURCE, fault))
