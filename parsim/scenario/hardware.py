"""The rows of hardware: accelerators, links, nodes, fabrics.  What their figures mean stands in parsim.cluster."""

from collections.abc import Mapping
from math import ceil
from typing import Annotated, Any, ClassVar, Final, Self

from msgspec.structs import replace
from pydantic import Field, model_validator

from parsim import catalog, cluster
from parsim.cluster.cluster import HOST_MEMORY_BYTES_PER_S
from parsim.cluster.topology import TOPOLOGIES, ring_shares
from parsim.scenario.fields import Fraction, Known, Natural, Positive, Quantity, Text, complaint, optional
from parsim.scenario.inline import Bytes, InlineRow, LawRow, NameOrRow, Ramp, Rate, Ratio, Seconds, figure, read
from parsim.scenario.kernel_laws import KERNEL_LAWS, AttentionRow, ElementwiseRow, GemmRow, GroupedRow, KernelRow, Speed

Dtype = Annotated[str, Known("dtypes")]


def _topologies(level: str) -> tuple[str, ...]:
    TOPOLOGIES.discover("parsim.cluster.topologies")
    return tuple(name for name in TOPOLOGIES.names() if TOPOLOGIES.get(name).level == level)


BesideOperation = Annotated[str, Known("operations", lambda: (*cluster.OPERATIONS, "shift"))]
KernelRows = dict[Annotated[str, Known("kernels", lambda: KERNEL_LAWS)], KernelRow]


class AcceleratorRow(InlineRow):
    """One device."""

    kind: ClassVar[str] = "accelerators"
    form: ClassVar[Any] = cluster.Accelerator
    hints: ClassVar[Mapping[str, str]] = {
        **{"memory": "hbm_capacity", "hbm": "hbm_capacity", "bandwidth": "hbm_bandwidth", "peak_flops": "peak"}
    }
    peak: Annotated[dict[Dtype, Speed], Field(min_length=1)] = Field(description="dtype: its dense peak")
    hbm_bandwidth: Rate = Field(description="the memory's bandwidth")
    hbm_capacity: Bytes = Field(description="what a program can allocate")
    num_multiprocessors: Natural = Field(description="the number of multiprocessors")
    gemm: GemmRow = Field(description="the law of matrix multiplications")
    attention: AttentionRow = Field(description="the law of fused attention")
    elementwise: ElementwiseRow = Field(description="the law of kernels that only move bytes")
    sustained_factor: Fraction = Field(1.0, description="the share of an isolated kernel's rate that training sustains")
    beside: dict[BesideOperation, Annotated[float, Field(ge=0, le=1)]] = optional(
        dict, "operation: the share of its time that compute beside a collective takes longer, and it by as much of compute's"
    )
    tdp: Annotated[float, Quantity("W")] | None = Field(None, description="the power it is built to draw; no energy is told where left out")
    power_limit: Annotated[float, Quantity("W")] | None = Field(
        None, description="the power it is allowed to draw (nvidia-smi -pl), at most its tdp: matmuls and attention are slower by it"
    )
    power_exponent: Annotated[float, Field(gt=0, le=1)] = Field(
        cluster.VOLTAGE_FOLLOWS,
        description="of power_limit over tdp in the share of that rate: 1/3 where voltage follows the clock, 1 at its floor",
    )
    l2: Annotated[float, Quantity("bytes", zero=True)] = Field(
        0.0, description="the cache in which activations stay, where kernels show it"
    )
    alignment: dict[Natural, Fraction] = optional(dict, "multiple: the share of the GEMM rate where it is the largest in all widths")
    gemm_by_dtype: dict[Dtype, GemmRow] = optional(dict, "dtype: the law of its multiplications, where it has one of its own")
    grouped_gemm: GroupedRow | None = Field(None, description="the law of a kernel that multiplies for all experts; by gemm where left out")
    kernels: KernelRows = optional(dict, "kernel: its own law, where it was measured by itself")
    busy_kernels: KernelRows = optional(dict, "kernel: its own law while all devices of the node work; as kernels where left out")
    paces: dict[Natural, Seconds] = optional(
        dict, "number of busy cores: the seconds of calibrate's fixed work on each, when nothing slowed it"
    )

    @model_validator(mode="after")
    def _check_limit(self) -> Self:
        if self.power_limit is not None and self.tdp is None:
            raise complaint("power_limit is a share of a design power that nobody states: give tdp beside it")
        if self.power_limit is not None and self.tdp is not None and self.power_limit > self.tdp:
            raise complaint(f"power_limit = {self.power_limit:g} W is above the {self.tdp:g} W (tdp) that the device is built to draw")
        if self.power_limit is not None and self.kernels:
            raise complaint("power_limit slows laws of compute, and kernels here were measured as they ran: leave out one of the two")
        return self

    def figures(self, name: str) -> dict[str, Any]:
        """The fields of its struct; no byte is half, and a row that starts from another stays of its kind."""
        row = name or catalog.find(self.kind, self.base)
        as_in_row = bool(row) and self.sustained_factor == catalog.row(self.kind, row).get("sustained_factor", 1.0)
        kind = {"catalog_row": row, "tuned_as": row if as_in_row else ""}
        return {**super().figures(name), **kind, "hbm_capacity_bytes": int(self.hbm_capacity)}


