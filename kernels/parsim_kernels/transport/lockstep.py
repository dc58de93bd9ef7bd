"""All ranks in one process: mailboxes for a caller who drives the ranks, or threads that run one at a time, in a fixed order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Lock, Thread
from typing import Any

import numpy as np

from parsim_kernels.signature import Array
from parsim_kernels.transport.endpoint import Endpoint
from parsim_kernels.transport.errors import PeerError, TransportError, WorkerError
from parsim_kernels.transport.message import HEADER_BYTES, Slot


class Lockstep:
    """Mailboxes by receiving rank and name; messages of one name arrive in the order in which they were sent.

    >>> import numpy as np
    >>> transport = Lockstep()
    >>> transport.post(1, "x", np.array([7.0]))
    >>> transport.take(1, "x"), transport.take(1, "x")
    (array([7.]), None)
    """

    __slots__ = ("_boxes",)

    def __init__(self) -> None:
        """Create empty mailboxes."""
        self._boxes: dict[tuple[int, str], deque[Array]] = {}

    def post(self, dst: int, name: str, array: Array) -> None:
        """Send a copy of the array, so the sender may write to its own at once."""
        self._boxes.setdefault((dst, name), deque()).append(array.copy())

    def take(self, dst: int, name: str) -> Array | None:
        """The oldest message of that name, or None where nothing has arrived."""
        box = self._boxes.get((dst, name))
        return box.popleft() if box else None

    def num_waiting(self) -> int:
        """Messages sent and not taken: 0 at the end of a correct run."""
        return sum(len(box) for box in self._boxes.values())


class Pair:
    """The two blocks from one rank to another."""

    __slots__ = ("read", "slots", "written")

    def __init__(self, slot_bytes: int) -> None:
        """Create two free blocks."""
        self.slots = [Slot(memoryview(bytearray(HEADER_BYTES)), np.empty(slot_bytes, np.uint8)) for _ in range(2)]
        self.written = self.read = 0


class Stage:
    """The state that the threads share.  Only the thread with the baton runs, so nothing is locked."""

    def __init__(self, num_ranks: int, slot_bytes: int, deadline_s: float | None, progress: Callable[[Any], None] | None) -> None:
        """Create a stage on which no rank runs yet."""
        self.num_ranks, self.slot_bytes, self.progress = num_ranks, slot_bytes, progress
        self.pairs: dict[tuple[int, int], Pair] = {}
        self.arrived = [0] * num_ranks
        self.shared: list[list[Array]] = []  # one list a call of symmetric
        self.failure: WorkerError | TransportError | None = None
        self.heard: BaseException | None = None  # what `progress` raised
        self._turns = [Lock() for _ in range(num_ranks)]
        self._over, self._live = Lock(), set(range(num_ranks))
        self._waiting: dict[int, str] = {}  # who has waited since something last moved, and for what
        self._ends_s = None if deadline_s is None else time.monotonic() + deadline_s
        self._deadline_s = deadline_s
        for lock in (*self._turns, self._over):
            lock.acquire()

    def wake(self) -> None:
        """Let all who wait go on: something moved."""
        self._waiting.clear()

    def hand_over(self, rank: int, what: str) -> None:
        """Let the next rank run until the baton comes back.

        Raises:
            PeerError: another rank has failed.
            TransportError: no rank can go on, or the deadline has passed.
        """
        self._waiting[rank] = what
        if self._live <= self._waiting.keys():
            self._fail(TransportError("deadlock: " + "; ".join(f"rank {r} waits for {self._waiting[r]}" for r in sorted(self._live))))
        if self._ends_s is not None and time.monotonic() > self._ends_s:
            self._fail(WorkerError(rank, f"waits for {what}; the deadline of {self._deadline_s} s has passed"))
        if self.failure is None:
            self._next(rank)
            self._turns[rank].acquire()
        if isinstance(self.failure, WorkerError):
            raise PeerError(self.failure.rank, self.failure.how)
        if self.failure is not None:
            raise TransportError(*self.failure.args)

    def begin(self) -> None:
        """Give the baton to rank 0 and wait until all have ended."""
        self._turns[0].release()
        try:
            self._over.acquire()
        except BaseException:
            self._fail(TransportError("interrupted"))
            raise

    def turn(self, rank: int) -> None:
        """Wait for the first turn."""
        self._turns[rank].acquire()

    def end(self, rank: int) -> None:
        """Note that the rank has ended."""
        self._live.remove(rank)
        self._waiting.clear()
        if self._live:
            self._next(rank)
        else:
            self._over.release()

    def _fail(self, error: WorkerError | TransportError) -> None:
        if self.failure is None:
            self.failure = error

    def _next(self, rank: int) -> None:
        later = [(rank + i) % self.num_ranks for i in range(1, self.num_ranks + 1)]
        self._turns[next(other for other in later if other in self._live)].release()


class LockstepWire:
    """The blocks of one rank on a Stage."""

    __slots__ = ("_stage", "_symmetric", "num_ranks", "patience", "rank", "slot_bytes")

    def __init__(self, stage: Stage, rank: int) -> None:
        """Create the wire of one rank."""
        self.rank, self.num_ranks, self.slot_bytes = rank, stage.num_ranks, stage.slot_bytes
        self._stage, self._symmetric, self.patience = stage, 0, 0

    def free(self, dst: int) -> Slot | None:
        """Where the next block for `dst` may be written."""
        pair = self._stage.pairs.get((self.rank, dst))
        if pair is None:
            pair = self._stage.pairs[self.rank, dst] = Pair(self.slot_bytes)
        return pair.slots[pair.written % 2] if pair.written - pair.read < 2 else None

    def commit(self, dst: int, num_bytes: int) -> None:
        """Hand the block over."""
        self._stage.pairs[self.rank, dst].written += 1
        self._stage.wake()

    def peek(self, src: int) -> Slot | None:
        """The oldest block from `src`."""
        pair = self._stage.pairs.get((src, self.rank))
        return None if pair is None or pair.read == pair.written else pair.slots[pair.read % 2]

    def release(self, src: int) -> None:
        """Give the block back."""
        self._stage.pairs[src, self.rank].read += 1
        self._stage.wake()

    def arrive(self) -> int:
        """Enter a barrier."""
        self._stage.arrived[self.rank] += 1
        self._stage.wake()
        return self._stage.arrived[self.rank]

    def is_past(self, ticket: int) -> bool:
        """Whether all ranks have entered it."""
        return min(self._stage.arrived) >= ticket

    def wait(self, idle: int, what: Callable[[], str]) -> None:
        """Hand the baton over."""
        self._stage.hand_over(self.rank, what())

    def resume(self) -> None:
        """Do nothing."""

    def symmetric(self, num_bytes: int, barrier: Callable[[], None]) -> list[Array]:
        """Plain arrays, since the ranks share a process."""
        if self._symmetric == len(self._stage.shared):
            self._stage.shared.append([np.zeros(num_bytes, np.uint8) for _ in range(self.num_ranks)])
        self._symmetric += 1
        arrays = self._stage.shared[self._symmetric - 1]
        barrier()
        return arrays

    def report(self, value: Any) -> None:
        """Call the callback at once."""
        if self._stage.progress is None:
            return
        try:
            self._stage.progress(value)
        except BaseException as error:
            self._stage.heard = error
            raise


def run(
    target: Callable[..., Any],
    num_ranks: int,
    args: tuple[Any, ...],
    *,
    slot_bytes: int,
    deadline_s: float | None,
    progress: Callable[[Any], None] | None,
) -> list[Any]:
    """What `target(channel, *args)` returns on each rank.

    Raises:
        WorkerError: a rank raised; the exception is the cause.
        TransportError: a deadlock.
        BaseException: as `progress` raises it.
    """
    stage = Stage(num_ranks, slot_bytes, deadline_s, progress)
    results: list[Any] = [None] * num_ranks

    def one(rank: int) -> None:
        stage.turn(rank)
        try:
            if stage.failure is None:
                channel = Endpoint(LockstepWire(stage, rank))
                results[rank] = target(channel, *args)
                channel.close()
        except BaseException as error:
            if stage.failure is None:
                stage.failure = WorkerError(rank, f"raised {type(error).__name__}: {error}")
                stage.failure.__cause__ = error
        finally:
            stage.end(rank)

    threads = [Thread(target=one, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    stage.begin()
    for thread in threads:
        thread.join()
    if stage.heard is not None:
        raise stage.heard
    if stage.failure is not None:
        raise stage.failure
    return results
