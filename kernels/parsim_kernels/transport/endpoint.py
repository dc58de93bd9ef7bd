"""A Channel on any wire that moves blocks between pairs of ranks: streaming, tags, reduction on arrival.  The wire does the waiting."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from parsim_kernels.signature import Array
from parsim_kernels.transport.channel import Incoming, Message, Outgoing
from parsim_kernels.transport.errors import TransportError
from parsim_kernels.transport.message import Arriving, Departing, Slot, raw, take_whole, write_whole
from parsim_kernels.transport.pending import Aside, PendingReceives

_MESSAGE: Final = "a message of rank {} with tag {}"


class BlockWire(Protocol):
    """A few blocks on their way from each rank to each other, in order.  Nothing here waits but `wait`."""

    rank: int
    num_ranks: int
    slot_bytes: int
    patience: int  # how often in turn an exchange, its receives complete, waits for room before it copies what has not left

    def free(self, dst: int) -> Slot | None:
        """Where the next block for `dst` may be written, or None while all are taken."""
        ...

    def commit(self, dst: int, num_bytes: int) -> None:
        """Hand over the block from `free`, with so many bytes of payload."""
        ...

    def peek(self, src: int) -> Slot | None:
        """The oldest block from `src`, or None."""
        ...

    def release(self, src: int) -> None:
        """Give the block from `peek` back."""
        ...

    def arrive(self) -> int:
        """Enter a barrier."""
        ...

    def is_past(self, ticket: int) -> bool:
        """Whether all ranks have entered the barrier of this ticket."""
        ...

    def wait(self, idle: int, what: Callable[[], str]) -> None:
        """Let others run, since nothing moved for the `idle`-th time in turn.  Raises PeerError when a rank has ended."""
        ...

    def resume(self) -> None:
        """End a spell of waiting: something moved."""
        ...

    def symmetric(self, num_bytes: int, barrier: Callable[[], None]) -> list[Array]:
        """Zeroed memory of each rank that all share, as uint8."""
        ...

    def report(self, value: Any) -> None:
        """Hand an object to the launcher."""
        ...


class Endpoint:
    """The Channel of one rank."""

    __slots__ = ("_arriving", "_aside", "_queues", "_wire", "num_ranks", "rank")

    def __init__(self, wire: BlockWire) -> None:
        """Create a channel with nothing on its way."""
        self.rank, self.num_ranks, self._wire = wire.rank, wire.num_ranks, wire
        self._queues: dict[int, deque[Departing]] = {}  # by destination: what has not yet left; no empty queues
        self._arriving: list[Arriving | None] = [None] * wire.num_ranks  # by source: what has arrived in part
        self._aside: Aside = {}  # what arrived before it was asked for

    def send(self, dst: int, array: Array | bytes, tag: int = 0, clock: int = 0) -> None:
        """Send and do not wait: what finds no room is copied, and leaves during later calls."""
        departing = self._post(Outgoing(dst, array, tag, clock))
        if departing is not None:
            self._push(dst)
            if not departing.gone:
                departing.detach()

    def receive(self, src: int, tag: int = 0) -> Message:
        """Wait for the oldest message of that source and tag."""
        return self.exchange((), (Incoming(src, tag),))[0]

    def first(self, sources: Sequence[int], tag: int = 0) -> int:
        """The first of some ranks, in the order given, from which a message with that tag is there or arrives; wait where there is none."""
        for src in sources:
            self._check(src)
        idle = 0
        while True:
            found = next((src for src in sources if self._begins(src, tag)), None)
            if found is not None:
                if idle:
                    self._wire.resume()
                return found
            moved = False
            for dst in tuple(self._queues):
                moved |= self._push(dst)
            idle = self._idle(moved, idle, lambda: " or ".join(_MESSAGE.format(src, tag) for src in sources))

    def exchange(self, sends: Sequence[Outgoing], receives: Sequence[Incoming]) -> list[Message]:
        """Send and receive at the same time, whatever the sizes; the arrays may be written to when it returns."""
        for incoming in receives:
            self._check(incoming.src)
        departing = [posted for posted in map(self._post, sends) if posted is not None]
        if len(receives) == 1 and not self._queues and not self._aside and receives[0].src != self.rank:
            found = self._next(receives[0])
            if found is not None:
                return [found]
        wanted = PendingReceives(receives, self._aside)
        idle = 0
        while True:
            moved = False
            for dst in tuple(self._queues):
                moved |= self._push(dst)
            for src, missing in wanted.missing.items():
                if missing:
                    moved |= self._pull(src, wanted)
            if not wanted.left:
                left = [message for message in departing if not message.gone] if self._queues else []
                if not left or (not moved and idle >= self._wire.patience):
                    for message in left:
                        message.detach()
                    if idle:
                        self._wire.resume()
                    return wanted.messages
            idle = self._idle(moved, idle, lambda: _waits_for(wanted, departing))

    def barrier(self) -> None:
        """Wait until every rank has called it as often."""
        self._barrier("the others at a barrier")

    def symmetric(self, shape: int | Sequence[int], dtype: npt.DTypeLike) -> tuple[Array, ...]:
        """Arrays of zeros, one of each rank, that all ranks may read and write; all ranks ask for the same."""
        kind, extents = np.dtype(dtype), (shape,) if isinstance(shape, int) else tuple(shape)
        num_bytes = kind.itemsize * math.prod(extents)
        shared = self._wire.symmetric(num_bytes, self.barrier)
        return tuple(array[:num_bytes].view(kind).reshape(extents) for array in shared)

    def report(self, value: Any) -> None:
        """Hand an object to the `progress` of `launch`.  Only rank 0 is heard."""
        if self.rank == 0:
            self._wire.report(value)

    def abort(self, reason: str) -> NoReturn:
        """End the run on every rank.

        Raises:
            TransportError: always.
        """
        raise TransportError(f"rank {self.rank} aborts: {reason}")

    def close(self) -> None:
        """Let everything leave, and wait until all ranks are here.

        Raises:
            TransportError: a message was never received.
        """
        idle = 0
        while self._queues:
            moved = False
            for dst in tuple(self._queues):
                moved |= self._push(dst)
            idle = self._idle(moved, idle, lambda: _waits_for(None, [message for queue in self._queues.values() for message in queue]))
        self._barrier("the others at its end")
        aside = [(src, tag) for (src, tag), messages in self._aside.items() if messages]
        for src in range(self.num_ranks):
            slot = self._wire.peek(src) if src != self.rank else None
            if slot is not None and self._arriving[src] is None:
                aside.append((src, Arriving.from_slot(slot, self._wire.slot_bytes).tag))
        if aside:
            src, tag = aside[0]
            raise TransportError(f"rank {self.rank} ended without receiving {len(aside)} of its messages: one of rank {src} with tag {tag}")

    def _begins(self, src: int, tag: int) -> bool:
        """Whether the next message of a source has that tag, or one with it lies aside."""
        if self._aside.get((src, tag)):
            return True
        slot, arriving = (None, None) if src == self.rank else (self._wire.peek(src), self._arriving[src])
        if arriving is None and slot is not None:
            arriving = Arriving.from_slot(slot, self._wire.slot_bytes)
        return arriving is not None and arriving.tag == tag

    def _next(self, incoming: Incoming) -> Message | None:
        """Wait for a message without the bookkeeping of several; None where the next of its source is another, or is of several blocks."""
        src, idle = incoming.src, 0
        while (slot := self._wire.peek(src)) is None:
            idle = self._idle(False, idle, lambda: _MESSAGE.format(src, incoming.tag))
        if idle:
            self._wire.resume()
        message = take_whole(incoming, slot)
        if message is not None:
            self._wire.release(src)
        return message

    def _barrier(self, what: str) -> None:
        ticket, idle = self._wire.arrive(), 0
        while not self._wire.is_past(ticket):
            moved = False
            for dst in tuple(self._queues):
                moved |= self._push(dst)
            idle = self._idle(moved, idle, lambda: what)
        if idle:
            self._wire.resume()

    def _idle(self, moved: bool, idle: int, what: Callable[[], str]) -> int:
        if not moved:
            self._wire.wait(idle, what)
            return idle + 1
        if idle:
            self._wire.resume()
        return 0

    def _check(self, rank: int) -> None:
        if not 0 <= rank < self.num_ranks:
            raise TransportError(f"rank {self.rank} asks for rank {rank}; there are {self.num_ranks}")

    def _post(self, outgoing: Outgoing) -> Departing | None:
        """Let a message leave at once if it can; else what is on its way out, and queued."""
        dst, array, queue = outgoing.dst, raw(outgoing.array), self._queues.get(outgoing.dst)
        self._check(dst)
        if dst == self.rank:
            self._aside.setdefault((dst, outgoing.tag), deque()).append(Message(np.array(array), outgoing.clock))
            return None
        if queue is None and array.nbytes <= self._wire.slot_bytes:
            slot = self._wire.free(dst)
            if slot is not None:
                self._wire.commit(dst, write_whole(outgoing, array, slot))
                return None
        departing = Departing(outgoing, self._wire.slot_bytes)
        if queue is None:
            self._queues[dst] = deque((departing,))
        else:
            queue.append(departing)
        return departing

    def _push(self, dst: int) -> bool:
        """Fill the free blocks of one destination; True where at least one left."""
        queue, moved = self._queues[dst], False
        while True:
            slot = self._wire.free(dst)
            if slot is None:
                return moved
            self._wire.commit(dst, queue[0].fill(slot))
            moved = True
            if queue[0].gone:
                queue.popleft()
                if not queue:
                    del self._queues[dst]
                    return True

    def _pull(self, src: int, wanted: PendingReceives) -> bool:
        """Take the blocks of one source that are there and wanted; True where there was one."""
        moved = False
        while wanted.missing[src]:
            slot = self._wire.peek(src) if src != self.rank else None
            if slot is None:
                return moved
            arriving = self._arriving[src]
            if arriving is None:
                arriving = Arriving.from_slot(slot, self._wire.slot_bytes)
                index = wanted.match(src, arriving.tag)
                arriving.land(index, None if index is None else wanted.receives[index])
            arriving.take(slot)
            self._wire.release(src)
            moved = True
            if arriving.left:
                self._arriving[src] = arriving
                continue
            self._arriving[src] = None
            message = Message(arriving.array, arriving.clock)
            if arriving.index is None:
                self._aside.setdefault((src, arriving.tag), deque()).append(message)
            wanted.accept(src, arriving.tag, arriving.index, message)
        return moved


def _waits_for(wanted: PendingReceives | None, departing: Sequence[Departing]) -> str:
    parts = [_MESSAGE.format(src, tag) for src, tag in (wanted.unmet() if wanted else ())]
    parts += [f"rank {message.dst} to take a message with tag {message.tag}" for message in departing if not message.gone]
    return " and ".join(parts)
