"""Nodes of devices and the fabric between them: what a step runs on, as data.

Devices are numbered node by node, of several kinds of node group by group.  The laws are functions of network.py and price.py, the graphs
stand in topology.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from msgspec import Struct, field
from msgspec.structs import replace

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
    launch_factor: float = 1.0  # how long its host takes to launch a kernel, over what that of hgx-h100-80gb does
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


class NodeGroup(Struct, frozen=True):
    """Equal nodes of a cluster that has others, too."""

    node: Node
    num_nodes: int
    fabric: Fabric | None = None  # what joins them, where it is another than that of the cluster

    @property
    def num_devices(self) -> int:
        """Devices of all its nodes."""
        return self.num_nodes * self.node.devices_per_node


class SharedFacts(Struct, frozen=True):
    """What nodes of several kinds have alike, in place of a node: who needs what they have not asks for the node of a stage.

    Raises:
        ScenarioError: a figure that differs is asked for.
    """

    kinds: tuple[Node, ...]

    @property
    def name(self) -> str:
        """The names of all kinds."""
        return " + ".join(dict.fromkeys(each.name for each in self.kinds))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in Node.__struct_fields__:
            first, *others = (getattr(each, name) for each in self.kinds)
            if all(each == first for each in others):
                return first
        raise ScenarioError(f"this is not built for nodes of several kinds ({self.name}), whose {name} differs", where="cluster.nodes")


class DeviceRun(NamedTuple):
    """Devices side by side in nodes of one kind."""

    kind: int
    name: str  # of the node
    num_devices: int


class Cluster(Struct, frozen=True):
    """Nodes on one fabric; a cluster of one node needs none.  Sites are of as many nodes each, and have a fabric of their own.

    Nodes of several kinds stand in `groups`; then `node` is a SharedFacts, and `kinds` are clusters of equal nodes.

    Raises:
        ScenarioError: no node, or several without a fabric; no site, several without a link, or of unequal numbers of nodes.
    """

    node: Node
    num_nodes: int = 1
    fabric: Fabric | None = None
    rent: Rent | None = None  # None: nobody says
    num_sites: int = 1
    site_link: Link | None = None  # what joins a site to the others, all its devices together
    groups: tuple[NodeGroup, ...] = ()  # none: all nodes are alike
    unpriced: tuple[tuple[str, str], ...] = ()  # where nobody says what some of the nodes cost: the key that would, and the node's name

    @classmethod
    def of_groups(cls, groups: Sequence[NodeGroup], fabric: Fabric | None = None, **others: Any) -> Cluster:
        """Nodes of several kinds, of which each has as many devices.

        Raises:
            ScenarioError: some have more devices than others, or what is wrong with any cluster.
        """
        nodes, num_nodes = [each.node for each in groups], sum(each.num_nodes for each in groups)
        counts = [f'"{each.name}" has {each.devices_per_node}' for each in nodes]
        if len({each.devices_per_node for each in nodes}) > 1:
            remedy = "Use as many of each: node: {base: NAME, devices_per_node: N}."
            raise ScenarioError(f"nodes of unequal numbers of devices are not built: {', '.join(counts)}", where="cluster", remedy=remedy)
        if all(each == nodes[0] for each in nodes) and not any(each.fabric for each in groups):
            return cls(nodes[0], num_nodes, fabric, **others)
        return cls(cast(Node, SharedFacts(tuple(nodes))), num_nodes, fabric, groups=tuple(groups), **others)

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
        if self.groups and sum(each.num_nodes for each in self.groups) != self.num_nodes:
            raise ScenarioError(f"num_nodes = {self.num_nodes} is not that of its groups", where="cluster", remedy="Change the groups.")

    @property
    def kinds(self) -> tuple[Cluster, ...]:
        """As if all nodes were of one kind, for each kind that there is; itself, where they are."""
        return tuple(self._of(each) for each in self._kinds) or (self,)

    def _of(self, group: NodeGroup) -> Cluster:
        return replace(self, node=group.node, fabric=group.fabric or self.fabric, groups=())

    @property
    def _kinds(self) -> list[NodeGroup]:
        """The first group of each kind."""
        found = list[NodeGroup]()
        for group in self.groups:
            if not any(_are_alike(group, each) for each in found):
                found.append(group)
        return found

    @property
    def runs(self) -> tuple[DeviceRun, ...]:
        """All devices in order."""
        kinds = self._kinds
        found = (
            DeviceRun(next(n for n, each in enumerate(kinds) if _are_alike(group, each)), group.node.name, group.num_devices)
            for group in self.groups
        )
        return tuple(found) or (DeviceRun(0, self.node.name, self.num_devices),)

    @property
    def peak_flops_per_s(self) -> Mapping[str, float]:
        """Of each dtype that all devices multiply, the mean of their dense peaks."""
        peaks = [each.node.accelerator.peak_flops_per_s for each in self.kinds]
        shared = [dtype for dtype in peaks[0] if all(dtype in each for each in peaks)]
        return {dtype: self.mean(lambda node, dtype=dtype: node.accelerator.peak(dtype)) for dtype in shared}  # type: ignore[misc]

    @property
    def host_memory_bytes(self) -> int | None:
        """What the smallest host holds; None: nobody says."""
        sizes = [each.node.host_memory_bytes for each in self.kinds]
        known = [size for size in sizes if size is not None]
        return min(known) if len(known) == len(sizes) else None

    def mean(self, figure: Callable[[Node], float]) -> float:
        """The mean over all devices of a figure of their nodes."""
        if not self.groups:
            return figure(self.node)
        return sum(each.num_devices * figure(each.node) for each in self.groups) / self.num_devices

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


def _are_alike(one: NodeGroup, other: NodeGroup) -> bool:
    return one.node == other.node and one.fabric == other.fabric
