"""The start of a run: `launch` starts its ranks on a named transport and gathers what they return."""

from __future__ import annotations

import json
import os
import pickle
import platform
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from parsim_kernels.transport import lockstep, mpi
from parsim_kernels.transport.errors import TransportError, WorkerError
from parsim_kernels.transport.lifeline import FrameKind, Frames, how_ended
from parsim_kernels.transport.segment import SharedSegment
from parsim_kernels.transport.worker import LaunchRequest, WaitMode

TransportName = Literal["lockstep", "shared_memory", "mpi"]
ProgressCallback = Callable[[Any], None]
_BLOCK_BYTES: Final = 512 << 10  # an all-reduce of 1 MiB takes 0.7 of the time of 256 KiB, of 64 MiB 0.9; twice as many gain no more
_ALL_BLOCKS_BYTES: Final = 64 << 20
_MIN_BLOCK_BYTES: Final = 4 << 10
_PATIENCE_S: Final = 60.0  # for the process that watches the workers to begin, and to end them after the deadline
_CODE: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from parsim_kernels.transport import nursery as n; n.main({}, {}, {})"
)


def launch(
    target: Callable[..., Any],
    num_ranks: int,
    transport: TransportName = "lockstep",
    args: Sequence[Any] = (),
    *,
    deadline_s: float | None = None,
    progress: ProgressCallback | None = None,
    wait: WaitMode = "auto",
    pin: bool = False,
    slot_bytes: int | None = None,
) -> list[Any]:
    """What `target(channel, *args)` returns on each rank.

    lockstep runs all ranks in this process, one at a time in a fixed order, and finds deadlocks; shared_memory runs a process each (Linux
    on x86-64), with one BLAS thread; mpi runs this process as one of mpiexec's (needs mpi4py), and all of them get all results.

    Args:
        target: for shared_memory, a function at the top level of a module; args and results are pickled.
        num_ranks: how many.
        transport: "lockstep", "shared_memory" or "mpi".
        args: handed to the target after its channel.
        deadline_s: how long the ranks may run [s]; needed to notice a process that is stopped, or a deadlock of processes.  For mpi, how
            long a rank may wait.
        progress: called with each object that rank 0 reports, while the run goes on.
        wait: how worker processes wait: "spin" never sleeps, "block" never spins, "auto" spins for a while if ranks <= cores.
        pin: keep each worker process on one core.
        slot_bytes: size of the blocks in which messages travel.

    Raises:
        WorkerError: a rank raised (its exception is the cause), died, or was stopped at the deadline.  No process is left.
        TransportError: the transport cannot work here, the ranks deadlock, or a message was never received.

    >>> def target(channel, factor):
    ...     other = 1 - channel.rank
    ...     channel.send(other, np.array([channel.rank * factor]))
    ...     return int(channel.receive(other).array[0])
    >>> import numpy as np
    >>> launch(target, 2, args=(7,))
    [7, 0]
    """
    if num_ranks < 1:
        raise TransportError(f"a run of {num_ranks} ranks; at least 1")
    size = slot_bytes or _usual_slot_bytes(num_ranks)
    if size % _MIN_BLOCK_BYTES:
        raise TransportError(f"blocks of {size} bytes; a multiple of {_MIN_BLOCK_BYTES}")
    if transport == "lockstep":
        return lockstep.run(target, num_ranks, tuple(args), slot_bytes=size, deadline_s=deadline_s, progress=progress)
    if transport == "mpi":
        return mpi.run(target, num_ranks, tuple(args), slot_bytes=size, deadline_s=deadline_s, progress=progress)
    if transport == "shared_memory":
        return _processes(LaunchRequest(target, tuple(args), num_ranks, size, deadline_s, wait, pin), progress)
    raise TransportError(f"unknown transport '{transport}'; there are lockstep, shared_memory, mpi")


def shared_bytes(num_ranks: int) -> int:
    """What the blocks between the ranks of a shared_memory run take, whatever they send.

    >>> shared_bytes(2) < 5_000_000 < 8_000_000_000 < shared_bytes(1000)
    True
    """
    return SharedSegment(-1, num_ranks, _usual_slot_bytes(num_ranks)).heap_start


