"""The links that a communication loads, and how much of each: a price, placed on the cluster by the pipeline rank that pays it.

A pipeline rank stands for its copies, and its first copy is placed: it sends through its own port, and the NICs of its node carry the
traffic of all devices that the stage has there.  A price is split here into what comes before sharing and what is shared, never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from msgspec import Struct

from parsim.cluster.cluster import Cluster
from parsim.cluster.network import uplink_name
from parsim.cluster.ports import device_nic_rate, fabric_of, nic_port
from parsim.cluster.price import Load, Price, load_of
from parsim.cluster.sites import site_link_of
from parsim.cost.buckets import Held
from parsim.cost.cost_model import CostModel
from parsim.cost.sizes import Sizes
from parsim.cost.timing import send_price, task_price
from parsim.parallel.group import Group
from parsim.simulator.program import Program, StreamItem, one
from parsim.step.task import COMPUTE_STREAM, Collective, Compute, Send, runs_beside

_TRUNKS: Final = ("pcie_tree", "custom")  # node topologies whose devices share wires; in the others each has a port of its own


class LinkAt(NamedTuple):
    """A link as the trace names it."""

    name: str
    place: str


class Leg(NamedTuple):
    """One collective or message as its links see it: what it pays before it shares, and what it loads while it is at full rate."""

    latency_ps: int
    transfer_ps: int
    bytes_per_s: float  # of each sender, where its traffic is narrowest: what fairness compares
    loads: tuple[tuple[LinkAt, float], ...]  # shares of links' capacity, symmetric siblings included; at most 1
    device: LinkAt | None = None  # whose kernels run beside it, if either costs the other anything
    cost: float = 0.0  # `a` of cost/beside.py; of a kernel 0

    @property
    def wires(self) -> tuple[LinkAt, ...]:
        """Where it may meet others: links, and its device."""
        return (*(wire for wire, _ in self.loads), *((self.device,) if self.device else ()))

    def costs_beside(self, other: Leg) -> float:
        """The share by which it takes longer beside another, of which one is a collective and one a kernel of the same device."""
        meet = self.device and self.device == other.device and bool(self.cost) != bool(other.cost)
        return self.cost + other.cost if meet else 0.0


class Placement(Struct, frozen=True):
    """Where the devices of each pipeline rank lie; stage r takes the devices whose number // stride is r modulo the ranks."""

    cluster: Cluster
    num_ranks: int  # of the pipeline
    stride: int  # between neighbours of a pipeline [devices]
    used_devices: int  # of the cluster, the first ones
    nodes: tuple[int, ...] = ()  # the kind of node of each rank; none: all are alike

    def cluster_at(self, rank: int) -> Cluster:
        """As if all nodes were of the kind on which a rank lies."""
        return self.cluster.kinds[self.nodes[rank]] if self.nodes else self.cluster

    def leg(self, rank: int, to: int | None, price: Price, load: Load | None = None) -> Leg | None:
        """How a communication loads links, from the pipeline rank that pays to the one that a message goes `to`; `load`: where it is known.

        None goes nowhere: a collective within the stage of `rank`.  The leg's picoseconds add up to those of the price, which is
        of one plan; a price of 0 has no leg.
        """
        (ps,), one, to = price.ps.tolist(), load or load_of(price), rank if to is None else to
        port, nic = one.port_bytes_per_s.item(), one.nic_bytes_per_s.item()
        if not port and not nic:
            return Leg(ps, 0, 0.0, ()) if ps else None
        if nic and to != rank and self._node(rank) == self._node(to):
            port, nic = nic, 0.0  # priced as the slowest hop of its chain
        own = price.cluster
        loads = (*(self._port_loads(rank, to, port, one) if port else ()), *(self._nic_loads(rank, to, one, own) if nic else ()))
        full = tuple((wire, min(part, 1.0)) for wire, part in loads)
        return Leg(one.latency_ps.item(), one.transfer_ps.item(), one.site_bytes_per_s.item() or nic or port, full)

    def _port_loads(self, rank: int, to: int, port_bytes_per_s: float, one: Load) -> Iterator[tuple[LinkAt, float]]:
        """The node's wires on the way, with the share of each that is taken at full rate."""
        node = self.cluster_at(rank).node
        if node.topology in _TRUNKS:
            yield LinkAt(node.link.name, f"node {self._node(rank)}"), one.wires_share.item() * self._in_node(rank)
            return
        for end, way in ((rank, "out"), (to, "in")):
            link = self.cluster_at(end).node.link
            yield LinkAt(link.name, f"stage {end} {way}"), port_bytes_per_s / link.bandwidth_bytes_per_s

    def _nic_loads(self, rank: int, to: int, one: Load, priced_on: Cluster) -> Iterator[tuple[LinkAt, float]]:
        """NICs, uplinks and links of sites on the way, out of the sender's node and into the receiver's."""
        crossing = one.crossing.item()
        leaves_site = one.site_share.item() if rank == to or self._site(rank) != self._site(to) else 0.0
        for end, way in ((rank, "out"), (to, "in")):
            cluster, share = self.cluster_at(end), one.nic_share.item()
            fabric = fabric_of(cluster)
            if cluster != priced_on:  # the NICs of the other end carry as many bytes a second
                share *= device_nic_rate(priced_on, fabric_of(priced_on)) / device_nic_rate(cluster, fabric)
            yield LinkAt(nic_port(cluster.node, fabric).name, f"node {self._node(end)} {way}"), share * self._in_node(end)
            if leaves_site:
                sending = self._part(end, self._site(end), self.cluster.devices_per_site)
                yield LinkAt(site_link_of(self.cluster).name, f"site {self._site(end)} {way}"), leaves_site * sending
            if fabric.oversubscription > 1.0 and crossing:
                leaf = self._node(end) // fabric.nodes_per_leaf
                sending = self._part(end, leaf, self.cluster.node.devices_per_node * fabric.nodes_per_leaf)
                yield LinkAt(uplink_name(fabric), f"leaf {leaf} {way}"), share * crossing * fabric.oversubscription * sending

    def _node(self, rank: int) -> int:
        """Where the first copy of a pipeline rank lies."""
        return rank * self.stride // self.cluster.node.devices_per_node

    def _site(self, rank: int) -> int:
        return rank * self.stride // self.cluster.devices_per_site

    def _in_node(self, rank: int) -> float:
        return self._part(rank, self._node(rank), self.cluster.node.devices_per_node)

    def _part(self, rank: int, block: int, size: int) -> float:
        """The part of a block of so many devices that belongs to a pipeline rank."""
        devices = range(block * size, min((block + 1) * size, self.used_devices))
        return sum(device // self.stride % self.num_ranks == rank for device in devices) / size


class Legs:
    """The legs of all communications of one plan, each worked out once."""

    def __init__(self, program: Program) -> None:
        w, self.program = program.workload, program
        places = w.num_ranks, one(w.sizes.stride(Group(("pp",)))), one(w.sizes.num_devices)
        self.placement = Placement(w.model.cluster, *places, tuple(w.shape.nodes.tolist()) if w.model.cluster.groups else ())
        self.devices = [self.placement.cluster_at(rank).node.accelerator for rank in range(w.num_ranks)]
        self._found: dict[tuple[int, int, int | None], Leg | None] = {}
        # By the identities of a task and of what its payer holds, whether it goes to another site, and the kinds of node at its ends.
        self._priced: dict[tuple[int, int, bool, tuple[int, ...]], tuple[Price, Load]] = {}

    def of(self, item: StreamItem, rank: int, row: int | None) -> Leg | None:
        """What an item of a rank loads; kernels no link, but their device."""
        if isinstance(item.task, Collective | Send):
            return self.leg(item.task, rank, row)
        return Leg(0, item.ps, 0.0, (), self._device(rank))

    def leg(self, task: Collective | Send, rank: int, row: int | None) -> Leg | None:
        """How a communication of a rank loads links: of an action (its row), or of the step's end, which is over all that a rank holds."""
        workload, columns = self.program.workload, self.program.columns
        to = None
        if row is not None and isinstance(task, Send):
            sender = self.program.sender(row, task)
            to = workload.neighbour(int(columns.stage[sender]), workload.phases[columns.phase[sender]])
        if (key := (id(task), rank, to)) not in self._found:
            held = self.program.held_by_payer(task, rank) if row is None else None
            far = isinstance(task, Send) and row is not None and self.program.far_ps(row, task)[1] > 0
            there = None if to is None else workload.rank_of(to)
            ends = (rank, *self.program.members(task, rank)) if row is None else (rank,) if there is None else (rank, there)
            leg = self.placement.leg(rank, there, *self._price(task, held, ends, far=far))
            if leg and runs_beside(task) and (cost := self.devices[rank].beside.get(task.operation)):
                leg = leg._replace(device=self._device(rank), cost=cost)
            self._found[key] = leg
        return self._found[key]

    def may_meet(self, item: StreamItem) -> bool:
        """Whether it may meet others on links or, as kernels that collectives cost something, on its device."""
        is_kernel = isinstance(item.task, Compute) and item.stream == COMPUTE_STREAM
        return isinstance(item.task, Collective | Send) or (is_kernel and any(each.beside for each in self.devices))

    def _device(self, rank: int) -> LinkAt:
        return LinkAt(self.devices[rank].name, f"stage {rank}")

    def _price(self, task: Collective | Send, held: Held, ends: Iterable[int], *, far: bool) -> tuple[Price, Load]:
        """By the slowest of the nodes at its ends."""
        nodes = tuple(dict.fromkeys(map(self.program.workload.node_of, ends)))
        if (key := (id(task), id(held), far, nodes)) not in self._priced:
            w = self.program.workload
            each = [_price_on(task, w.sizes, w.model.on(node), held, far=far) for node in nodes]
            price = max(each, key=lambda price: one(price.ps))
            self._priced[key] = price, load_of(price)
        return self._priced[key]


def _price_on(task: Collective | Send, sizes: Sizes, model: CostModel, held: Held, *, far: bool) -> Price:
    return send_price(task, sizes, model, between_sites=True) if far and isinstance(task, Send) else task_price(task, sizes, model, held)
