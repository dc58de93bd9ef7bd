"""Which links a communication loads, and how much of each: the cluster is overheard while timing prices it.

A pipeline rank stands for its copies, so its first one is placed: it sends through its own port, and its node's NICs carry the traffic of
all devices that the stage has there.  A price is only split here, into what comes before sharing and what is shared, never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import Final, NamedTuple

import numpy as np

from parsim.cluster import network as laws
from parsim.cluster.cluster import Cluster, Fabric
from parsim.cluster.network import nic_port, placement, rates, uplink_name
from parsim.cluster.scalars import Scalar
from parsim.cluster.sharing import ring_crossing
from parsim.errors import PlanError
from parsim.simulator.network import Leg, Wire
from parsim.simulator.program import Program
from parsim.step import timing
from parsim.step.sizes import Ints
from parsim.step.task import Communicate
from parsim.step.timing import Market, finish_ps, picoseconds, task_ps

_PS_PER_S: Final = 1e12
_MESSAGE: Final = "p2p"
_TRUNKS: Final = ("pcie_tree", "custom")  # node topologies whose devices share wires; in the others each has a port of its own


class Call(NamedTuple):
    """What timing asked the cluster for, of one plan."""

    operation: str  # of a collective, or "p2p"
    wire_bytes: float
    num_steps: float
    num_ranks: int
    stride: int

    def seconds(self, cluster: Cluster, wire_bytes: float) -> Scalar:
        """Its price when each rank sends so many bytes."""
        if self.operation == _MESSAGE:
            return cluster.p2p_s(wire_bytes, self.stride, num_ranks=self.num_ranks)
        return cluster.collective_s(self.operation, wire_bytes, self.num_steps, self.num_ranks, self.stride)


@dataclass(frozen=True, slots=True)
class Listener(Cluster):
    """A cluster that writes down what it is asked for."""

    calls: list[Call] = field(default_factory=list, compare=False)

    def collective_s(self, operation: str, wire_bytes: Scalar, num_steps: Scalar, num_ranks: Scalar, stride: Scalar) -> Scalar:
        """As `Cluster.collective_s`."""
        self.calls.append(Call(operation, _one(wire_bytes), _one(num_steps), int(_one(num_ranks)), int(_one(stride))))
        return laws.collective_s(self, operation, wire_bytes, num_steps, num_ranks, stride)

    def p2p_s(self, payload_bytes: Scalar, stride: Scalar, *, num_ranks: Scalar = 2, senders: Scalar | None = None) -> Scalar:
        """As `Cluster.p2p_s`."""
        self.calls.append(Call(_MESSAGE, _one(payload_bytes), 1.0, int(_one(num_ranks)), int(_one(stride))))
        return laws.p2p_s(self, payload_bytes, stride, num_ranks=num_ranks, senders=senders)


def _one(value: Scalar) -> float:
    return float(np.ravel(value)[0])


class Traffic(NamedTuple):
    """A call as each device sees it at full rate: bytes per second through its port, through its NIC, and beyond its leaf."""

    latency_ps: int
    transfer_ps: int
    port_bytes_per_s: float
    nic_bytes_per_s: float
    nic_share: float  # nic_bytes_per_s over the device's even part of the node's NICs
    crossing: float  # the part of the NIC traffic that goes through uplinks
    wires_share: float  # of a node without ports of its own: the part of what the devices' wires let them reach

    def priced(self, ps: int) -> Traffic:
        """The same bytes at another price: that of an algorithm other than the ring."""
        latency_ps = min(self.latency_ps, ps)
        gain = self.transfer_ps / (ps - latency_ps) if ps > latency_ps else 0.0
        return self._replace(
            latency_ps=latency_ps,
            transfer_ps=ps - latency_ps,
            port_bytes_per_s=self.port_bytes_per_s * gain,
            nic_bytes_per_s=self.nic_bytes_per_s * gain,
            nic_share=self.nic_share * gain,
            wires_share=self.wires_share * gain,
        )


def traffic(cluster: Cluster, call: Call) -> Traffic:
    """What one device sends while a call runs alone: the latency is what an empty message would take, the rest is bytes."""
    whole_ps = int(picoseconds(_one(call.seconds(cluster, call.wire_bytes))))
    latency_ps = min(whole_ps, int(picoseconds(_one(call.seconds(cluster, 0.0)))))
    transfer_ps = whole_ps - latency_ps
    if not transfer_ps or call.num_ranks == 1:
        return Traffic(whole_ps, 0, 0.0, 0.0, 0.0, 0.0, 0.0)
    rate = call.wire_bytes * _PS_PER_S / transfer_ps
    port, nic = _port_and_nic(cluster, call, rate)
    fabric = cluster.fabric
    if not nic or fabric is None:
        return Traffic(latency_ps, transfer_ps, port, 0.0, 0.0, 0.0, _wires_share(cluster, call, rate))
    part = cluster.nics_per_node * nic_port(cluster.node, fabric).bandwidth_bytes_per_s / cluster.node.devices_per_node
    share = nic / part if call.operation == _MESSAGE else min(nic / part, 1.0)  # above 1 where the ranks of a node combine first
    crossing = ring_crossing(cluster, fabric, np.array([call.num_ranks * 1.0]), np.array([call.stride * 1.0])).item()
    return Traffic(latency_ps, transfer_ps, port, share * part, share, crossing, _wires_share(cluster, call, rate))


def _port_and_nic(cluster: Cluster, call: Call, rate: float) -> tuple[float, float]:
    """Of what a rank sends a second, what its port and what its NIC carries; one ring leaves a node by each of the group's devices."""
    devices, ranks = cluster.node.devices_per_node, call.num_ranks
    if call.operation == _MESSAGE:
        return (0.0, rate) if call.stride * ranks > devices else (rate, 0.0)
    inside, nodes = (int(each) for each in placement(devices, ranks, call.stride, cluster.num_nodes))
    if nodes == 1:
        return rate, 0.0
    leaving = (ranks - inside) / (ranks - 1.0) if call.operation == "all_to_all" else 1.0 / inside
    return rate * (1.0 - leaving), rate * leaving


