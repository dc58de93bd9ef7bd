"""Where a step runs: accelerators and their kernel laws, links, nodes, fabrics, clusters; topologies as graphs.

A cost is a fitted law of the row in the catalog, never a simulation of packets, and is clipped where a wire could not carry it.
"""

from parsim.cluster.accelerator import Accelerator, AttentionLaw, ElementwiseLaw, KernelLaw, Law
from parsim.cluster.cluster import Cluster, Fabric, Node
from parsim.cluster.efficiency import alignment, attention_s, elementwise_s, gemm_s, kernel_s
from parsim.cluster.link import AllToAllLaw, CollectiveLaw, Edge, Link, SmallMessageLaw
from parsim.cluster.network import OPERATIONS, binding_link, collective_s, p2p_s, placement
from parsim.cluster.price import Load, Price, collective_price, explain_collective, load_of, p2p_price, private_price
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
    "Load",
    "Node",
    "Price",
    "Scalar",
    "SmallMessageLaw",
    "alignment",
    "attention_s",
    "binding_link",
    "collective_price",
    "collective_s",
    "elementwise_s",
    "explain_collective",
    "gemm_s",
    "kernel_s",
    "load_of",
    "p2p_price",
    "p2p_s",
    "placement",
    "private_price",
]