def _usual_slot_bytes(num_ranks: int) -> int:
    return min(_BLOCK_BYTES, max(_ALL_BLOCKS_BYTES // (2 * num_ranks**2) // _MIN_BLOCK_BYTES, 1) * _MIN_BLOCK_BYTES)


def agree(transport: str, ask: Callable[[], Any]) -> Any:
    """What `ask()` returns, which all who start a run must know alike: for mpi what it returns on the first process, or raises there."""
    return mpi.first_says(ask) if transport == "mpi" else ask()


def _processes(work: LaunchRequest, progress: ProgressCallback | None) -> list[Any]:
    data = _pickle(work)
    work_in, work_out = os.pipe()
    report_in, report_out = os.pipe()
    code = _CODE.format(os.getpid(), work_in, report_out)
    paths = json.dumps([path or os.getcwd() for path in sys.path])
    try:
        nursery = subprocess.Popen(
            [sys.executable, "-c", code, paths], pass_fds=(work_in, report_out), env={**os.environ, **_environment()}
        )
    except OSError as error:
        for fd in (work_out, report_in):
            os.close(fd)
        raise TransportError(f"cannot start {sys.executable}: {error.strerror}") from error
    finally:
        os.close(work_in)
        os.close(report_out)
    try:
        try:
            with open(work_out, "wb") as file:
                file.write(data)
        except BrokenPipeError:
            pass  # it has died: seen below
        results = _gather(report_in, work, progress)
        nursery.wait(_PATIENCE_S)
    finally:
        os.close(report_in)
        nursery.kill()
        status = nursery.wait()
    if len(results) < work.num_ranks:
        how = how_ended(-status if status < 0 else status << 8)
        raise TransportError(f"the process that watches the workers {how}")
    return [pickle.loads(results[rank]) for rank in range(work.num_ranks)]


def _environment() -> dict[str, str]:
    """One BLAS thread a rank; and glibc keeps what is freed: a new array in fresh pages costs ten times the copy into it."""
    library, version = platform.libc_ver()
    is_new = library == "glibc" and [int(part) for part in version.split(".")] >= [2, 36]  # older ones refuse more than 32 MiB
    kept_bytes = 1 << 30 if is_new else 1 << 25
    return {
        **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        **dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(kept_bytes)),
        "MALLOC_TOP_PAD_": str(64 << 20),
    }


def _gather(fd: int, work: LaunchRequest, progress: ProgressCallback | None) -> dict[int, bytes]:
    """Pickled results by rank, until the stream ends."""
    frames, results, poller = Frames(), dict[int, bytes](), select.poll()
    poller.register(fd)
    end_s = None if work.deadline_s is None else time.monotonic() + work.deadline_s + _PATIENCE_S
    while True:
        if end_s is not None and not poller.poll(max(end_s - time.monotonic(), 0.0) * 1000):
            raise TransportError(f"the process that watches the workers is silent; the deadline of {work.deadline_s} s has passed")
        arrived = frames.read(fd)
        if arrived is None:
            return results
        for frame in arrived:
            if frame.kind is FrameKind.RESULT:
                results[frame.rank] = frame.data
            elif frame.kind is FrameKind.REPORT and progress is not None:
                progress(pickle.loads(frame.data))
            elif frame.kind is FrameKind.BROKEN:
                raise TransportError(pickle.loads(frame.data))
            elif frame.kind is FrameKind.FAILED:
                raise _error(*pickle.loads(frame.data))


def _error(rank: int, how: str, cause: BaseException | None, trace: str) -> TransportError:
    error = WorkerError(rank, how) if rank >= 0 else TransportError(how)
    error.__cause__ = cause
    if trace:
        error.add_note(f"on rank {rank}:\n{trace}")
    return error


def _pickle(work: LaunchRequest) -> bytes:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise TransportError(
            f"shared_memory needs Linux on x86-64 (memfd, and stores seen in order); this is {sys.platform} on {platform.machine()}: "
            "use lockstep or mpi"
        )
    name = getattr(work.target, "__qualname__", repr(work.target))
    if getattr(work.target, "__module__", None) == "__main__":
        raise TransportError(f"{name} is defined in the script that runs; workers import it, so it must stand in a module")
    try:
        return pickle.dumps(work, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise TransportError(f"{name} or its arguments cannot be sent to a worker process: {error}") from error
