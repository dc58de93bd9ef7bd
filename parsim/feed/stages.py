"""The stages between storage and a device, for one reader: how long each takes for a batch of a step, and what bounds it."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import ceil, inf
from typing import TYPE_CHECKING

from msgspec import Struct

from parsim.parallel.dimensions import degrees, rules, split, switched_on
from parsim.parallel.mesh import fastest_first
from parsim.parallel.plan import Plan
from parsim.scenario.feeding import DEVICE, Input

if TYPE_CHECKING:
    from parsim.cluster import Cluster, Storage
    from parsim.parallel.plan import Batch
    from parsim.scenario import Scenario

_COPIES = 2  # of what a batch is made of: read once and written once


class Readers(Struct, frozen=True):
    """Who reads: all devices that do, those of the node that has most, and the nodes that have any."""

    number: int
    on_a_node: int
    num_nodes: int


class FeedStage(Struct, frozen=True):
    """One stage: its time for a batch of a step, and what it would take by each of its bounds."""

    name: str
    batch_s: float
    bounds_s: dict[str, float]  # by what bounds it; of work on cores the parts, which add up

    @property
    def binds(self) -> str:
        """The bound that is reached, or the largest part of the work."""
        return max(self.bounds_s, key=lambda name: self.bounds_s[name], default="")


class FeedLoad(Struct, frozen=True):
    """What a reader makes for a step."""

    sequences: int
    stored_bytes: float  # of all of them, in storage
    raw_bytes: float  # before they are decoded
    device_bytes: float
    worker_s: dict[str, float]  # seconds of one core, by what it does
    num_copies: int  # to the device


def readers_of(plan: Plan, reads: Input, devices_per_node: int) -> Readers:
    """The readers of a plan; those of replicas are the first devices of their first stages, wherever `rank_order` lays them.

    >>> words = Input(name="words", source="made up", per="token", size_bytes=4.0, device_size_bytes=8.0)
    >>> readers_of(Plan(data_parallel=6, tensor_parallel=4), words, 8)
    Readers(number=6, on_a_node=2, num_nodes=3)
    """
    if reads.readers == DEVICE:
        return Readers(plan.num_devices, min(devices_per_node, plan.num_devices), ceil(plan.num_devices / devices_per_node))
    found, over = degrees(plan), rules(switched_on(plan)).get("B", ())
    strides, stride = dict[str, int](), 1
    for axis in fastest_first(plan.rank_order):
        strides[axis] = stride
        stride *= found.get(axis, 1)
    places = product(*(range(0, found[axis] * strides[axis], strides[axis]) for axis in over))
    nodes = Counter(sum(place) // devices_per_node for place in places)
    return Readers(sum(nodes.values()), max(nodes.values()), len(nodes))


def load_of(scenario: Scenario, plan: Plan, reads: Input) -> FeedLoad:
    """What each reader of a plan makes for a step of the scenario: padding is not read, but sent."""
    batch: Batch = scenario.batch
    sequences = batch.global_batch // split(plan, "B")
    source = batch.source if scenario.model.has_encoder else 0
    read, sent = batch.num_tokens / batch.global_batch + source, batch.sequence_length + source
    worker_s = {
        name: sequences * reads.each(read) / rate
        for name, rate in (("decode", reads.decode_per_s), ("tokenize", reads.tokenize_per_s))
        if rate is not None
    }
    return FeedLoad(
        sequences=sequences,
        stored_bytes=sequences * reads.stored_bytes(read),
        raw_bytes=sequences * reads.stored_bytes(read) * reads.compression,
        device_bytes=sequences * reads.each(sent) * reads.device_size_bytes,
        worker_s=worker_s,
        num_copies=plan.num_micro_batches(batch),
    )


def stages_of(cluster: Cluster, storage: Storage, reads: Input, readers: Readers, load: FeedLoad) -> tuple[FeedStage, ...]:
    """The stages in their order: read, prepare (decode and tokenize), batch, to_device.

    All readers read at the same time, and share evenly what they share.
    """
    read = {name: each for name, each in _reading(storage, reads, readers, load).items() if each > 0.0}
    cores = inf if reads.cores is None else reads.cores / readers.on_a_node
    prepare = {name: each / min(reads.workers, cores) for name, each in load.worker_s.items()}
    memory = min(each.node.host_memory_bytes_per_s for each in cluster.kinds) / readers.on_a_node
    link = min((each.node.host_link for each in cluster.kinds), key=lambda each: each.bandwidth_bytes_per_s)
    rate = reads.host_to_device_bytes_per_s or link.bandwidth_bytes_per_s
    copies = {"host link": load.num_copies * link.latency_s + load.device_bytes / rate}
    batch = {"host memory": _COPIES * load.device_bytes / memory}
    return (
        FeedStage("read", max(read.values(), default=0.0), read),
        FeedStage("prepare", sum(prepare.values()), prepare),
        *(FeedStage(name, max(bounds.values()), bounds) for name, bounds in (("batch", batch), ("to_device", copies))),
    )


def request_bytes(reads: Input, load: FeedLoad) -> float:
    """Bytes of one read: those stated, at most all of a batch; one at least."""
    return max(1.0, min(reads.request_bytes or load.stored_bytes / load.sequences, load.stored_bytes))


def _reading(storage: Storage, reads: Input, readers: Readers, load: FeedLoad) -> dict[str, float]:
    """Seconds that a batch takes to read by each bound."""
    requests = load.stored_bytes / request_bytes(reads, load)
    nodes, sharing = readers.num_nodes, readers.on_a_node if storage.local else readers.number
    in_all = storage.read_bytes_per_s or inf
    return {
        "storage": load.stored_bytes * sharing / in_all,
        "a node's share": load.stored_bytes * readers.on_a_node / (storage.node_read_bytes_per_s or inf),
        "requests in flight": requests * storage.request_s(request_bytes(reads, load)) / in_flight(reads),
        "requests a second": requests * sharing / (storage.request_rate(nodes) / (nodes if storage.local else 1)),
    }


def in_flight(reads: Input) -> int:
    """Reads of a reader that are on their way together."""
    return reads.requests_in_flight or reads.workers
