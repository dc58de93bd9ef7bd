"""Slots of experts between ranks, by nodes: an item goes to a node once, whoever has slots for it there, and comes back as a sum.

Arrays are [slots, runs, ...].  Chunk s I + i is item i, of I, that position s has, or that is on its way back to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from parsim_kernels.signature import Array, Out

BETWEEN = " between nodes"  # behind an axis: the link of what leaves a node


@dataclass(frozen=True, slots=True)
class SlotExchange(ABC):
    """What each slot holds, and which ranks share a node.

    >>> ToExperts(((0, 1), (1, 0)), 1).link("ep", 0, 1), ToExperts(((0, 1), (1, 0)), 2).link("ep", 0, 1)
    ('ep between nodes', 'ep')
    """

    slots: tuple[tuple[int, ...], ...]  # the item of each slot, by the position that has its expert
    inside: int  # positions of a node, side by side

    @property
    def num_items(self) -> int:
        """Items of a position, each with a slot somewhere or not."""
        return 1 + max((item for own in self.slots for item in own), default=0)

    @property
    def first_slots(self) -> dict[int, int]:
        """The first slot of each item that has one."""
        found: dict[int, int] = {}
        for slot, item in enumerate(item for own in self.slots for item in own):
            found.setdefault(item, slot)
        return found

    def link(self, axis: str, src: int, dst: int) -> str:
        """What a message from one position to another is charged to."""
        return axis if src // self.inside == dst // self.inside else axis + BETWEEN

    def expect(self, array: Array, slots: int) -> None:
        """Raise unless an array has so many slots.

        Raises:
            ValueError: it has not.
        """
        if len(array) != slots:
            raise ValueError(f"{len(array)} rows are not those of {slots} slots")

    @abstractmethod
    def first_chunks(self, array: Array, position: int) -> list[Array | None]:
        """The chunks that a position has at first."""

    @abstractmethod
    def join(self, chunks: list[Array | None], position: int, out: Out) -> Array:
        """What a position is left with, of chunks that have arrived."""


@dataclass(frozen=True, slots=True)
class ToExperts(SlotExchange):
    """From tokens' ranks, all of whose slots of an item hold the same, to those of experts."""

    def first_chunks(self, array: Array, position: int) -> list[Array | None]:
        """The first slot of each item."""
        self.expect(array, sum(map(len, self.slots)))
        chunks: list[Array | None] = [None] * (len(self.slots) * self.num_items)
        for item, slot in self.first_slots.items():
            chunks[position * self.num_items + item] = array[slot]
        return chunks

    def join(self, chunks: list[Array | None], position: int, out: Out) -> Array:
        """The own slots, with runs of all positions."""
        own = next(chunk for chunk in chunks[position * self.num_items :] if chunk is not None)
        num_ranks, runs = len(self.slots), len(own)
        whole = out((len(self.slots[position]), num_ranks * runs, *own.shape[1:]), own.dtype)
        for source in range(num_ranks):
            for slot, item in enumerate(self.slots[position]):
                whole[slot, source * runs : (source + 1) * runs] = chunks[source * self.num_items + item]
        return whole


@dataclass(frozen=True, slots=True)
class FromExperts(SlotExchange):
    """Back from experts, whose results for an item are added up on the way."""

    def first_chunks(self, array: Array, position: int) -> list[Array | None]:
        """The sum of the own slots of each item, for each position that it goes to."""
        self.expect(array, len(self.slots[position]))
        num_ranks, runs = len(self.slots), array.shape[1] // len(self.slots)
        chunks: list[Array | None] = [None] * (num_ranks * self.num_items)
        for source in range(num_ranks):
            for slot, item in enumerate(self.slots[position]):
                row, place = array[slot, source * runs : (source + 1) * runs], source * self.num_items + item
                before = chunks[place]
                chunks[place] = row if before is None else before + row
        return chunks

    def join(self, chunks: list[Array | None], position: int, out: Out) -> Array:
        """All slots of the own runs: the first of an item has the sum, and others nothing."""
        own, first = chunks[position * self.num_items :], self.first_slots
        sums = {item: chunk for item, chunk in enumerate(own[: self.num_items]) if chunk is not None}
        like = next(iter(sums.values()))
        whole = out((sum(map(len, self.slots)), *like.shape), like.dtype)
        whole.fill(0)
        for item, chunk in sums.items():
            np.copyto(whole[first[item]], chunk)
        return whole