class LinkRow(InlineRow):
    """What joins one device, or one NIC, to the others."""

    kind: ClassVar[str] = "links"
    form: ClassVar[Any] = cluster.Link
    bandwidth: Rate = Field(description="one way, all lanes together")
    latency: Seconds = Field(description="one way, of the smallest message")
    fitted_latency: Seconds | None = Field(
        None, description="of the link that the laws were fitted on: that of the base in its place, or its own, where left out"
    )


AcceleratorRef = Annotated[str | AcceleratorRow, NameOrRow(AcceleratorRow)]
LinkRef = Annotated[str | LinkRow, NameOrRow(LinkRow)]


class ProtocolRow(LawRow):
    """Another way to send the same bytes."""

    form: ClassVar[Any] = cluster.Protocol
    start: Seconds = Field(description="the seconds before the first step")
    step: Seconds = Field(description="the seconds of a step")
    bandwidth: Rate = Field(description="the bandwidth of what a rank sends")


Protocols = Annotated[list[ProtocolRow], Field(max_length=10)]


class CollectiveRow(LawRow):
    """The law of collectives inside a node."""

    form: ClassVar[Any] = cluster.CollectiveLaw
    start: Seconds = Field(description="the seconds before the first step")
    step: Seconds = Field(description="the seconds of a step")
    ring: Rate = Field(description="the bandwidth of ring collectives")
    all_reduce: Rate = Field(description="the bandwidth of all_reduce of more than 4 ranks")
    ramp: Ramp = Field(description="seconds a root byte")
    own_chunk: Annotated[float, Field(ge=0, le=4)] = Field(
        0.0, description="the time of the chunk that a rank keeps, over that of one it sends"
    )
    small: Protocols = optional(list, "what is quicker where few bytes are sent: start, step and bandwidth")
    link: Rate | None = Field(None, description="the bandwidth of the link that it was fitted on; the node's where left out")

    def build(self) -> cluster.CollectiveLaw:
        """The law."""
        return cluster.CollectiveLaw(*(figure(each) for _, each in self))


class FewChannelsRow(LawRow):
    """What a message gets that is too short for all channels."""

    form: ClassVar[Any] = cluster.FewChannels
    efficiency: Fraction = Field(description="the share of the link")
    until: Bytes = Field(description="the longest such message")


class EdgeRow(LawRow):
    """One wire of a custom topology."""

    form: ClassVar[Any] = cluster.Edge
    a: Annotated[int, Field(ge=0)] | Text = Field(description="one end: a device by its number, or a switch by any name")
    b: Annotated[int, Field(ge=0)] | Text = Field(description="the other end")
    bandwidth: Rate = Field(description="one way")


class FittedRow(InlineRow):
    """A row of laws: a link that stands where the row's base has another knows the latency that the laws were fitted on."""

    def figures(self, name: str) -> dict[str, Any]:
        """The fields of its struct."""
        found, before = super().figures(name), catalog.row(self.kind, self.base) if self.base else {}
        for key, kind in self.refs.items():
            link = found[key]
            if kind == "links" and key in before and link and link.fitted_latency_s is None:
                found[key] = replace(link, fitted_latency_s=read(kind, before[key]).latency_s)
        return found


