"""What ranks do in the tests of the transports.  Each stands at the top level of a module, so that processes can import it."""

from __future__ import annotations

import os
import pickle
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from parsim_kernels import fabric, launch
from parsim_kernels.transport import Channel, Incoming, Outgoing, symmetric_all_reduce

DEADLINE_S = 60.0  # generous: the machine may be busy
DEADLINES_S = (0.5, 5.0, 60.0)  # of what ends at its deadline only: tried in turn, as on a busy machine the ranks may not be there yet
HAS_PROCESSES = sys.platform == "linux" and platform.machine() == "x86_64"
SLOT = 4096  # bytes of the small blocks, so that short messages are long

Case = tuple[list[fabric.Transfer], list[list[np.ndarray | None]]]


def has_mpi() -> bool:
    try:
        import mpi4py  # noqa: F401
    except ImportError:
        return False
    return mpiexec() is not None


def mpiexec() -> str | None:
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def under_mpi(target: Callable[..., Any], num_ranks: int, folder: Path, args: tuple[Any, ...], **options: Any) -> list[Any]:
    """Results of a launch in a program that mpiexec starts."""
    given, taken = folder / "given", folder / "taken"
    given.write_bytes(pickle.dumps((sys.path, target, num_ranks, args, options)))
    done = subprocess.run(
        [str(mpiexec()), "-n", str(num_ranks), sys.executable, __file__, str(given), str(taken)],
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return pickle.loads(taken.read_bytes())


def first_come(channel: Channel, elements: int) -> list[tuple[int, int]]:
    """Rank 0 takes two messages of each other rank as they come; each sends its second when it hears that all first ones are there."""
    others = list(range(1, channel.num_ranks))
    if channel.rank:
        channel.send(0, np.full(elements, channel.rank), tag=3)
        channel.receive(0, tag=1)
        channel.send(0, np.full(elements, -channel.rank), tag=3)
        return []
    taken, waiting = [], others
    for _ in range(2):
        waiting = list(others)
        while waiting:
            src = channel.first(waiting, tag=3)
            waiting.remove(src)
            taken.append((src, int(channel.receive(src, tag=3).array.sum())))
        for dst in others if len(taken) == len(others) else ():
            channel.send(dst, b"", tag=1)
    return taken


def collectives(channel: Channel, group: list[int], cases: list[Case]) -> list[tuple[list[np.ndarray | None], list[tuple[int, int, int]]]]:
    """Of each case, the chunks that the rank is left with, and (dst, bytes, clock) of what it sent and took."""
    position, outcomes = group.index(channel.rank), []
    for transfers, everyone in cases:
        chunks, sent = list(everyone[position]), []

        def send(src: int, dst: int, array: np.ndarray, sent: list[tuple[int, int, int]] = sent) -> int:
            sent.append((src, dst, array.nbytes))
            return 1000 * src + dst

        def arrive(src: int, dst: int, message: Any) -> None:
            if src < len(group) and dst < len(group):
                assert message.clock == 1000 * src + dst

        fabric.run_one(transfers, position, chunks, channel, group, send=send, arrive=arrive)
        outcomes.append((chunks, sent))
    return outcomes


def all_to_all(channel: Channel, num_bytes: int) -> bool:
    """Every rank to every other at once; the content says from whom to whom."""
    others = [rank for rank in range(channel.num_ranks) if rank != channel.rank]
    sends = [Outgoing(dst, np.full(num_bytes, 16 * channel.rank + dst, np.uint8)) for dst in others]
    messages = channel.exchange(sends, [Incoming(src) for src in others])
    return all(
        bool(np.all(m.array == 16 * src + channel.rank)) and m.array.size == num_bytes for src, m in zip(others, messages, strict=True)
    )


def ring_of_sends(channel: Channel, num_bytes: int) -> int:
    """Everyone sends to the right before anyone receives: a channel whose send waits would stop here."""
    n = channel.num_ranks
    array = np.full(num_bytes, channel.rank, np.uint8)
    channel.send((channel.rank + 1) % n, array)
    array[:] = 99  # may be written to at once
    taken = channel.receive((channel.rank - 1) % n).array
    assert taken.size == num_bytes and np.all(taken == taken[0])
    return int(taken[0])


def arrays_of_each_kind(channel: Channel) -> bool:
    """Round trips of shapes and dtypes."""
    kinds = [
        np.arange(24, dtype=np.float64).reshape(2, 3, 4),
        np.array(5.0),
        np.arange(7, dtype=np.int32),
        np.zeros((0, 3), np.float32),
        np.arange(3000, dtype=np.int64)[::3],
        np.arange(20.0).reshape(4, 5).T,
        np.array([True, False]),
        np.arange(3000, dtype=np.complex128),
    ]
    other = 1 - channel.rank
    messages = channel.exchange([Outgoing(other, array, tag=i, clock=-(2**62) - i) for i, array in enumerate(kinds)], [])
    assert messages == []
    same = []
    for i, array in reversed(list(enumerate(kinds))):  # by tag, not by the order of arrival
        message = channel.receive(other, i)
        same.append(message.array.dtype == array.dtype and message.array.shape == array.shape and np.array_equal(message.array, array))
        assert message.clock == -(2**62) - i
    channel.send(other, b"plain bytes")
    channel.send(other, b"")
    return all(same) and channel.receive(other).array.tobytes() == b"plain bytes" and channel.receive(other).array.size == 0


def reduced_on_arrival(channel: Channel, elements: int) -> tuple[list[float], list[int], list[float]]:
    """All others add to one array of rank 0, in the order of the list, though rank 1 sends last; the own array stays as it was."""
    rank, others = channel.rank, range(1, channel.num_ranks)
    mine = np.random.default_rng(rank).standard_normal(elements)
    whole = np.arange(elements) * (-1) ** rank
    if rank == 1:
        channel.receive(channel.num_ranks - 1, tag=2)
    if rank:
        channel.exchange([Outgoing(0, mine), Outgoing(0, whole, tag=1)], [])
        if rank == channel.num_ranks - 1:
            channel.send(1, b"", tag=2)
        return [], [], []
    total, largest = np.empty(elements), whole.copy()
    receives = [Incoming(src, 0, total, "sum", mine if src == 1 else None) for src in others]
    channel.exchange([], [*receives, *(Incoming(src, 1, largest, "max") for src in others)])
    return total.tolist(), largest.tolist(), mine.tolist()


def barriers(channel: Channel, times: int) -> bool:
    """Nobody leaves a barrier that another has not entered."""
    counters = channel.symmetric(1, np.int64)
    for i in range(1, times + 1):
        counters[channel.rank][0] = i
        channel.barrier()
        if min(int(counter[0]) for counter in counters) < i:
            return False
        channel.barrier()
    return True


def symmetric_sums(channel: Channel, sizes: list[int], dtype: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sum and maximum of an array of each size."""
    outcomes = []
    for size in sizes:
        arrays = channel.symmetric((size,), dtype)
        assert not arrays[channel.rank].any()
        found = []
        for operator in ("sum", "max"):
            arrays[channel.rank][...] = ranks_array(channel.rank, size, dtype)
            symmetric_all_reduce(channel, arrays, operator)
            found.append(arrays[channel.rank].copy())
            channel.barrier()
        outcomes.append((found[0], found[1]))
    return outcomes


def ranks_array(rank: int, size: int, dtype: str) -> np.ndarray:
    return (np.random.default_rng([rank, size]).standard_normal(size) * 1000).astype(dtype)


def chatty(channel: Channel) -> int:
    """Only rank 0 is heard."""
    for i in range(3):
        channel.report((channel.rank, i))
    return channel.rank


def environment(channel: Channel) -> tuple[str | None, int, int]:
    return os.environ.get("OPENBLAS_NUM_THREADS"), len(os.sched_getaffinity(0)), os.getpid()


def waits_for_each_other(channel: Channel) -> None:
    channel.receive((channel.rank + 1) % channel.num_ranks, tag=7)


def leaves_a_message(channel: Channel) -> None:
    if channel.rank == 0:
        channel.send(1, np.zeros(3), tag=5)


def aborts(channel: Channel) -> None:
    if channel.rank == 1:
        channel.abort("enough")
    channel.barrier()


def fails(channel: Channel, victim: int, how: str, after_s: float, seed: int) -> None:
    """Ring exchanges for ever; the victim ends as it is told to, at some point."""
    n, start_s, chance = channel.num_ranks, time.monotonic(), random.Random(seed)
    channel.report([channel.rank, os.getpid()])
    array = np.ones(chance.randrange(1, 300_000))
    while True:
        if channel.rank == victim and time.monotonic() - start_s >= after_s:
            end(how)
        channel.exchange([Outgoing((channel.rank + 1) % n, array)], [Incoming((channel.rank - 1) % n)])
        if chance.random() < 0.2:
            channel.barrier()


def end(how: str) -> None:
    if how == "raise":
        raise ValueError("no such thing")
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[how])


def tells_its_process(channel: Channel, folder: str) -> None:
    """For a parent that is killed: each rank leaves its process id, then exchanges for ever."""
    (Path(folder) / str(channel.rank)).write_text(str(os.getpid()))
    fails(channel, -1, "", 0.0, 0)


def main() -> None:
    """A program for mpiexec."""
    paths, target, num_ranks, args, options = pickle.loads(Path(sys.argv[1]).read_bytes())
    sys.path[:] = paths
    results = launch(target, num_ranks, "mpi", args, deadline_s=DEADLINE_S, **options)
    from mpi4py import MPI

    if MPI.COMM_WORLD.Get_rank() == 0:
        Path(sys.argv[2]).write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main()
