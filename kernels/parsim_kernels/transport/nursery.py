"""The process between the parent and the workers: a fresh interpreter, one BLAS thread, that forks the ranks and watches them.

The parent's threads and open files are not forked, what the target imports is imported once, and each descriptor of the run lives here.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
from dataclasses import dataclass, field
from typing import Final

from parsim_kernels.transport import worker
from parsim_kernels.transport.errors import TransportError
from parsim_kernels.transport.lifeline import Frame, FrameKind, Frames, die_with, how_ended, is_stopped, write
from parsim_kernels.transport.segment import SharedSegment
from parsim_kernels.transport.worker import LaunchRequest

_GRACE_S: Final = 1.0  # for the ranks that are left to end by themselves: on a busy machine each waits for a core first


@dataclass(slots=True)
class Child:
    """A worker process and the pipe that it holds while it lives."""

    rank: int
    pid: int
    fd: int  # the pipe's end here; its end is the worker's death
    frames: Frames = field(default_factory=Frames)
    has_finished: bool = False


def main(parent: int, work_fd: int, report_fd: int) -> None:
    """Read the work, run it, and report."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with open(work_fd, "rb") as file:
            work: LaunchRequest = pickle.load(file)
        segment = SharedSegment.create(work.num_ranks, work.slot_bytes)
        wakers = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(work.num_ranks)]
    except Exception as error:
        text = str(error) if isinstance(error, TransportError) else f"the workers cannot begin: {type(error).__name__}: {error}"
        write(report_fd, Frame(FrameKind.BROKEN, -1, pickle.dumps(text)))
        return
    _Watch(work, segment, wakers, report_fd).run()


class _Watch:
    """The watch over the ranks of a run until all have ended."""

    def __init__(self, work: LaunchRequest, segment: SharedSegment, wakers: list[int], report_fd: int) -> None:
        self._work, self._segment, self._wakers, self._report_fd = work, segment, wakers, report_fd
        self._poll = select.poll()
        self._failure: bytes | None = None
        self._kill_s: float | None = None  # when those that are left are killed
        self._children: dict[int, Child] = {}  # by descriptor
        for rank in range(work.num_ranks):
            child = self._fork(rank)
            self._children[child.fd] = child
            self._poll.register(child.fd, select.POLLIN)
        segment.map()
        self._end_s = None if work.deadline_s is None else time.monotonic() + work.deadline_s

    def run(self) -> None:
        """Relay frames, note deaths, keep the deadline."""
        while self._children:
            for fd, _ in self._poll.poll(self._timeout_ms()):
                self._hear(self._children[fd])
            now_s = time.monotonic()
            if self._kill_s is not None and now_s >= self._kill_s:
                for child in self._children.values():
                    os.kill(child.pid, signal.SIGKILL)
                self._kill_s = None
            if self._failure is None and self._end_s is not None and now_s >= self._end_s:
                self._time_out()
        if self._failure is not None:
            write(self._report_fd, Frame(FrameKind.FAILED, -1, self._failure))

    def _fork(self, rank: int) -> Child:
        mine, its = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            for fd in (mine, self._report_fd, *self._children):
                os.close(fd)
            worker.run(self._work, rank, self._segment, self._wakers, its, parent)
        os.close(its)
        return Child(rank, pid, mine)

    def _timeout_ms(self) -> float | None:
        times_s = [t for t in (self._kill_s, self._end_s if self._failure is None else None) if t is not None]
        return max(min(times_s) - time.monotonic(), 0.0) * 1000 + 1 if times_s else None

    def _hear(self, child: Child) -> None:
        frames = child.frames.read(child.fd)
        if frames is None:
            self._bury(child)
            return
        for frame in frames:
            if frame.kind in (FrameKind.RESULT, FrameKind.REPORT):
                write(self._report_fd, frame)
            elif frame.kind is FrameKind.RAISED and self._failure is None:
                error, text, trace = pickle.loads(frame.data)
                self._fail(child.rank, text, error, trace)
            child.has_finished |= frame.kind is not FrameKind.REPORT

    def _bury(self, child: Child) -> None:
        self._poll.unregister(child.fd)
        os.close(child.fd)
        del self._children[child.fd]
        _, status = os.waitpid(child.pid, 0)
        if not child.has_finished and self._failure is None:
            self._fail(child.rank, how_ended(status))

    def _time_out(self) -> None:
        """Fail at the deadline: a stopped rank is at fault; else say what each rank waits for."""
        late = f"the deadline of {self._work.deadline_s} s has passed"
        left = [child for child in self._children.values() if not child.has_finished] or list(self._children.values())
        stopped = [child.rank for child in left if is_stopped(child.pid)]
        if stopped:
            others = f", and so are ranks {stopped[1:]}" if stopped[1:] else ""
            self._fail(stopped[0], f"is stopped{others}; {late}")
            return
        said = [(child.rank, self._segment.text_of(child.rank)) for child in left]
        doing = "; ".join(f"rank {rank} waits for {text}" if text else f"rank {rank} computes" for rank, text in said)
        self._fail(-1, f"{late}: {doing}")

    def _fail(self, rank: int, how: str, error: BaseException | None = None, trace: str = "") -> None:
        self._failure = pickle.dumps((rank, how, error, trace))
        self._segment.accuse(rank, how)
        for waker in self._wakers:
            os.eventfd_write(waker, 1)
        self._kill_s = time.monotonic() + _GRACE_S