class NodeRow(FittedRow):
    """One box."""

    kind: ClassVar[str] = "nodes"
    form: ClassVar[Any] = cluster.Node
    refs: ClassVar[Mapping[str, str]] = {"accelerator": "accelerators", "link": "links", "host_link": "links", "nic_link": "links"}
    hints: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("host_memory", "host_ram", "ram", "cpu_memory", "cpu_ram", "system_memory"), "host_memory_capacity"
    )
    accelerator: AcceleratorRef = Field(description="the devices: a name or an inline row")
    devices_per_node: Natural = Field(description="the number of devices")
    link: LinkRef = Field(description="what joins the devices: a name or an inline row")
    law: CollectiveRow = Field(description="the law of collectives inside the node")
    host_link: LinkRef = Field(description="what joins a device to its host: a name or an inline row")
    nic_link: LinkRef | None = Field(None, description="what joins a NIC to its host: a name or an inline row; host_link where left out")
    host_memory_bandwidth: Rate | None = Field(None, description="of a node's host; 8 channels of DDR4-3200 where left out")
    host_memory_capacity: Bytes | None = Field(None, description="what a node's host holds; not checked where left out")
    launch_factor: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] = Field(
        1.0, description="how long its host takes to launch a kernel, over what that of hgx-h100-80gb does"
    )
    num_nics: Annotated[int, Field(ge=0, le=1_000_000)] = Field(description="the number of NICs")
    topology: Annotated[str, Known("topology", lambda: _topologies("node"))] = Field(description="how the devices are joined")
    all_to_all: CollectiveRow | None = Field(None, description="the law of all_to_all; the law above where left out")
    switch_adds: bool = Field(False, description="whether the switch itself adds, so that all_reduce may beat the link")
    in_switch: CollectiveRow | None = Field(None, description="the law of all_reduce of more than 4 ranks that the switch adds")
    p2p_start: Seconds | None = Field(None, description="the start of a message to one neighbour; the link's latency where left out")
    p2p_efficiency: Fraction = Field(1.0, description="the share of the link that one pair reaches")
    p2p_narrow: FewChannelsRow | None = Field(None, description="what a message gets that is too short for all channels")
    group_share: dict[Annotated[str, Field(pattern=r"^[1-9]\d{0,8}x[1-9]\d{0,8}$")], Ratio] = optional(
        dict, "RANKSxSTRIDE: the share of the law's bandwidth that such a group gets"
    )
    torus: list[Natural] = optional(list, "the devices along each axis of topology torus_2d or torus_3d")
    edges: Annotated[list[EdgeRow], Field(max_length=10_000)] = optional(list, "the wires of topology custom: a, b and bandwidth")
    usual_fabric: Annotated[str, Known("fabrics")] | None = Field(None, description="what joins such nodes where nobody names a fabric")
    laws: dict[Annotated[str, Known("operations", lambda: cluster.OPERATIONS)], CollectiveRow] = optional(
        dict, "operation: its own law inside the node, where it was measured by itself"
    )

    @classmethod
    def follow_changes(cls, row: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """A part of a node has its part of the NICs."""
        used = changes.get("devices_per_node")
        if type(used) is not int or not 0 < used < row["devices_per_node"]:
            return {}
        return {"num_nics": nics_of_part(row["num_nics"], used, row["devices_per_node"])}

    @model_validator(mode="after")
    def _check_wires(self) -> Self:
        if self.edges and self.topology != "custom":
            raise complaint(f"edges are the wires of topology custom, not of {self.topology}")
        if self.torus and not self.topology.startswith("torus"):
            raise complaint(f"torus gives the axes of topology torus_2d or torus_3d, not of {self.topology}")
        if fault := TOPOLOGIES.get(self.topology).fault(super().build("")):
            raise complaint(fault)
        return self

    def figures(self, name: str) -> dict[str, Any]:
        """The fields of its struct; a group's share goes by the numbers in its name."""
        shares = tuple((*map(int, group.split("x")), share) for group, share in self.group_share.items())
        capacity = None if self.host_memory_capacity is None else int(self.host_memory_capacity)
        host = {"host_memory_bytes_per_s": self.host_memory_bandwidth or HOST_MEMORY_BYTES_PER_S, "host_memory_bytes": capacity}
        return {**super().figures(name), "group_share": shares, **host}

    def build(self, name: str) -> cluster.Node:
        """The node; the shares of a custom topology's groups are those of its wires, unless they are given."""
        node: cluster.Node = super().build(name)
        return replace(node, group_share=ring_shares(node)) if self.topology == "custom" and not self.group_share else node


class PriceRow(InlineRow):
    """What renting a node costs."""

    kind: ClassVar[str] = "prices"
    form: ClassVar[Any] = cluster.Rent
    device_hour: Annotated[float, Quantity("USD")] = Field(description="an hour of a device, with its part of the node")


class SmallMessageRow(LawRow):
    """The law of all_reduce of small payloads across nodes."""

    form: ClassVar[Any] = cluster.SmallMessageLaw
    start: Seconds = Field(description="the seconds before the first hop")
    hop: Seconds = Field(description="the seconds of a doubling of the nodes")
    bandwidth: Rate = Field(description="the bandwidth of the payload")
    ramp: Ramp = Field(description="seconds a root byte")


class AllToAllRow(LawRow):
    """The law of all_to_all across nodes."""

    form: ClassVar[Any] = cluster.AllToAllLaw
    start: Seconds = Field(description="the seconds before the first byte")
    efficiency: Fraction = Field(description="the share of the NICs it reaches")
    ramp: Ramp = Field(description="seconds a root byte")
    in_turn: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="the share of the bytes that stay in the node for which a NIC waits"
    )


