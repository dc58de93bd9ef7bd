"""The shared file of a run: flags, counters with a single writer each, two blocks a directed pair, and arrays that all ranks map.

A counter is an int64 on a cache line of its own.  Stores become visible in program order on x86-64, so a block is written before its
counter says so.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from typing import Final

import numpy as np

from parsim_kernels.signature import Array
from parsim_kernels.transport.errors import TransportError
from parsim_kernels.transport.message import HEADER_BYTES, Slot

LINE: Final = 64  # bytes of a cache line
WORDS: Final = LINE // 8
PAGE: Final = mmap.PAGESIZE
TEXT_BYTES: Final = 2048
NUM_SLOTS: Final = 2
_STATUS_LINES: Final = 2 + TEXT_BYTES // LINE  # a rank's: asleep and process, arrived, text
_HEAD_LINES: Final = 2 + TEXT_BYTES // LINE  # of the run: 2 + who ended it (0: nobody yet), then how


class SharedSegment:
    """The file as one process maps it.  Every offset follows from the ranks by arithmetic."""

    def __init__(self, fd: int, num_ranks: int, slot_bytes: int) -> None:
        """Map what `create` made."""
        self.fd, self.num_ranks, self.slot_bytes = fd, num_ranks, slot_bytes
        self._pairs_line = _HEAD_LINES + num_ranks * _STATUS_LINES
        self._slots_start = _up((self._pairs_line + 2 * num_ranks * num_ranks) * LINE, PAGE)
        self._stride = _up(HEADER_BYTES, LINE) + slot_bytes
        self.heap_start = _up(self._slots_start + NUM_SLOTS * num_ranks * num_ranks * self._stride, PAGE)
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls, num_ranks: int, slot_bytes: int) -> SharedSegment:
        """A new file, all zeros, that ends with its last descriptor and mapping.

        Raises:
            TransportError: there is no memory for it.
        """
        segment = cls(os.memfd_create("parsim-ranks"), num_ranks, slot_bytes)
        try:
            _allocate(segment.fd, 0, segment.heap_start)
        except OSError as error:
            os.close(segment.fd)
            raise TransportError(f"no shared memory of {segment.heap_start} bytes for {num_ranks} ranks: {error.strerror}") from error
        return segment

    def map(self) -> None:
        """Map everything but the heap, page tables filled."""
        self._map = mmap.mmap(self.fd, self.heap_start, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self.bytes = memoryview(self._map)
        self.words = self.bytes[: self._slots_start].cast("q")

    def close(self) -> None:
        """Unmap, and close the descriptor."""
        if self._map is not None:
            self.words.release()
            self.bytes.release()
            self._map.close()
        os.close(self.fd)

    def slots(self, src: int, dst: int) -> tuple[Slot, ...]:
        """The blocks from one rank to another."""
        first = self._slots_start + NUM_SLOTS * (src * self.num_ranks + dst) * self._stride
        starts = [first + i * self._stride for i in range(NUM_SLOTS)]
        whole = np.frombuffer(self.bytes, np.uint8)
        payload = [start + _up(HEADER_BYTES, LINE) for start in starts]
        return tuple(
            Slot(self.bytes[start : start + HEADER_BYTES], whole[data : data + self.slot_bytes])
            for start, data in zip(starts, payload, strict=True)
        )

    def written_index(self, src: int, dst: int) -> int:
        """Index of the word that counts the blocks written from `src` to `dst`; `src` writes it."""
        return (self._pairs_line + 2 * (src * self.num_ranks + dst)) * WORDS

    def read_index(self, src: int, dst: int) -> int:
        """Index of the word that counts the blocks read; `dst` writes it."""
        return self.written_index(src, dst) + WORDS

    def asleep_index(self, rank: int) -> int:
        """Index of the word that is 1 while a rank must be woken; the rank writes it."""
        return (_HEAD_LINES + rank * _STATUS_LINES) * WORDS

    def process_index(self, rank: int) -> int:
        """Index of the word with the number of a rank's process, 0 before it begins and once it has finished; the rank writes it."""
        return self.asleep_index(rank) + 1

    def arrived_index(self, rank: int) -> int:
        """Index of the word that counts a rank's barriers; the rank writes it."""
        return self.asleep_index(rank) + WORDS

    def say(self, rank: int, text: str) -> None:
        """Write what a rank waits for; only that rank writes it, the watching process reads it."""
        self._write((_HEAD_LINES + rank * _STATUS_LINES + 2) * LINE, text)

    def text_of(self, rank: int) -> str:
        """Read what a rank waits for, or ""."""
        return self._read((_HEAD_LINES + rank * _STATUS_LINES + 2) * LINE)

    def accuse(self, rank: int, how: str) -> None:
        """End the run for all ranks; only the watching process does so, once.  Rank -1: no single rank is at fault."""
        self._write(2 * LINE, how)
        self.words[0] = rank + 2

    def accusation(self) -> tuple[int, str] | None:
        """The rank that ended the run, and how; None while it goes on."""
        word = self.words[0]
        return (word - 2, self._read(2 * LINE)) if word else None

    def heap(self, offset: int, num_bytes: int, rank: int) -> None:
        """Allocate the pages of one rank's array; `mapped_heap` maps those of all ranks.

        Raises:
            TransportError: there is no memory.
        """
        try:
            _allocate(self.fd, self.heap_start + offset + rank * num_bytes, num_bytes)
        except OSError as error:
            raise TransportError(f"no shared memory of {num_bytes} bytes for rank {rank}: {error.strerror}") from error

    def mapped_heap(self, offset: int, num_bytes: int) -> list[Array]:
        """Map the arrays of all ranks, which are unmapped with the last of them."""
        size = self.num_ranks * num_bytes
        mapped = mmap.mmap(self.fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=self.heap_start + offset)
        whole = np.frombuffer(mapped, np.uint8)
        return [whole[rank * num_bytes : (rank + 1) * num_bytes] for rank in range(self.num_ranks)]

    def _write(self, start: int, text: str) -> None:
        data = text.encode()[: TEXT_BYTES - 8]
        self.bytes[start + 8 : start + 8 + len(data)] = data
        self.bytes[start : start + 8] = len(data).to_bytes(8, "little")

    def _read(self, start: int) -> str:
        size = min(int.from_bytes(self.bytes[start : start + 8], "little"), TEXT_BYTES - 8)
        return bytes(self.bytes[start + 8 : start + 8 + size]).decode(errors="replace")


def _allocate(fd: int, start: int, num_bytes: int) -> None:
    """Have memory for so many bytes of a file.

    Raises:
        OSError: there is none; asked for it all the same, the kernel ends processes until there is.
    """
    free = available_bytes()
    if free is not None and num_bytes > free:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    os.posix_fallocate(fd, start, num_bytes)


def available_bytes() -> int | None:
    """Bytes of memory that this machine has left without swapping; None where its kernel does not say."""
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")), None)
    return None


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
