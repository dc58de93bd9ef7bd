"""Where a step runs: accelerators and their kernel laws, links, nodes, fabrics, clusters; topologies as graphs.

A cost is a fitted law of the row in the catalog, never a simulation of packets, and is clipped where a wire could not carry it.
"""

from parsim.cluster.accelerator import Accelerator, AttentionLaw, ElementwiseLaw, KernelLaw, Law
from parsim.cluster.cluster import Cluster, Fabric, Node
from parsim.cluster.efficiency import alignment, attention_s, elementwise_s, gemm_s, kernel_s
from parsim.cluster.link import AllToAllLaw, CollectiveLaw, Edge, Link, SmallMessageLaw
from parsim.cluster.network import OPERATIONS, placement
from parsim.cluster.scalars import Scalar

__all__ = [
    "OPERATIONS",
    "Accelerator",
    "AllToAllLaw",
    "AttentionLaw",
    "Cluster",
    "CollectiveLaw",
    "Edge",
    "ElementwiseLaw",
    "Fabric",
    "KernelLaw",
    "Law",
    "Link",
    "Node",
    "Scalar",
    "SmallMessageLaw",
    "alignment",
    "attention_s",
    "elementwise_s",
    "gemm_s",
    "kernel_s",
    "placement",
]
