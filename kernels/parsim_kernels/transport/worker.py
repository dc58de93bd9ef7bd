"""One rank in a process of its own: it runs the target and sends home what that returned or raised."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from parsim_kernels.transport.endpoint import Endpoint
from parsim_kernels.transport.errors import PeerError
from parsim_kernels.transport.lifeline import Frame, FrameKind, die_with, write
from parsim_kernels.transport.segment import SharedSegment
from parsim_kernels.transport.shared_memory import SharedMemoryWire

WaitMode = Literal["auto", "spin", "block"]


class LaunchRequest(NamedTuple):
    """The request of the parent process."""

    target: Callable[..., Any]
    args: tuple[Any, ...]
    num_ranks: int
    slot_bytes: int
    deadline_s: float | None
    wait: WaitMode
    pin: bool


def run(work: LaunchRequest, rank: int, segment: SharedSegment, wakers: list[int], report_fd: int, parent: int) -> None:
    """Live as a worker process; does not return."""
    status = 1
    try:
        die_with(parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends all
        cores = sorted(os.sched_getaffinity(0))
        spins = work.wait == "spin" or (work.wait == "auto" and work.num_ranks <= len(cores))
        if work.pin:
            os.sched_setaffinity(0, {cores[rank % len(cores)]})
        write(report_fd, _outcome(work, rank, segment, wakers, spins, report_fd))
        status = 0
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _outcome(work: LaunchRequest, rank: int, segment: SharedSegment, wakers: list[int], spins: bool, report_fd: int) -> Frame:
    def report(value: Any) -> None:
        write(report_fd, Frame(FrameKind.REPORT, rank, pickle.dumps(value, pickle.HIGHEST_PROTOCOL)))

    try:
        wire = SharedMemoryWire(segment, rank, wakers, spins, work.wait != "spin", report)
        channel = Endpoint(wire)
        data = pickle.dumps(work.target(channel, *work.args), pickle.HIGHEST_PROTOCOL)
        channel.close()
        wire.finish()
        return Frame(FrameKind.RESULT, rank, data)
    except BaseException as error:
        if segment.accusation() is not None or isinstance(error, PeerError):
            return Frame(FrameKind.FOLLOWED, rank, b"")
        return Frame(FrameKind.RAISED, rank, _pickle(error))


def _pickle(error: BaseException) -> bytes:
    """Pickle the exception where that is possible, its message, and its traceback."""
    text = f"raised {type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    try:
        data = pickle.dumps((error, text, trace))
        pickle.loads(data)
        return data
    except Exception:
        return pickle.dumps((None, text, trace))
