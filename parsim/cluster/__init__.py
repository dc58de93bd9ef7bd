"""Where a step runs: accelerators and their kernel laws, links, nodes, fabrics, clusters; topologies as graphs.

A cost is a fitted law of the row in the catalog, never a simulation of packets, and is clipped where a wire could not carry it.
"""

from parsim.cluster.accelerator import VOLTAGE_FOLLOWS, Accelerator, AttentionLaw, ElementwiseLaw, GroupedLaw, KernelLaw, Law
from parsim.cluster.cluster import Cluster, Fabric, Node, Rent
from parsim.cluster.link import AllToAllLaw, CollectiveLaw, Edge, FewChannels, Link, Protocol, SmallMessageLaw
from parsim.cluster.network import OPERATIONS
from parsim.cluster.storage import Storage

__all__ = ["OPERATIONS", "VOLTAGE_FOLLOWS", "Accelerator", "AttentionLaw", "Cluster", "ElementwiseLaw", "Fabric", "GroupedLaw", "KernelLaw"]
__all__ += ["AllToAllLaw", "CollectiveLaw", "Edge", "FewChannels", "Law", "Link", "Node", "Protocol", "Rent", "SmallMessageLaw", "Storage"]
