"""The rows of hardware: accelerators, links, nodes, fabrics.  What their figures mean stands in parsim.cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Final

from pydantic import Discriminator, Field, Tag, model_validator

from parsim.cluster import (
    OPERATIONS,
    Accelerator,
    AllToAllLaw,
    AttentionLaw,
    CollectiveLaw,
    Edge,
    ElementwiseLaw,
    Fabric,
    KernelLaw,
    Law,
    Link,
    Node,
    SmallMessageLaw,
)
from parsim.cluster.cluster import HOST_MEMORY_BYTES_PER_S
from parsim.cluster.topology import TOPOLOGIES, ring_shares
from parsim.model.op_kinds import COSTS
from parsim.scenario.fields import INLINE, NAME, Count, Known, Positive, Quantity, Row, Share, Text, complaint, name_or_inline
from parsim.scenario.inline import InlineRow, Ramp, Rate, Ratio, Seconds, resolve


def _topologies(level: str) -> tuple[str, ...]:
    """The names of the topologies of a level: node or fabric."""
    TOPOLOGIES.discover("parsim.cluster.topologies")
    return tuple(name for name in TOPOLOGIES.names() if TOPOLOGIES.get(name).level == level)


class GemmRow(Row):
    """The law of matrix multiplications."""

    efficiency: Ratio = Field(description="the share of the peak that large GEMMs reach")
    memory_efficiency: Ratio = Field(description="the share of the HBM bandwidth that GEMMs reach")
    launch: Seconds = Field(description="the seconds of an empty kernel")
    exponent: Annotated[float, Field(ge=1)] = Field(description="how sharply compute and memory time overlap: 1 adds them")

    def build(self) -> Law:
        """The law."""
        return Law(self.efficiency, self.memory_efficiency, self.launch, self.exponent)


class AttentionRow(Row):
    """The law of fused attention."""

    efficiency_by_head_dim: Annotated[dict[Annotated[int, Field(strict=False, gt=0)], Ratio], Field(min_length=1)] = Field(
        description="head_dim: the share of the peak"
    )
    launch: Seconds = Field(description="the seconds of an empty kernel")
    ramp: Annotated[float, Field(ge=0)] = Field(description="the loss by few blocks a multiprocessor")
    memory_efficiency: Ratio = Field(description="the share of the HBM bandwidth")
    backward_rate: Ratio = Field(description="the rate of the backward kernel over the forward's")


class ElementwiseRow(Row):
    """The law of kernels that only move bytes."""

    memory_efficiency: Ratio = Field(description="the share of the HBM bandwidth")
    launch: Seconds = Field(description="the seconds of an empty kernel")


class KneeRow(Row):
    """Where a call outgrows a cache."""

    beyond: Annotated[float, Quantity("bytes")] = Field(description="the bytes from which it costs more")
    bandwidth: Rate = Field(description="on top, the bytes/s of what lies beyond")


class KernelRow(Row):
    """The law of one kernel, measured by itself; a rate left out costs nothing."""

    call: Seconds = Field(description="the seconds of any call, what surrounds the kernel included")
    matrix: Seconds = Field(0.0, description="the seconds of a matrix of a batched product")
    rate: Annotated[float, Quantity("FLOP/s")] | None = Field(None, description="the FLOP/s")
    bandwidth: Rate | None = Field(None, description="the bytes/s of all that is read and written")
    written_bandwidth: Rate | None = Field(None, description="on top, the bytes/s of what is written")
    knees: Annotated[list[KneeRow], Field(max_length=10)] = Field(
        default_factory=list, description="where a call outgrows a cache: beyond and bandwidth"
    )

    def build(self) -> KernelLaw:
        """The law."""
        work, moved, written = (math.inf if rate is None else rate for rate in (self.rate, self.bandwidth, self.written_bandwidth))
        return KernelLaw(self.call, self.matrix, work, moved, written, tuple((float(knee.beyond), knee.bandwidth) for knee in self.knees))


def _kernel_laws() -> tuple[str, ...]:
    """Names of laws: a kernel's, or with what follows where it adds into its output or multiplies matrix by matrix."""
    return (*COSTS, *(f"{kernel}_add" for kernel in COSTS), "einsum_batched", "einsum_batched_add")


