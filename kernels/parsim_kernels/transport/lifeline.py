"""Ends of processes: a child dies with its parent, its end is put in words, and a pipe of frames shows that a worker lives."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from enum import IntEnum
from typing import Final, NamedTuple

_PR_SET_PDEATHSIG: Final = 1
_HEAD: Final = struct.Struct("=iiq")  # kind, rank, bytes that follow
_READ_BYTES: Final = 1 << 20


class FrameKind(IntEnum):
    """The kinds of frames."""

    REPORT = 1  # an object for `progress`
    RESULT = 2  # what the target returned
    RAISED = 3  # the exception of a rank, and its text
    FOLLOWED = 4  # a rank ends because another has failed
    FAILED = 5  # the run is over: who, and how
    BROKEN = 6  # the run could not begin


class Frame(NamedTuple):
    """A message to the parent; `data` is pickled."""

    kind: FrameKind
    rank: int
    data: bytes


class Frames:
    """A reader that cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        """Start with an empty stream."""
        self._buffer = bytearray()

    def read(self, fd: int) -> list[Frame] | None:
        """The frames that are complete after one read, or None at the end of the stream."""
        data = os.read(fd, _READ_BYTES)
        if not data:
            return None
        self._buffer += data
        frames, start = [], 0
        while len(self._buffer) - start >= _HEAD.size:
            kind, rank, size = _HEAD.unpack_from(self._buffer, start)
            stop = start + _HEAD.size + size
            if len(self._buffer) < stop:
                break
            frames.append(Frame(FrameKind(kind), rank, bytes(self._buffer[start + _HEAD.size : stop])))
            start = stop
        del self._buffer[:start]
        return frames


def write(fd: int, frame: Frame) -> None:
    """Write a whole frame to a pipe, waiting for room."""
    rest = memoryview(_HEAD.pack(frame.kind, frame.rank, len(frame.data)) + frame.data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, and end now if it is dead already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def how_ended(status: int) -> str:
    """How a child ended, from its wait status: continues "rank 3 ...".

    >>> how_ended(9), how_ended(3 << 8)
    ('was killed by SIGKILL', 'exited with status 3 before it had finished')
    """
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code} before it had finished"
    return f"was killed by {_signal_name(-code)}"


def is_stopped(pid: int) -> bool:
    """Whether a process is held by SIGSTOP or a debugger."""
    return _state(pid) in ("T", "t")


def has_ended(pid: int) -> bool:
    """Whether a process is no more, or only waits for its parent to ask how it ended."""
    return _state(pid) in ("", "Z", "X")


def _state(pid: int) -> str:
    """The letter of a process's state in /proc; "" for none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
