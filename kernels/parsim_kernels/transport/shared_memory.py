"""The wire between worker processes: blocks in shared memory; spin, then yield the core, then sleep until woken."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Any, Final

from parsim_kernels.signature import Array
from parsim_kernels.transport.errors import PeerError, TransportError
from parsim_kernels.transport.lifeline import has_ended
from parsim_kernels.transport.message import Slot
from parsim_kernels.transport.segment import NUM_SLOTS, PAGE, SharedSegment

_SPINS: Final = 1000  # sweeps of about 1 us each
_YIELDS: Final = 10
_SLEEP_MS: Final = 5  # bounds what a wake-up costs that overtook the flag which asks for it
_LOOK_S: Final = 2.0  # a waiting rank looks so often whether the others live; who watches them all tells the end of one much sooner


class SharedMemoryWire:
    """The blocks of one rank in a SharedSegment."""

    def __init__(
        self, segment: SharedSegment, rank: int, wakers: list[int], spins: bool, sleeps: bool, report: Callable[[Any], None]
    ) -> None:
        """Maps the segment.  `wakers`: an eventfd of each rank; `spins`, `sleeps`: which of the ways to wait it uses."""
        segment.map()
        n = segment.num_ranks
        self.rank, self.num_ranks, self.slot_bytes, self.report = rank, n, segment.slot_bytes, report
        self._segment, self._words, self._wakers = segment, segment.words, wakers
        self._out = [segment.slots(rank, dst) for dst in range(n)]
        self._in = [segment.slots(src, rank) for src in range(n)]
        self._written, self._read = [0] * n, [0] * n
        counters = (segment.written_index, segment.read_index)
        self._out_written, self._out_read = ([index(rank, dst) for dst in range(n)] for index in counters)
        self._in_written, self._in_read = ([index(src, rank) for src in range(n)] for index in counters)
        self._asleep = [segment.asleep_index(other) for other in range(n)]
        self._arrived = [segment.arrived_index(other) for other in range(n)]
        self._tickets, self._heap_bytes, self._is_asleep, self._has_said = 0, 0, False, False
        self._processes = [segment.process_index(other) for other in range(n)]
        self._words[self._processes[rank]] = os.getpid()
        self._look_s, self._missed = 0.0, -1  # when to look next, and the rank that was missed at the last look
        self._spins = _SPINS if spins else 1
        self._sleeps = self._spins + (_YIELDS if spins else 1) if sleeps else None
        self.patience = self._spins + 2 * _YIELDS
        self._poll = select.poll()
        self._poll.register(wakers[rank], select.POLLIN)

    def free(self, dst: int) -> Slot | None:
        """Where the next block for `dst` may be written."""
        written = self._written[dst]
        return None if written - self._words[self._out_read[dst]] >= NUM_SLOTS else self._out[dst][written % NUM_SLOTS]

    def commit(self, dst: int, num_bytes: int) -> None:
        """Hand the block over."""
        self._written[dst] = self._words[self._out_written[dst]] = self._written[dst] + 1
        if self._words[self._asleep[dst]]:
            os.eventfd_write(self._wakers[dst], 1)

    def peek(self, src: int) -> Slot | None:
        """The oldest block from `src`."""
        read = self._read[src]
        return None if read == self._words[self._in_written[src]] else self._in[src][read % NUM_SLOTS]

    def release(self, src: int) -> None:
        """Give the block back."""
        self._read[src] = self._words[self._in_read[src]] = self._read[src] + 1
        if self._words[self._asleep[src]]:
            os.eventfd_write(self._wakers[src], 1)

    def arrive(self) -> int:
        """Enter a barrier."""
        words = self._words
        self._tickets = words[self._arrived[self.rank]] = self._tickets + 1
        for other, asleep in enumerate(self._asleep):
            if words[asleep] and other != self.rank:
                os.eventfd_write(self._wakers[other], 1)
        return self._tickets

    def is_past(self, ticket: int) -> bool:
        """Whether all ranks have entered it."""
        words = self._words
        return all(words[index] >= ticket for index in self._arrived)

    def wait(self, idle: int, what: Callable[[], str]) -> None:
        """Spin, then yield, then sleep; look for the end of the run each time."""
        if self._words[0]:
            raise_accusation(self._segment)
        if idle < self._spins:
            return
        if not self._has_said:
            self._has_said, self._look_s = True, time.monotonic() + _LOOK_S
            self._segment.say(self.rank, what())
        elif time.monotonic() >= self._look_s:
            self._look()
        if self._sleeps is None or idle < self._sleeps:
            os.sched_yield()
        elif not self._is_asleep:  # once more around before sleeping, for what came before the flag was up
            self._is_asleep, self._words[self._asleep[self.rank]] = True, 1
        elif self._poll.poll(_SLEEP_MS):
            os.eventfd_read(self._wakers[self.rank])

    def finish(self) -> None:
        """Tell the others that this rank's end is no death."""
        self._words[self._processes[self.rank]] = 0

    def _look(self) -> None:
        """End with a rank that died two looks ago: whoever watches the ranks would have told it, were it not stopped itself."""
        pids = [self._words[index] for index in self._processes]
        dead = [rank for rank, pid in enumerate(pids) if pid and has_ended(pid)]
        if self._missed in dead:
            raise PeerError(self._missed, "has ended, and the process that watches the ranks does not say how")
        self._missed, self._look_s = dead[0] if dead else -1, time.monotonic() + _LOOK_S

    def resume(self) -> None:
        """Leave the state of waiting."""
        if self._is_asleep:
            self._is_asleep, self._words[self._asleep[self.rank]] = False, 0
        if self._has_said:
            self._has_said = False
            self._segment.say(self.rank, "")

    def symmetric(self, num_bytes: int, barrier: Callable[[], None]) -> list[Array]:
        """Pages of the same file behind all blocks; each rank makes its own, then all map all."""
        size = max(-(-num_bytes // PAGE), 1) * PAGE
        offset, self._heap_bytes = self._heap_bytes, self._heap_bytes + size * self.num_ranks
        self._segment.heap(offset, size, self.rank)
        barrier()
        return self._segment.mapped_heap(offset, size)


def raise_accusation(segment: SharedSegment) -> None:
    """Raise for the rank that ended the run.

    Raises:
        PeerError: always, or TransportError where it was nobody's fault alone.
    """
    accused = segment.accusation()
    assert accused is not None
    rank, how = accused
    if rank < 0:
        raise TransportError(how)
    raise PeerError(rank, how)
