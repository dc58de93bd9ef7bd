"""The wire over MPI: a block is a message of its own.  Start the program with mpiexec; mpi4py is imported when it is asked for."""

from __future__ import annotations

import importlib
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from parsim_kernels.signature import Array
from parsim_kernels.transport.endpoint import Endpoint
from parsim_kernels.transport.errors import TransportError
from parsim_kernels.transport.message import HEADER_BYTES, Slot

_NUM_SLOTS: Final = 2
_PATIENCE: Final = 1000


class _Buffer(NamedTuple):
    whole: Array  # uint8: header, then payload
    slot: Slot


class MpiWire:
    """The blocks of one rank of a communicator."""

    def __init__(self, module: Any, comm: Any, slot_bytes: int, deadline_s: float | None, progress: Callable[[Any], None] | None) -> None:
        """Create the wire of this process; `module` is mpi4py.MPI."""
        self.rank, self.num_ranks, self.slot_bytes = comm.Get_rank(), comm.Get_size(), slot_bytes
        self.patience = _PATIENCE
        self._module, self._comm, self._deadline_s, self._progress = module, comm, deadline_s, progress
        self._out: dict[int, list[_Buffer]] = {}
        self._sending: dict[int, list[Any]] = {}  # by destination: the request of each buffer
        self._next = [0] * self.num_ranks
        self._in: list[_Buffer | None] = [None] * self.num_ranks  # by source: the block that is being read
        self._spare: list[_Buffer] = []
        self._barriers: dict[int, Any] = {}
        self._tickets, self._since_s = 0, 0.0

    def free(self, dst: int) -> Slot | None:
        """Where the next block for `dst` may be written: the older buffer, once it has left."""
        if dst not in self._out:
            self._out[dst] = [_buffer(self.slot_bytes) for _ in range(_NUM_SLOTS)]
            self._sending[dst] = [self._module.REQUEST_NULL] * _NUM_SLOTS
        index = self._next[dst] % _NUM_SLOTS
        return self._out[dst][index].slot if self._sending[dst][index].Test() else None

    def commit(self, dst: int, num_bytes: int) -> None:
        """Send the block."""
        index = self._next[dst] % _NUM_SLOTS
        self._next[dst] += 1
        self._sending[dst][index] = self._comm.Isend([self._out[dst][index].whole[: HEADER_BYTES + num_bytes], self._module.BYTE], dst)

    def peek(self, src: int) -> Slot | None:
        """The oldest block from `src`."""
        if self._in[src] is None:
            if not self._comm.Iprobe(src, 0):
                return None
            buffer = self._spare.pop() if self._spare else _buffer(self.slot_bytes)
            self._comm.Recv([buffer.whole, self._module.BYTE], src, 0)
            self._in[src] = buffer
        buffered = self._in[src]
        return None if buffered is None else buffered.slot

    def release(self, src: int) -> None:
        """Give the block back."""
        buffer, self._in[src] = self._in[src], None
        if buffer is not None:
            self._spare.append(buffer)

    def arrive(self) -> int:
        """Enter a barrier."""
        self._tickets += 1
        self._barriers[self._tickets] = self._comm.Ibarrier()
        return self._tickets

    def is_past(self, ticket: int) -> bool:
        """Whether all ranks have entered it."""
        if not self._barriers[ticket].Test():
            return False
        del self._barriers[ticket]
        return True

    def wait(self, idle: int, what: Callable[[], str]) -> None:
        """Yield the core; MPI itself ends the run when a process dies."""
        now_s = time.monotonic()
        if idle == 0:
            self._since_s = now_s
        elif self._deadline_s is not None and now_s - self._since_s > self._deadline_s:
            raise TransportError(f"the deadline of {self._deadline_s} s has passed: rank {self.rank} waits for {what()}")
        time.sleep(0)

    def resume(self) -> None:
        """Do nothing."""

    def symmetric(self, num_bytes: int, barrier: Callable[[], None]) -> list[Array]:
        """A shared window; all ranks must be on one node."""
        node = self._comm.Split_type(self._module.COMM_TYPE_SHARED)
        on_one_node = node.Get_size() == self.num_ranks
        node.Free()
        if not on_one_node:
            raise TransportError("the ranks are on several nodes and share no memory")
        window = self._module.Win.Allocate_shared(num_bytes, 1, comm=self._comm)
        arrays = [np.frombuffer(window.Shared_query(rank)[0], np.uint8) for rank in range(self.num_ranks)]
        arrays[self.rank][...] = 0
        barrier()
        return arrays

    def report(self, value: Any) -> None:
        """Call the callback at once: rank 0 called `launch` itself."""
        if self._progress is not None:
            self._progress(value)


def run(
    target: Callable[..., Any],
    num_ranks: int,
    args: tuple[Any, ...],
    *,
    slot_bytes: int,
    deadline_s: float | None,
    progress: Callable[[Any], None] | None,
) -> list[Any]:
    """What the target returns on each process of COMM_WORLD; each of them gets all.  One that raises ends all of them.

    Raises:
        TransportError: no mpi4py or no MPI library, or another number of processes.
    """
    try:
        module: Any = importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:
        raise TransportError(f"the mpi transport needs mpi4py and an MPI library ({error}): pip install 'parsim-llm[mpi]'") from error
    comm = module.COMM_WORLD
    if comm.Get_size() != num_ranks:
        raise TransportError(f"mpi runs {comm.Get_size()} processes, not {num_ranks} ranks: start this program with mpiexec -n {num_ranks}")
    try:
        channel = Endpoint(MpiWire(module, comm.Dup(), slot_bytes, deadline_s, progress))
        result = target(channel, *args)
        channel.close()
        return list(comm.allgather(result))
    except BaseException as error:
        sys.stderr.write(f"rank {comm.Get_rank()} raised {type(error).__name__}: {error}\n{traceback.format_exc()}")
        sys.stderr.flush()
        if num_ranks > 1:
            comm.Abort(1)
        raise


def first_says(ask: Callable[[], Any]) -> Any:
    """What `ask()` returns on the first of mpiexec's processes, or raises there; without MPI, which `run` then misses, on this one."""
    try:
        comm: Any = importlib.import_module("mpi4py.MPI").COMM_WORLD
    except (ImportError, RuntimeError):
        return ask()
    found, error = None, None
    if not comm.Get_rank():
        try:
            found = ask()
        except Exception as raised:
            error = raised
    found, error = comm.bcast((found, error), 0)
    if error is not None:
        raise error
    return found


def _buffer(slot_bytes: int) -> _Buffer:
    whole = np.empty(HEADER_BYTES + slot_bytes, np.uint8)
    return _Buffer(whole, Slot(whole.data[:HEADER_BYTES], whole[HEADER_BYTES:]))
