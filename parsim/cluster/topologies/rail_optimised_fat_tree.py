"""A fabric in which NIC i of every node of a unit hangs on leaf i, so that equal devices of two nodes are one switch apart."""

from parsim.cluster.cluster import Cluster
from parsim.cluster.topologies.fat_tree import join_leaves
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """A rail for each NIC of a node."""
    join_leaves(graph, cluster, num_nodes, cluster.nics_per_node)


TOPOLOGIES.register("rail_optimised_fat_tree", Topology("fabric", build, "NVIDIA DGX SuperPOD H100 reference architecture, compute fabric"))