class AcceleratorRow(InlineRow):
    """One device."""

    kind: ClassVar[str] = "accelerators"
    hints: ClassVar[Mapping[str, str]] = {
        "memory": "hbm_capacity",
        "hbm": "hbm_capacity",
        "bandwidth": "hbm_bandwidth",
        "peak_flops": "peak",
    }
    peak: Annotated[dict[Annotated[str, Known("dtypes")], Annotated[float, Quantity("FLOP/s")]], Field(min_length=1)] = Field(
        description="dtype: its dense peak"
    )
    hbm_bandwidth: Rate = Field(description="the memory's bandwidth")
    hbm_capacity: Annotated[float, Quantity("bytes")] = Field(description="what a program can allocate")
    num_multiprocessors: Count = Field(description="the number of multiprocessors")
    gemm: GemmRow = Field(description="the law of matrix multiplications")
    attention: AttentionRow = Field(description="the law of fused attention")
    elementwise: ElementwiseRow = Field(description="the law of kernels that only move bytes")
    sustained_factor: Share = Field(1.0, description="the share of an isolated kernel's rate that training sustains")
    gemm_by_dtype: dict[Annotated[str, Known("dtypes")], GemmRow] = Field(
        default_factory=dict, description="dtype: the law of its multiplications, where it has one of its own"
    )

    kernels: dict[Annotated[str, Known("kernels", _kernel_laws)], KernelRow] = Field(
        default_factory=dict, description="kernel: its own law, where it was measured by itself"
    )
    busy_kernels: dict[Annotated[str, Known("kernels", _kernel_laws)], KernelRow] = Field(
        default_factory=dict, description="kernel: its own law while all devices of the node work; as kernels where left out"
    )
    paces: dict[Count, Seconds] = Field(
        default_factory=dict, description="number of busy cores: the seconds of calibrate's fixed work on each, when nothing slowed it"
    )

    def build(self, name: str) -> Accelerator:
        """The accelerator."""
        attention, elementwise = self.attention, self.elementwise
        return Accelerator(
            name=self.title(name),
            peak_flops_per_s=dict(self.peak),
            hbm_bandwidth_bytes_per_s=self.hbm_bandwidth,
            hbm_capacity_bytes=int(self.hbm_capacity),
            num_multiprocessors=self.num_multiprocessors,
            gemm=self.gemm.build(),
            attention=AttentionLaw(
                efficiency_by_head_dim=tuple(sorted(attention.efficiency_by_head_dim.items())),
                launch_s=attention.launch,
                ramp=attention.ramp,
                memory_efficiency=attention.memory_efficiency,
                backward_rate=attention.backward_rate,
            ),
            elementwise=ElementwiseLaw(elementwise.memory_efficiency, elementwise.launch),
            sustained_factor=self.sustained_factor,
            source=self.cited(),
            gemm_by_dtype={dtype: law.build() for dtype, law in self.gemm_by_dtype.items()},
            kernels={kernel: law.build() for kernel, law in self.kernels.items()},
            busy_kernels={kernel: law.build() for kernel, law in self.busy_kernels.items()},
            paces_s=dict(self.paces),
        )


class LinkRow(InlineRow):
    """What joins one device, or one NIC, to the others."""

    kind: ClassVar[str] = "links"
    bandwidth: Rate = Field(description="one way, all lanes together")
    latency: Seconds = Field(description="one way, of the smallest message")

    def build(self, name: str) -> Link:
        """The link."""
        return Link(self.title(name), self.bandwidth, self.latency, self.cited())


AcceleratorRef = Annotated[
    Annotated[str, Known("accelerators"), Tag(NAME)] | Annotated[AcceleratorRow, Tag(INLINE)], Discriminator(name_or_inline)
]
LinkRef = Annotated[Annotated[str, Known("links"), Tag(NAME)] | Annotated[LinkRow, Tag(INLINE)], Discriminator(name_or_inline)]


class CollectiveRow(Row):
    """The law of collectives inside a node."""

    start: Seconds = Field(description="the seconds before the first step")
    step: Seconds = Field(description="the seconds of a step")
    ring: Rate = Field(description="the bandwidth of ring collectives")
    all_reduce: Rate = Field(description="the bandwidth of all_reduce of more than 4 ranks")
    ramp: Ramp = Field(description="seconds a root byte")

    def build(self) -> CollectiveLaw:
        """The law."""
        return CollectiveLaw(self.start, self.step, self.ring, self.all_reduce, self.ramp)


