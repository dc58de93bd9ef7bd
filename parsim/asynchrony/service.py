"""What a pull, a push and an update take: bytes, picoseconds on each port of the way, and of the server's memory.

Each server has a host of its own, with the memory and the NICs of a node, beside the nodes of the workers; in a cluster of one node all
servers share that node's host, which devices reach over their links to it.  An update is bound by the host's memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from parsim.asynchrony.protocol import Terms
from parsim.cluster.cluster import Cluster
from parsim.cluster.ports import latency_s, nic_port
from parsim.cluster.scalars import picoseconds
from parsim.cost.sizes import Sizes
from parsim.errors import PlanError
from parsim.model.dims import COMPUTE, GRADIENT, MASTER
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.step.structure import Structure

T = TypeVar("T")


class ServedWeights(Struct, frozen=True):
    """The weights that are trained, and bytes of an element."""

    elements: int
    weight_bytes: int  # as they are computed with, and pulled
    gradient_bytes: int  # as they are pushed
    updated_bytes: int  # as servers update them
    optimizer: str

    @classmethod
    def of(cls, structure: Structure, sizes: Sizes, elements: int) -> ServedWeights:
        """Those of a Step that somebody else updates, whose elements are counted."""
        weight, gradient, updated = (sizes.itemsize_bytes[role] for role in (COMPUTE, GRADIENT, MASTER))
        return cls(elements, weight, gradient, updated, structure.optimizer)

    @property
    def publishes(self) -> bool:
        """Whether servers keep weights twice: as they update them, and as they are pulled."""
        return self.weight_bytes != self.updated_bytes

    @property
    def update_bytes(self) -> int:
        """Bytes of a server's memory that an update moves, an element."""
        moved = OPTIMIZERS[self.optimizer].moved_bytes(self.updated_bytes, self.gradient_bytes)
        return moved + self.weight_bytes * self.publishes


class Way(Struct, frozen=True):
    """A message: how long it takes a port to send it and another to take it, and how long it is on its way."""

    out_ps: int
    in_ps: int
    late_ps: int

    @property
    def ready_ps(self) -> int:
        """From the start of its sending until the port that takes it may begin, so as never to wait for a byte."""
        return self.late_ps + max(0, self.out_ps - self.in_ps)

    @property
    def alone_ps(self) -> int:
        """From the start of its sending until its last byte is there, if it waits for nobody."""
        return self.ready_ps + self.in_ps


class Service(Struct, frozen=True):
    """What workers and servers do in a cycle, by shard; workers are alike but for the time that they compute."""

    terms: Terms
    weights: ServedWeights
    elements: tuple[int, ...]  # of each shard, as even as can be
    ports: tuple[int, ...]  # of each worker: that through which it sends, and takes
    pulls: tuple[Way, ...]
    pushes: tuple[Way, ...]
    handle_ps: tuple[int, ...]  # of the server's memory for a gradient: an update, or adding it to others
    update_ps: tuple[int, ...]  # for the update of several gradients; 0 where each is one
    num_hosts: int

    @property
    def pull_bytes(self) -> int:
        """What a worker takes of all servers before it computes."""
        return self.weights.elements * self.weights.weight_bytes

    @property
    def push_bytes(self) -> int:
        """What it sends to them afterwards."""
        return self.weights.elements * self.weights.gradient_bytes

    @property
    def most_at_a_port(self) -> int:
        """Workers that share a port, of the port with most."""
        return max(Counter(self.ports).values())

    @property
    def server_bytes(self) -> dict[str, int]:
        """Memory of the fullest host of servers: weights, states, and gradients, one that comes of each worker, and their sum."""
        held = self.elements[:1] if self.num_hosts > 1 else self.elements
        count, weights = sum(held), self.weights
        gradients = self.terms.num_workers + self.terms.is_synchronous
        return {
            "weights": count * (weights.updated_bytes + weights.weight_bytes * weights.publishes),
            "optimizer": count * OPTIMIZERS[weights.optimizer].state_bytes(weights.updated_bytes),
            "gradients": count * weights.gradient_bytes * gradients,
        }


