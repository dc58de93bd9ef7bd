"""One rank of a job over a channel: real processes, or the ranks of another transport.  The program is the one that lockstep runs."""

from __future__ import annotations

import pickle
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct, field

from parsim.collectives import transfer_plan
from parsim.executor import program
from parsim.executor.clock import Clock
from parsim.executor.job import RunRequest
from parsim.executor.program import Record
from parsim.executor.rank import Rank
from parsim.executor.requests import CollectiveCall, MessageNeed, Saved, StepEnd, StepStart
from parsim.executor.shards import ShardFile
from parsim.model.dims import COMPUTE
from parsim_kernels import Channel, Machine
from parsim_kernels.part import communicate, exchange_shards
from parsim_kernels.transport.channel import Incoming, Outgoing

_CLOCK, _END, _SAVED = (2**30 + number for number in range(3))  # tags; those of messages lie below


class Report(Struct):
    """What a worker returns: its record, and the wall seconds of each step."""

    record: Record
    wall_s: list[float] = field(default_factory=list)


class AllSaved(Struct, frozen=True):
    """All ranks have written their parts of a checkpoint: after how many steps, and what each."""

    ended: int
    shards: list[ShardFile]


def work(channel: Channel, run: RunRequest, begins: Callable[[], None] = lambda: None, ends: Callable[[], None] = lambda: None) -> Report:
    """All steps of the rank that this channel belongs to; rank 0 reports (step, loss, weights) after each, and AllSaved.

    All ranks begin a step's wall time together.  `begins` is called before it, and `ends` after it.
    """
    job = run.job()
    machine = Machine(job.num_buffers)
    rank = Rank(channel.rank, job, machine, Clock(), _Post(channel))
    report = Report(Record(machine.ledgers[channel.rank]))
    start = computes_s = 0.0
    for need in program.run(rank, run.num_steps, report.record, run.evaluate_every):
        if run.sleeps and rank.slow > 1 and not isinstance(need, StepStart):
            time.sleep((time.perf_counter() - computes_s) * (rank.slow - 1))
        if isinstance(need, CollectiveCall):
            _run_collective(rank, channel, need, clocks=run.clocks)
        elif isinstance(need, MessageNeed):
            message = channel.receive(need.src, _tag(need.name))
            machine.hold(rank.number, need.target, message.array, need.itemsize)
            rank.clock.compute = max(rank.clock.compute, message.clock)
        elif isinstance(need, StepStart):
            begins()
            channel.barrier()
            start = time.perf_counter()
        elif isinstance(need, Saved):
            _tell(channel, rank, need)
        else:
            report.wall_s.append(time.perf_counter() - start)
            ends()
            _report(channel, rank, need)
        computes_s = time.perf_counter()
    return report


class _Post(Struct, frozen=True):
    """Messages over a channel; each carries its time of arrival."""

    channel: Channel

    def post(self, rank: Rank, dst: int, buffer: str, name: str, arrival: int) -> None:
        """As Wire has it."""
        array, ledger = rank.machine.get(rank.number, buffer), rank.machine.ledgers[rank.number]
        ledger.call("pp", "send")
        ledger.send("pp", array.size * rank.job.itemsize(COMPUTE))
        self.channel.send(dst, array, _tag(name), arrival)


def _tag(name: str) -> int:
    """A number for a message's name: those of one pair of ranks that are on their way together differ."""
    return zlib.crc32(name.encode()) % _CLOCK


def _run_collective(rank: Rank, channel: Channel, call: CollectiveCall, *, clocks: bool) -> None:
    """This rank's part of a collective."""
    start = rank.clock.start(call.stream, call.reads)
    end_ps = _latest(channel, call.members, start) + call.ps if clocks else start
    rank.clock.end(call.stream, end_ps, call.writes)
    transfers = transfer_plan(rank.job.algorithm(call, rank.machine, rank.number), call.operation, len(call.members), call.operator)
    run: Any = exchange_shards if call.shards else communicate
    others: Any = (call.shards, call.names) if call.shards else (call.names, call.target)
    run(rank.machine, channel, call.operation, call.group.name, call.members, *others, transfers, **call.how)


def _latest(channel: Channel, members: Sequence[int], ps: int) -> int:
    """When the last of the members has come."""
    others = [member for member in members if member != channel.rank]
    arrived = channel.exchange([Outgoing(dst, b"", _CLOCK, ps) for dst in others], [Incoming(src, _CLOCK) for src in others])
    return max([ps, *(message.clock for message in arrived)])


def _tell(channel: Channel, rank: Rank, need: Saved) -> None:
    """What all ranks have written of a checkpoint, to rank 0, which reports it."""
    if channel.rank:
        channel.send(0, pickle.dumps(need.shard), _SAVED)
        return
    others = [pickle.loads(channel.receive(src, _SAVED).array.tobytes()) for src in range(1, rank.job.num_ranks)]
    channel.report(AllSaved(need.ended, [need.shard, *others]))


def _report(channel: Channel, rank: Rank, need: StepEnd) -> None:
    """What all ranks tell of a step, to rank 0, which reports it: the sum of the losses, and the weights where it is evaluated."""
    if channel.rank:
        channel.send(0, pickle.dumps((need.loss, need.weights)), _END)
        return
    parts = [(need.loss, need.weights)]
    parts += [pickle.loads(channel.receive(src, _END).array.tobytes()) for src in range(1, rank.job.num_ranks)]
    channel.report((need.step, sum(loss or 0.0 for loss, _ in parts), [weights for _, weights in parts if weights is not None]))