def _wires_share(cluster: Cluster, call: Call, rate: float) -> float:
    node = cluster.node
    if call.operation == _MESSAGE:
        return min(rate / (node.link.bandwidth_bytes_per_s * node.p2p_efficiency), 1.0)
    return min(rate / rates(cluster, call.operation, call.num_ranks, call.stride)[0], 1.0)  # 0 where no rank has another in its node


Key = tuple[str, int]  # name and price


def heard(program: Program) -> dict[Key, tuple[Call, ...]]:
    """What every communication of a step asks of the cluster, by its name and price."""
    found: dict[Key, tuple[Call, ...]] = {}
    step, sizes = program.step, program.sizes

    cluster = program.market.cluster
    fitted = replace(program.market.stack, collectives={})  # an algorithm that a stack names is heard as the ring that it stands for

    def listen(name: str, price: Callable[[Market], Ints], *, message: bool = False) -> None:
        listener = Listener(cluster.node, cluster.num_nodes, cluster.fabric)
        price(replace(program.market, cluster=listener, stack=fitted))
        ps = int(price(program.market)[0])
        found.setdefault((name, ps), tuple(call for call in listener.calls if message == (call.operation == _MESSAGE)))

    for segment in step.segments:
        for task in (*segment.forward, *segment.backward):
            if isinstance(task, Communicate):
                listen(task.name, lambda market, task=task: task_ps(task, sizes, market))  # type: ignore[misc]
        listen(segment.name, lambda market, segment=segment: timing.reduce_ps(step, segment, sizes, market))  # type: ignore[misc]
        listen(segment.name, lambda market, segment=segment: timing.gather_weights_ps(step, segment, sizes, market))  # type: ignore[misc]
    listen("send", lambda market: timing.boundary_ps(step, sizes, market)[0], message=True)
    listen("gather", lambda market: timing.boundary_ps(step, sizes, market)[1])
    for rank in range(program.num_ranks):
        for work in step.finish:
            if work.operation:
                held = program.holding(rank)
                listen(work.name, lambda market, work=work, held=held: finish_ps(step, work, sizes, held, market))  # type: ignore[misc]
    return found


