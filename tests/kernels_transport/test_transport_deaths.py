"""However a rank ends, all others end too, the error names it, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transport_targets as targets

from parsim_kernels import TransportError, WorkerError, launch

pytestmark = pytest.mark.skipif(not targets.HAS_PROCESSES, reason="shared memory is for Linux on x86-64")

HOW = {
    "kill": "was killed by SIGKILL",
    "raise": "raised ValueError: no such thing",
    "exit": "exited with status 3 before it had finished",
    "stop": "is stopped; the deadline",
}


def alive(process: int) -> bool:
    """A zombie that nobody has waited for counts as ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children() -> set[str]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            found |= set((task / "children").read_text().split())
    return found


def descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(found)


def left_behind() -> tuple[set[str], set[str], list[str]]:
    """Children, shared memory by name (as Python or we would name it: others are at it too), and open descriptors of this process."""
    return children(), {name for name in os.listdir("/dev/shm") if name.startswith(("psm_", "parsim"))}, descriptors()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    before = left_behind()
    yield
    assert left_behind() == before


def dies(num_ranks: int, victim: int, how: str, after_s: float, seed: int = 0) -> TransportError:
    """The error of a run in which the victim ends."""
    for deadline_s in targets.DEADLINES_S if how == "stop" else (targets.DEADLINE_S,):
        with pytest.raises(TransportError) as raised:
            launch(targets.fails, num_ranks, "shared_memory", (victim, how, after_s, seed), deadline_s=deadline_s)
        if isinstance(raised.value, WorkerError):
            break
    return raised.value


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("victim", [0, 2])
def test_when_a_rank_ends_the_run_ends_and_the_error_names_it(how: str, victim: int) -> None:
    error = dies(3, victim, how, after_s=0.05)
    assert isinstance(error, WorkerError) and error.rank == victim
    assert str(error).startswith(f"rank {victim} {HOW[how]}")


def test_the_exception_of_a_rank_comes_back_with_the_place_where_it_was_raised() -> None:
    error = dies(2, 1, "raise", after_s=0.0)
    assert isinstance(error.__cause__, ValueError)
    assert "in fails" in "".join(error.__notes__)


def test_the_other_ranks_are_told_who_ended_and_how(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="rank 1 exited with status 3"):
        launch(others_note_why, 3, "shared_memory", (str(tmp_path),), deadline_s=targets.DEADLINE_S)
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["rank 1 exited with status 3 before it had finished"] * 2


def others_note_why(channel: Any, folder: str) -> None:
    try:
        targets.fails(channel, 1, "exit", 0.0, 0)
    except TransportError as error:
        (Path(folder) / str(channel.rank)).write_text(str(error))
        raise


@pytest.mark.parametrize("transport", ["lockstep", "shared_memory"])
def test_an_abort_ends_every_rank(transport: Any) -> None:
    with pytest.raises(WorkerError, match="rank 1 raised TransportError: rank 1 aborts: enough"):
        launch(targets.aborts, 3, transport, deadline_s=targets.DEADLINE_S)


def test_an_exception_in_lockstep_is_the_cause_of_the_error() -> None:
    with pytest.raises(WorkerError, match="rank 1 raised ValueError: no such thing") as raised:
        launch(targets.fails, 3, args=(1, "raise", 0.0, 0))
    assert isinstance(raised.value.__cause__, ValueError)


@pytest.mark.skipif(not targets.has_mpi(), reason="no mpi4py, or no mpiexec")
def test_an_exception_under_mpi_ends_every_process_and_names_its_rank(tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    with pytest.raises(RuntimeError, match="rank 1 raised ValueError: no such thing"):
        targets.under_mpi(targets.fails, 3, tmp_path, (1, "raise", 0.05, 0))
    for name in set(os.listdir("/dev/shm")) - before:
        if name.startswith("mpich_shm_"):  # MPICH leaves it after MPI_Abort
            Path("/dev/shm", name).unlink()


def test_a_progress_that_raises_ends_the_run() -> None:
    processes: list[int] = []

    def progress(value: Any) -> None:
        processes.append(value[1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(targets.fails, 2, "shared_memory", (-1, "", 0.0, 0), progress=progress)
    ended(lambda: processes)


@pytest.mark.parametrize("transport", ["lockstep", "shared_memory"])
def test_what_a_progress_raises_is_the_callers_own(transport: Any) -> None:
    raised = KeyError("mine")

    def progress(value: Any) -> None:
        raise raised

    with pytest.raises(KeyError) as caught:
        launch(targets.chatty, 2, transport, progress=progress, deadline_s=targets.DEADLINE_S)
    assert caught.value is raised


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:] = {sys.path!r}
import transport_targets as targets
from parsim_kernels import launch
launch(targets.tells_its_process, 3, "shared_memory", ({str(tmp_path)!r},))
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        end_s = time.monotonic() + targets.DEADLINE_S
        while len(processes(tmp_path)) < 3 and time.monotonic() < end_s:
            time.sleep(0.01)
        assert len(processes(tmp_path)) == 3 and all(map(alive, processes(tmp_path)))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    ended(lambda: processes(tmp_path))


def test_ranks_end_by_themselves_where_the_process_that_watches_them_is_stopped(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:] = {sys.path!r}
import transport_targets as targets
from parsim_kernels import launch
launch(targets.tells_its_process, 3, "shared_memory", ({str(tmp_path)!r},), deadline_s={targets.DEADLINE_S})
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    watching = 0
    try:
        end_s = time.monotonic() + targets.DEADLINE_S
        while len(processes(tmp_path)) < 3 and time.monotonic() < end_s:
            time.sleep(0.01)
        victim, *others = processes(tmp_path)
        assert len(others) == 2 and all(map(alive, others))
        watching = int(Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(watching, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        ended(lambda: others)
        os.kill(watching, signal.SIGCONT)  # it names the rank that was killed, not those that followed
        rank = next(path.name for path in tmp_path.iterdir() if path.read_text() == str(victim))
        assert f"rank {rank} was killed by SIGKILL" in parent.communicate(timeout=targets.DEADLINE_S)[1]
    finally:
        parent.kill()
        parent.communicate()


def processes(folder: Path) -> list[int]:
    return [int(text) for path in folder.iterdir() if (text := path.read_text())]


def ended(given: Callable[[], list[int]], within_s: float = targets.DEADLINE_S) -> None:
    """All these processes end; the kernel kills a child soon after its parent, not at once."""
    end_s = time.monotonic() + within_s
    while any(map(alive, given())) and time.monotonic() < end_s:
        time.sleep(0.01)
    assert given() and not any(map(alive, given()))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_a_rank_may_end_at_any_time(seed: int) -> None:
    chance = random.Random(seed)
    num_ranks, how = chance.randrange(1, 6), chance.choice(list(HOW))
    victim = chance.randrange(num_ranks)
    error = dies(num_ranks, victim, how, chance.random() * 0.3, seed)
    assert str(error).startswith(f"rank {victim} {HOW[how]}")