def shares_of(num_elements: int, num_shards: int) -> tuple[int, ...]:
    """How many elements each shard has of weights that lie end to end: as even as can be, the first ones one more.

    >>> shares_of(10, 3)
    (4, 3, 3)
    """
    least, more = divmod(num_elements, num_shards)
    return tuple(least + (shard < more) for shard in range(num_shards))


def service_of(cluster: Cluster, terms: Terms, weights: ServedWeights) -> Service:
    """What servers of a cluster do for workers of which each has a device, by number.

    Raises:
        PlanError: the cluster has several sites, or more shards are asked for than there are elements.
    """
    if cluster.num_sites > 1:
        raise PlanError(
            "parameter servers of workers in several sites are not built", remedy="Set gradient_sync = all_reduce, or num_sites = 1."
        )
    if terms.num_shards > weights.elements:
        message = f"parameter_servers = {terms.num_shards} share out {weights.elements} weights"
        raise PlanError(message, remedy=f"Legal: at most {weights.elements}.")
    elements = shares_of(weights.elements, terms.num_shards)
    alone = cluster.num_nodes == 1
    host_bytes_per_s = cluster.node.host_memory_bytes_per_s / (terms.num_shards if alone else 1)
    for_each = 3 * weights.gradient_bytes if terms.is_synchronous else weights.update_bytes  # two are read and their sum is written
    at_once = weights.update_bytes if terms.is_synchronous else 0
    ways = _inside(cluster) if alone else _between(cluster)
    return Service(
        terms=terms,
        weights=weights,
        elements=elements,
        ports=tuple(map(ways["port"], range(terms.num_workers))),
        pulls=_each(elements, lambda count: ways["pull"](count * weights.weight_bytes)),
        pushes=_each(elements, lambda count: ways["push"](count * weights.gradient_bytes)),
        handle_ps=_each(elements, lambda count: _ps(count * for_each / host_bytes_per_s)),
        update_ps=_each(elements, lambda count: _ps(count * at_once / host_bytes_per_s)),
        num_hosts=1 if alone else terms.num_shards,
    )


def _each(elements: Sequence[int], priced: Callable[[int], T]) -> tuple[T, ...]:
    """The price of each shard; shards are of one number of elements or two."""
    of_count = {count: priced(count) for count in dict.fromkeys(elements)}
    return tuple(of_count[count] for count in elements)


def _inside(cluster: Cluster) -> Mapping[str, Any]:
    """Of devices and the memory of their host, in which nothing waits for a port but the device's own link."""
    link = cluster.node.host_link

    def sent_ps(payload: int) -> int:
        return _ps(payload / link.bandwidth_bytes_per_s)

    late_ps = _ps(link.latency_s)
    return {
        "port": lambda worker: worker,
        "pull": lambda payload: Way(0, sent_ps(payload), late_ps),
        "push": lambda payload: Way(sent_ps(payload), 0, late_ps),
    }


def _between(cluster: Cluster) -> Mapping[str, Any]:
    """Of devices and hosts of other nodes: a message leaves a worker by one NIC, and a server by all NICs of its host.

    As a message between devices of two nodes in the price of a pipeline (cluster/network.py, p2p_s), but for oversubscribed uplinks.
    """
    fabric, node = cluster.fabric, cluster.node
    assert fabric is not None
    nic = nic_port(node, fabric).bandwidth_bytes_per_s * fabric.p2p_efficiency
    devices, nics = node.devices_per_node, cluster.nics_per_node
    start_s = float(latency_s(cluster, fabric.p2p_start_s, across=1.0))

    def late_ps(payload: int) -> int:
        return _ps(start_s + fabric.p2p_ramp_s_per_sqrt_byte * math.sqrt(payload))

    def port(worker: int) -> int:
        inside = worker % devices
        return worker // devices * devices + (inside if nics >= devices else inside * nics // devices)

    return {
        "port": port,
        "pull": lambda payload: Way(_ps(payload / (nic * nics)), _ps(payload / nic), late_ps(payload)),
        "push": lambda payload: Way(_ps(payload / nic), _ps(payload / (nic * nics)), late_ps(payload)),
    }


def _ps(seconds: float) -> int:
    return int(picoseconds(seconds))