class FabricRow(FittedRow):
    """The network between nodes."""

    kind: ClassVar[str] = "fabrics"
    form: ClassVar[Any] = cluster.Fabric
    refs: ClassVar[Mapping[str, str]] = {"nic": "links"}
    nic: LinkRef = Field(description="a node's port into the fabric: a name or an inline row")
    nics_per_node: Natural | None = Field(None, description="the NICs of a node that the fabric connects; all where left out")
    topology: Annotated[str, Known("topology", lambda: _topologies("fabric"))] = Field(description="how the nodes are joined")
    efficiency: Fraction = Field(description="the share of the NICs that a large all_reduce reaches")
    start: Seconds = Field(description="the start of a collective")
    hop: Seconds = Field(description="the seconds of a doubling of the nodes, all_reduce")
    ring_step: Seconds = Field(description="the seconds of a further node, other collectives")
    ramp: Ramp = Field(description="seconds a root byte")
    p2p_start: Seconds = Field(description="the start of a message to one neighbour")
    p2p_efficiency: Fraction = Field(description="the share of a NIC that one pair reaches")
    p2p_ramp: Ramp = Field(0.0, description="seconds a root byte, one pair")
    ring_efficiency: Fraction | None = Field(None, description="as efficiency, of the other collectives")
    ring_start: Seconds = Field(0.0, description="on top of start, of the other collectives")
    ring_ramp: Ramp = Field(0.0, description="seconds a root byte, of the other collectives")
    ring_small: Protocols = optional(list, "as small, of the other collectives; a step is a further node")
    two_node_gain: Positive = Field(1.0, description="all_reduce bandwidth of 2 nodes over that of more, at most")
    gain_nodes: Natural = Field(2, description="the nodes up to which combining in a node first gains all_reduce bandwidth")
    all_reduce_nics: Natural | None = Field(None, description="the NICs of a node that an all_reduce uses; all where left out")
    all_reduce_ring_step: Seconds | None = Field(
        None, description="the seconds of a further node of an all_reduce along a ring, each way; no such rings where left out"
    )
    small: SmallMessageRow | None = Field(None, description="the law of all_reduce of small payloads")
    all_to_all: AllToAllRow | None = Field(None, description="the law of all_to_all")
    oversubscription: Annotated[float, Field(ge=1)] = Field(
        1.0, description="what the NICs under a leaf can send over what its uplinks carry"
    )
    nodes_per_leaf: Natural = Field(32, description="the nodes whose NICs (of a rail) hang on one leaf")


def nics_of_part(num_nics: int, used: int, devices: int) -> int:
    """NICs of the first `used` of a node's devices: their share, rounded up."""
    return ceil(num_nics * used / devices)


ROW_FILE: Final = "file:"  # and a path, from the scenario's directory: a YAML file that holds the row, as `parsim calibrate` writes it
NodeRef = Annotated[str | NodeRow, NameOrRow(NodeRow, prefix=ROW_FILE)]
FabricRef = Annotated[str | FabricRow, NameOrRow(FabricRow, prefix=ROW_FILE)]


class SiteLinkRow(LawRow):
    """What joins a site to the others, all its devices together."""

    bandwidth: Rate = Field(description="one way, of all that a site sends to others")
    latency: Seconds = Field(description="one way, half of a round trip")

    def build(self) -> cluster.Link:
        """The link, which is in no catalog."""
        return cluster.Link("link between sites", self.bandwidth, self.latency, "stated in the scenario")