class EdgeRow(Row):
    """One wire of a custom topology."""

    a: Annotated[int, Field(ge=0)] | Text = Field(description="one end: a device by its number, or a switch by any name")
    b: Annotated[int, Field(ge=0)] | Text = Field(description="the other end")
    bandwidth: Rate = Field(description="one way")


def _group(name: str, share: float) -> tuple[int, int, float]:
    """Ranks, stride and share of a group named "RANKSxSTRIDE"."""
    ranks, _, stride = name.partition("x")
    return int(ranks), int(stride), share


class NodeRow(InlineRow):
    """One box."""

    kind: ClassVar[str] = "nodes"
    accelerator: AcceleratorRef = Field(description="the devices: a name or an inline row")
    devices_per_node: Count = Field(description="the number of devices")
    link: LinkRef = Field(description="what joins the devices: a name or an inline row")
    law: CollectiveRow = Field(description="the law of collectives inside the node")
    host_link: LinkRef = Field(description="what joins a device to its host: a name or an inline row")
    host_memory_bandwidth: Rate | None = Field(None, description="of a node's host; 8 channels of DDR4-3200 where left out")
    num_nics: Annotated[int, Field(ge=0, le=1_000_000)] = Field(description="the number of NICs")
    topology: Annotated[str, Known("topology", lambda: _topologies("node"))] = Field(description="how the devices are joined")
    all_to_all: CollectiveRow | None = Field(None, description="the law of all_to_all; the law above where left out")
    switch_adds: bool = Field(False, description="whether the switch itself adds, so that all_reduce may beat the link")
    p2p_start: Seconds | None = Field(None, description="the start of a message to one neighbour; the link's latency where left out")
    p2p_efficiency: Share = Field(1.0, description="the share of the link that one pair reaches")
    group_share: dict[Annotated[str, Field(pattern=r"^[1-9]\d{0,8}x[1-9]\d{0,8}$")], Share] = Field(
        default_factory=dict, description="RANKSxSTRIDE: the share of the law's bandwidth that such a group gets"
    )
    torus: list[Count] = Field(default_factory=list, description="the devices along each axis of topology torus_2d or torus_3d")
    edges: Annotated[list[EdgeRow], Field(max_length=10_000)] = Field(
        default_factory=list, description="the wires of topology custom: a, b and bandwidth"
    )

    laws: dict[Annotated[str, Known("operations", lambda: OPERATIONS)], CollectiveRow] = Field(
        default_factory=dict, description="operation: its own law inside the node, where it was measured by itself"
    )

    @model_validator(mode="after")
    def _wired(self) -> NodeRow:
        _topologies("node")
        if self.edges and self.topology != "custom":
            raise complaint(f"edges are the wires of topology custom, not of {self.topology}")
        if self.torus and not self.topology.startswith("torus"):
            raise complaint(f"torus gives the axes of topology torus_2d or torus_3d, not of {self.topology}")
        if fault := TOPOLOGIES.get(self.topology).fault(self._built("")):
            raise complaint(fault)
        return self

    def build(self, name: str) -> Node:
        """The node; the shares of a custom topology's groups are those of its wires, unless they are given."""
        node = self._built(name)
        return replace(node, group_share=ring_shares(node)) if self.topology == "custom" and not self.group_share else node

    def _built(self, name: str) -> Node:
        return Node(
            name=self.title(name),
            accelerator=resolve("accelerators", self.accelerator),
            devices_per_node=self.devices_per_node,
            link=resolve("links", self.link),
            law=self.law.build(),
            host_link=resolve("links", self.host_link),
            num_nics=self.num_nics,
            topology=self.topology,
            source=self.cited(),
            host_memory_bytes_per_s=self.host_memory_bandwidth or HOST_MEMORY_BYTES_PER_S,
            all_to_all=self.all_to_all.build() if self.all_to_all else None,
            switch_adds=self.switch_adds,
            p2p_start_s=self.p2p_start,
            p2p_efficiency=self.p2p_efficiency,
            group_share=tuple(_group(name, share) for name, share in self.group_share.items()),
            torus=tuple(self.torus),
            edges=tuple(Edge(edge.a, edge.b, edge.bandwidth) for edge in self.edges),
            laws={operation: law.build() for operation, law in self.laws.items()},
        )