@dataclass(slots=True)
class Demands:
    """The legs of each communication of each pipeline rank."""

    program: Program
    calls: dict[Key, tuple[Call, ...]] = field(init=False)
    made: dict[tuple[int, str, int, int], tuple[Leg, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.calls = heard(self.program)

    def legs(self, rank: int, task: str, ps: int, to: int) -> tuple[Leg, ...]:
        """How a task of a rank loads links; to: the rank that a message goes to, itself for a collective.

        Raises:
            PlanError: its price is not made of what the cluster was asked for.
        """
        key = (rank, task, ps, to)
        if key not in self.made:
            self.made[key] = self._legs(rank, task, ps, to) if ps else ()
        return self.made[key]

    def _legs(self, rank: int, task: str, ps: int, to: int) -> tuple[Leg, ...]:
        calls = self.calls.get((task, ps))
        if calls == ():
            return (Leg(ps, 0, 0.0, ()),)  # to or from the host: through no link between devices
        parts = [traffic(self.program.market.cluster, call) for call in calls or ()]
        if len(parts) == 1:
            parts = [parts[0].priced(ps)]
        spare = ps - sum(part.latency_ps + part.transfer_ps for part in parts)  # of rounding each, and not the sum
        if not parts or abs(spare) > len(parts):
            raise PlanError(f"which links '{task}' loads is not known", "contention", "Simulate without contention.")
        return tuple(self._leg(rank, to, part, spare if index == 0 else 0) for index, part in enumerate(parts))

    def _leg(self, rank: int, to: int, part: Traffic, spare: int) -> Leg:
        fair = part.nic_bytes_per_s or part.port_bytes_per_s
        if not part.transfer_ps or not fair:
            return Leg(part.latency_ps + part.transfer_ps + spare, 0, 0.0, ())
        if to != rank and part.nic_bytes_per_s and self._node(rank) == self._node(to):
            part = part._replace(port_bytes_per_s=part.nic_bytes_per_s, nic_bytes_per_s=0.0)  # priced as the slowest hop of its chain
        loads = tuple((wire, min(load, 1.0)) for wire, load in self._loads(rank, to, part))
        return Leg(part.latency_ps, part.transfer_ps + spare, fair, loads)

    def _loads(self, rank: int, to: int, part: Traffic) -> Iterator[tuple[Wire, float]]:
        """Every link on the way, out of the sender and into the receiver, with the share of it that is taken at full rate."""
        cluster = self.program.market.cluster
        node, fabric = cluster.node, cluster.fabric
        if part.port_bytes_per_s and node.topology in _TRUNKS:
            yield Wire(node.link.name, f"node {self._node(rank)}"), part.wires_share * self._in_node(rank)
        elif part.port_bytes_per_s:
            for end, way in ((rank, "out"), (to, "in")):
                yield Wire(node.link.name, f"stage {end} {way}"), part.port_bytes_per_s / node.link.bandwidth_bytes_per_s
        if part.nic_bytes_per_s and fabric is not None:
            for end, way in ((rank, "out"), (to, "in")):
                yield Wire(nic_port(node, fabric).name, f"node {self._node(end)} {way}"), part.nic_share * self._in_node(end)
                if fabric.oversubscription > 1.0 and part.crossing:
                    yield self._uplink(fabric, end, way, part)

    def _uplink(self, fabric: Fabric, rank: int, way: str, part: Traffic) -> tuple[Wire, float]:
        leaf = self._node(rank) // fabric.nodes_per_leaf
        sending = self._part(rank, leaf, self.program.market.cluster.node.devices_per_node * fabric.nodes_per_leaf)
        return Wire(uplink_name(fabric), f"leaf {leaf} {way}"), part.nic_share * part.crossing * fabric.oversubscription * sending

    def _node(self, rank: int) -> int:
        """Where the first copy of a pipeline rank lies."""
        return rank * self._stride() // self.program.market.cluster.node.devices_per_node

    def _in_node(self, rank: int) -> float:
        return self._part(rank, self._node(rank), self.program.market.cluster.node.devices_per_node)

    def _part(self, rank: int, block: int, size: int) -> float:
        """The part of a block of so many devices that belongs to a pipeline rank."""
        ranks, stride = self.program.num_ranks, self._stride()
        used = prod(int(degree[0]) for degree in self.program.sizes.degrees.values())
        return sum(device // stride % ranks == rank for device in range(block * size, min((block + 1) * size, used))) / size

    def _stride(self) -> int:
        return int(self.program.sizes.group("pp")[1][0])
