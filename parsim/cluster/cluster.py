"""Nodes of devices and the fabric between them: what a step runs on, as data.

Devices are numbered node by node.  The laws are functions of network.py and price.py, the graphs stand in topology.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field

from parsim import units
from parsim.cluster.accelerator import Accelerator
from parsim.cluster.link import AllToAllLaw, CollectiveLaw, Edge, FewChannels, Link, Protocol, SmallMessageLaw
from parsim.errors import ScenarioError

# Of a node whose row states none: one socket with 8 channels of DDR4-3200, 8 x 25.6 GB/s (JEDEC JESD79-4).  Nobody measured it.
HOST_MEMORY_BYTES_PER_S: Final = units.parse("204.8 GB/s", "bytes/s")


class Node(Struct, frozen=True):
    """One box: equal devices, what joins them, and the fitted law of their collectives."""

    name: str
    accelerator: Accelerator
    devices_per_node: int
    link: Link  # a device's port into the node
    law: CollectiveLaw
    host_link: Link
    num_nics: int
    topology: str  # a node topology, e.g. "switched_node"
    source: str = ""
    nic_link: Link | None = None  # what joins a NIC to its host; None: as a device, host_link
    all_to_all: CollectiveLaw | None = None  # None: law
    switch_adds: bool = False  # in-switch reduction: all_reduce of more than 4 ranks may beat the link
    in_switch: CollectiveLaw | None = None  # of all_reduce that the switch adds; None: `law` states its bandwidth too
    p2p_start_s: float | None = None  # None: the link's latency
    p2p_efficiency: float = 1.0  # of the link, for one pair
    p2p_narrow: FewChannels | None = None  # None: a message of any size gets p2p_efficiency
    # Share of the law's bandwidth by (ranks in the node, stride), where groups are not alike; 1 for groups that are not listed.
    group_share: tuple[tuple[int, int, float], ...] = ()
    torus: tuple[int, ...] = ()  # devices along each axis, the first the fastest; law and link are those of all axes together
    host_memory_bytes_per_s: float = HOST_MEMORY_BYTES_PER_S  # shared evenly by the devices
    host_memory_bytes: int | None = None  # what its host holds; None: nobody says
    edges: tuple[Edge, ...] = ()  # the wires of topology "custom"
    usual_fabric: str | None = None  # the row of what joins such nodes where nobody names a fabric
    laws: Mapping[str, CollectiveLaw] = field(default_factory=dict)  # by operation, where one has a law of its own

    def law_of(self, operation: str) -> CollectiveLaw:
        """The law of a collective inside the node."""
        common = (self.all_to_all or self.law) if operation == "all_to_all" else self.law
        return self.laws.get(operation, common)


class Fabric(Struct, frozen=True):
    """The network between nodes, and the fitted laws of what crosses it."""

    name: str
    nic: Link
    nics_per_node: int | None  # None: all that a node has
    topology: str  # a fabric topology, e.g. "rail_optimised_fat_tree"
    efficiency: float  # share of the NICs that a large all_reduce reaches, as bus bandwidth
    start_s: float
    hop_s: float  # all_reduce, by log2 of the nodes
    ring_step_s: float  # the other ring collectives, by node
    ramp_s_per_sqrt_byte: float
    p2p_start_s: float
    p2p_efficiency: float
    source: str = ""
    p2p_ramp_s_per_sqrt_byte: float = 0.0
    ring_start_s: float = 0.0  # all_gather, reduce_scatter, reduce, broadcast, on top of start
    ring_efficiency: float | None = None  # of the same; None: efficiency
    ring_ramp_s_per_sqrt_byte: float = 0.0  # of the same
    ring_small: tuple[Protocol, ...] = ()  # of the same; a step is a further node
    two_node_gain: float = 1.0  # all_reduce bandwidth of 2 whole nodes over that of more, at most
    gain_nodes: int = 2  # up to how many nodes combining first gains
    all_reduce_nics: int | None = None  # of a node that an all_reduce uses; None: all
    small: SmallMessageLaw | None = None
    all_reduce_ring_step_s: float | None = None  # a further node of an all_reduce along a ring, each way; None: it goes by trees alone
    all_to_all: AllToAllLaw | None = None  # None: start_s, efficiency, no ramp
    oversubscription: float = 1.0  # what the NICs of a leaf can send, over what its uplinks carry
    nodes_per_leaf: int = 32  # nodes whose NICs (of a rail) hang on one leaf


class Rent(Struct, frozen=True):
    """What a device costs an hour, with its part of the node."""

    name: str
    device_hour_usd: float
    source: str = ""


class Cluster(Struct, frozen=True):
    """Equal nodes on one fabric; a cluster of one node needs none.  Sites are of as many nodes each, and have a fabric of their own.

    Raises:
        ScenarioError: no node, or several without a fabric; no site, several without a link, or of unequal numbers of nodes.
    """

    node: Node
    num_nodes: int = 1
    fabric: Fabric | None = None
    rent: Rent | None = None  # None: nobody says
    num_sites: int = 1
    site_link: Link | None = None  # what joins a site to the others, all its devices together

    def __post_init__(self) -> None:
        if type(self.num_nodes) is not int or self.num_nodes < 1:
            raise ScenarioError(f"num_nodes = {self.num_nodes!r}", where="cluster", remedy="A cluster has at least 1 node.")
        if self.num_nodes > 1 and self.fabric is None:
            remedy = "Name one that `parsim list fabrics` has, as cluster.fabric or --fabric."
            raise ScenarioError(f"{self.num_nodes} nodes without a fabric", where="cluster", remedy=remedy)
        if type(self.num_sites) is not int or self.num_sites < 1:
            raise ScenarioError(f"num_sites = {self.num_sites!r}", where="cluster", remedy="A cluster has at least 1 site.")
        if self.num_nodes % self.num_sites:
            remedy = "Each site has as many nodes as the others."
            raise ScenarioError(f"{self.num_nodes} nodes are no multiple of the {self.num_sites} sites", where="cluster", remedy=remedy)
        if self.num_sites > 1 and self.site_link is None:
            remedy = "Say what joins a site to the others: site_link: {bandwidth: 800 Gb/s, latency: 5 ms}."
            raise ScenarioError(f"{self.num_sites} sites without a link", where="cluster", remedy=remedy)

    @property
    def num_devices(self) -> int:
        """Devices of all nodes."""
        return self.num_nodes * self.node.devices_per_node

    @property
    def nodes_per_site(self) -> int:
        """Nodes of each site."""
        return self.num_nodes // self.num_sites

    @property
    def devices_per_site(self) -> int:
        """Devices of each site."""
        return self.nodes_per_site * self.node.devices_per_node

    @property
    def nics_per_node(self) -> int:
        """NICs that a node can use: those it has, as far as the fabric connects them; 0 without a fabric."""
        if self.fabric is None:
            return 0
        return min(self.node.num_nics, self.fabric.nics_per_node or self.node.num_nics)