class SmallMessageRow(Row):
    """The law of all_reduce of small payloads across nodes."""

    start: Seconds = Field(description="the seconds before the first hop")
    hop: Seconds = Field(description="the seconds of a doubling of the nodes")
    bandwidth: Rate = Field(description="the bandwidth of the payload")
    ramp: Ramp = Field(description="seconds a root byte")


class AllToAllRow(Row):
    """The law of all_to_all across nodes."""

    start: Seconds = Field(description="the seconds before the first byte")
    efficiency: Share = Field(description="the share of the NICs it reaches")
    ramp: Ramp = Field(description="seconds a root byte")


class FabricRow(InlineRow):
    """The network between nodes."""

    kind: ClassVar[str] = "fabrics"
    nic: LinkRef = Field(description="a node's port into the fabric: a name or an inline row")
    nics_per_node: Count = Field(description="the NICs of a node that the fabric connects")
    topology: Annotated[str, Known("topology", lambda: _topologies("fabric"))] = Field(description="how the nodes are joined")
    efficiency: Share = Field(description="the share of the NICs that a large all_reduce reaches")
    start: Seconds = Field(description="the start of a collective")
    hop: Seconds = Field(description="the seconds of a doubling of the nodes, all_reduce")
    ring_step: Seconds = Field(description="the seconds of a further node, other collectives")
    ramp: Ramp = Field(description="seconds a root byte")
    p2p_start: Seconds = Field(description="the start of a message to one neighbour")
    p2p_efficiency: Share = Field(description="the share of a NIC that one pair reaches")
    p2p_ramp: Ramp = Field(0.0, description="seconds a root byte, one pair")
    ring_efficiency: Share | None = Field(None, description="as efficiency, of the other collectives")
    two_node_gain: Positive = Field(1.0, description="all_reduce bandwidth of 2 nodes over that of more")
    small: SmallMessageRow | None = Field(None, description="the law of all_reduce of small payloads")
    all_to_all: AllToAllRow | None = Field(None, description="the law of all_to_all")
    oversubscription: Annotated[float, Field(ge=1)] = Field(
        1.0, description="what the NICs under a leaf can send over what its uplinks carry"
    )
    nodes_per_leaf: Count = Field(32, description="the nodes whose NICs (of a rail) hang on one leaf")

    def build(self, name: str) -> Fabric:
        """The fabric."""
        small, all_to_all = self.small, self.all_to_all
        return Fabric(
            name=self.title(name),
            nic=resolve("links", self.nic),
            nics_per_node=self.nics_per_node,
            topology=self.topology,
            efficiency=self.efficiency,
            start_s=self.start,
            hop_s=self.hop,
            ring_step_s=self.ring_step,
            ramp_s_per_sqrt_byte=self.ramp,
            p2p_start_s=self.p2p_start,
            p2p_efficiency=self.p2p_efficiency,
            source=self.cited(),
            p2p_ramp_s_per_sqrt_byte=self.p2p_ramp,
            ring_efficiency=self.ring_efficiency,
            two_node_gain=self.two_node_gain,
            small=SmallMessageLaw(small.start, small.hop, small.bandwidth, small.ramp) if small else None,
            all_to_all=AllToAllLaw(all_to_all.start, all_to_all.efficiency, all_to_all.ramp) if all_to_all else None,
            oversubscription=self.oversubscription,
            nodes_per_leaf=self.nodes_per_leaf,
        )


ROW_FILE: Final = "file:"  # and a path, from the scenario's directory: a YAML file that holds the row, as `parsim calibrate` writes it
NodeRef = Annotated[
    Annotated[str, Known("nodes", prefix=ROW_FILE), Tag(NAME)] | Annotated[NodeRow, Tag(INLINE)], Discriminator(name_or_inline)
]
FabricRef = Annotated[Annotated[str, Known("fabrics"), Tag(NAME)] | Annotated[FabricRow, Tag(INLINE)], Discriminator(name_or_inline)]
