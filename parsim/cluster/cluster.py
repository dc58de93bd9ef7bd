"""Where a step runs: nodes of devices, a fabric between them, and the seconds of what is sent.

Devices are numbered node by node.  The arithmetic of the laws stands in network.py, the graphs in topology.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from parsim import units
from parsim.cluster import network
from parsim.cluster.accelerator import Accelerator
from parsim.cluster.link import AllToAllLaw, CollectiveLaw, Edge, Link, SmallMessageLaw
from parsim.cluster.scalars import Scalar
from parsim.errors import ScenarioError

# Of a node whose row states none: one socket with 8 channels of DDR4-3200, 8 x 25.6 GB/s (JEDEC JESD79-4).  Nobody measured it.
HOST_MEMORY_BYTES_PER_S: Final = units.parse("204.8 GB/s", "bytes/s")


@dataclass(frozen=True, slots=True)
class Node:
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
    all_to_all: CollectiveLaw | None = None  # None: law
    switch_adds: bool = False  # in-switch reduction: all_reduce of more than 4 ranks may beat the link
    p2p_start_s: float | None = None  # None: the link's latency
    p2p_efficiency: float = 1.0  # of the link, for one pair
    # Share of the law's bandwidth by (ranks in the node, stride), where groups are not alike; 1 for groups that are not listed.
    group_share: tuple[tuple[int, int, float], ...] = ()
    torus: tuple[int, ...] = ()  # devices along each axis, the first the fastest; law and link are those of all axes together
    host_memory_bytes_per_s: float = HOST_MEMORY_BYTES_PER_S  # shared evenly by the devices
    edges: tuple[Edge, ...] = ()  # the wires of topology "custom"
    laws: Mapping[str, CollectiveLaw] = field(default_factory=dict)  # by operation, where one has a law of its own

    def law_of(self, operation: str) -> CollectiveLaw:
        """The law of a collective inside the node."""
        common = (self.all_to_all or self.law) if operation == "all_to_all" else self.law
        return self.laws.get(operation, common)


@dataclass(frozen=True, slots=True)
class Fabric:
    """The network between nodes, and the fitted laws of what crosses it."""

    name: str
    nic: Link
    nics_per_node: int
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
    ring_efficiency: float | None = None  # all_gather, reduce_scatter, reduce, broadcast; None: efficiency
    two_node_gain: float = 1.0  # all_reduce bandwidth of 2 whole nodes over that of more
    small: SmallMessageLaw | None = None
    all_to_all: AllToAllLaw | None = None  # None: start_s, efficiency, no ramp
    oversubscription: float = 1.0  # what the NICs of a leaf can send, over what its uplinks carry
    nodes_per_leaf: int = 32  # nodes whose NICs (of a rail) hang on one leaf


@dataclass(frozen=True, slots=True)
class Cluster:
    """Equal nodes on one fabric; a cluster of one node needs none.

    Raises:
        ScenarioError: no node, or several without a fabric.
    """

    node: Node
    num_nodes: int = 1
    fabric: Fabric | None = None

    def __post_init__(self) -> None:
        if self.num_nodes < 1:
            raise ScenarioError(f"num_nodes = {self.num_nodes}", where="cluster", remedy="A cluster has at least 1 node.")
        if self.num_nodes > 1 and self.fabric is None:
            raise ScenarioError(f"{self.num_nodes} nodes without a fabric", where="cluster", remedy="Name one, e.g. fabric: ib-hdr-8rail.")

    @property
    def num_devices(self) -> int:
        """Devices of all nodes."""
        return self.num_nodes * self.node.devices_per_node

    @property
    def nics_per_node(self) -> int:
        """NICs that a node can use: those it has, as far as the fabric connects them; 0 without a fabric."""
        return min(self.node.num_nics, self.fabric.nics_per_node) if self.fabric else 0

    def collective_s(self, operation: str, wire_bytes: Scalar, num_steps: Scalar, num_ranks: Scalar, stride: Scalar) -> Scalar:
        """Seconds of a collective that all groups like this one run at the same time.

        Groups are symmetric: while one talks, so do the others, and those of a node share its NICs evenly.

        Args:
            operation: all_reduce, all_gather, reduce_scatter, all_to_all, reduce or broadcast.
            wire_bytes: what one rank sends, by the ring: 2 (n - 1) / n of the payload for all_reduce [bytes].
            num_steps: of the algorithm, one after another: 2 (n - 1) for a ring all_reduce.
            num_ranks: ranks of the group, n; a group of 1 costs nothing.
            stride: distance in ranks between neighbours of the group, the product of the faster mesh axes.

        Returns:
            Seconds, broadcast over the arguments; never faster than the wires.

        Raises:
            ScenarioError: an unknown operation, or a group that leaves its node in a cluster without a fabric.

        Source: form fitted to public nccl-tests sweeps (rows `law` of nodes, and fabrics, in the catalog).
        """
        return network.collective_s(self, operation, wire_bytes, num_steps, num_ranks, stride)

    def p2p_s(self, payload_bytes: Scalar, stride: Scalar, *, num_ranks: Scalar = 2, senders: Scalar | None = None) -> Scalar:
        """Seconds of one message to the neighbour `stride` devices away, by the slowest hop of the chain.

        Args:
            payload_bytes: what one device sends [bytes].
            stride: distance to the receiver [devices].
            num_ranks: length of the chain of neighbours (pipeline ranks); it stays in a node while stride num_ranks devices fit.
            senders: devices of a node that send at once and share its NICs; None: min(stride, devices_per_node), one whole stage.

        Returns:
            start + payload / bandwidth + ramp sqrt(payload), broadcast over the arguments; 0 where num_ranks is 1.

        Raises:
            ScenarioError: a chain that leaves its node in a cluster without a fabric.

        Source: form fitted to public sendrecv sweeps (rows of nodes and fabrics in the catalog).
        """
        return network.p2p_s(self, payload_bytes, stride, num_ranks=num_ranks, senders=senders)

    def binding_link(self, operation: str, num_ranks: int, stride: int) -> str:
        """The name of the link that bounds a large collective: the node's link, the NIC, or "" for a group of 1."""
        return network.binding_link(self, operation, num_ranks, stride)

    def explain_collective(self, operation: str, wire_bytes: float, num_steps: int, num_ranks: int, stride: int) -> str:
        """Text, a fact a line: how the group lies on the nodes, which link binds, its numbers with their source, and the seconds."""
        return network.explain_collective(self, operation, wire_bytes, num_steps, num_ranks, stride)
