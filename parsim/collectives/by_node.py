"""The messages of an exchange with experts by nodes, and their items: to a rank of each other node, and from it to those inside.

That rank stands where the sender does on its own node, so that all NICs work.  The way back is the same in the opposite direction, and
adds.  Source: deepseek-ai/DeepEP, README ("NVLink and RDMA forwarding"; NVIDIA's HybridEP likewise); DeepSeek-AI 2024 (arXiv:2412.19437),
section 3.2.2.  With an item for each slot it is a hierarchical all-to-all: Rajbhandari et al. 2022 (arXiv:2201.05596), section 5.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from parsim_kernels import Operator, Transfer
from parsim_kernels.exchange import BETWEEN as BETWEEN
from parsim_kernels.exchange import FromExperts, SlotExchange, ToExperts


class ItemPorts(NamedTuple):
    """Items of one run that each position sends and receives, inside its node and between nodes."""

    sent: np.ndarray
    received: np.ndarray
    sent_between: np.ndarray
    received_between: np.ndarray

    @property
    def busiest(self) -> tuple[int, int]:
        """Items through the busiest port, in one direction, inside nodes and between them."""
        sides = (self.sent, self.received), (self.sent_between, self.received_between)
        inside, between = (int(np.max(each)) for each in sides)
        return inside, between


class ByNode(Struct, frozen=True):
    """An exchange as messages of an item each."""

    exchange: SlotExchange

    @classmethod
    def of(cls, slots: tuple[tuple[int, ...], ...], inside: int, *, to_experts: bool) -> ByNode:
        """To experts whose slots, by rank, hold these items, or back; so many ranks share a node."""
        return cls((ToExperts if to_experts else FromExperts)(slots, inside))

    def transfers(self, operation: str, num_ranks: int, operator: Operator) -> Iterator[Transfer]:
        """Outwards between nodes and then inside them; back in the opposite order, where what meets is added."""
        ways = [
            Transfer(step, src, dst, source * self.exchange.num_items + item, "copy")
            for source in range(num_ranks)
            for step, src, dst, items in _ways(self.exchange.slots, self.exchange.inside, source)
            for item in items
        ]
        return _back(self.exchange, ways) if isinstance(self.exchange, FromExperts) else iter(ways)


class _Needs(NamedTuple):
    """The items that each rank has slots for, and each node."""

    ranks: tuple[tuple[int, ...], ...]
    nodes: tuple[tuple[int, ...], ...]


@functools.lru_cache(maxsize=1024)
def _needs(slots: tuple[tuple[int, ...], ...], inside: int) -> _Needs:
    sets = [frozenset(own) for own in slots]
    nodes = (sets[start : start + inside] for start in range(0, len(sets), inside))
    return _Needs(tuple(tuple(sorted(own)) for own in sets), tuple(tuple(sorted(frozenset().union(*node))) for node in nodes))


def _ways(slots: tuple[tuple[int, ...], ...], inside: int, source: int) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
    """Step, sender, receiver and items of what leaves a position for experts."""
    of_ranks, of_nodes = _needs(slots, inside)
    for node, items in enumerate(of_nodes):
        ranks = range(node * inside, min((node + 1) * inside, len(slots)))
        gate = source if source in ranks else ranks[source % inside % len(ranks)]
        if gate != source:
            yield 0, source, gate, items
        yield from ((1, gate, rank, of_ranks[rank]) for rank in ranks if rank != gate)


def _back(exchange: SlotExchange, ways: list[Transfer]) -> Iterator[Transfer]:
    """The same messages in the opposite direction: what comes first is kept where nothing is, and the rest is added."""
    there = {(rank, item) for rank, own in enumerate(exchange.slots) for item in own}
    held = {(rank, source * exchange.num_items + item) for rank, item in there for source in range(len(exchange.slots))}
    for way in sorted(ways, key=lambda way: -way.step):
        arrives = way.src, way.chunk
        yield Transfer(1 - way.step, way.dst, way.src, way.chunk, "sum" if arrives in held else "copy")
        held.add(arrives)


def ports_of(exchange: SlotExchange) -> ItemPorts:
    """The items of all ports."""
    there = _ports(exchange.slots, exchange.inside)
    return ItemPorts(there[1], there[0], there[3], there[2]) if isinstance(exchange, FromExperts) else there


@functools.lru_cache(maxsize=1024)
def _ports(slots: tuple[tuple[int, ...], ...], inside: int) -> ItemPorts:
    """What `_ways` says of all positions, counted node by node: into each go items by as many of its ranks as gates."""
    of_ranks, of_nodes = _needs(slots, inside)
    items, places = np.array([len(own) for own in of_ranks]), np.arange(len(slots))
    whole = np.array([len(own) for own in of_nodes])
    sent_between = whole.sum() - whole[places // inside]
    sent, received, received_between = np.zeros((3, len(slots)), dtype=np.int64)
    for node, into in enumerate(whole.tolist()):
        ranks = places[node * inside : (node + 1) * inside]
        outside = places[places // inside != node]
        gates = np.bincount(outside % inside % len(ranks), minlength=len(ranks))  # from elsewhere, by rank of the node
        own = items[ranks]
        received_between[ranks] = into * gates
        sent[ranks] = (gates + 1) * (own.sum() - own)
        received[ranks] = own * (len(slots) - gates - 1)
    return ItemPorts(sent, received, sent_between, received_between)
