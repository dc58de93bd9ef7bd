"""One rank of a job over a channel: real processes, or the ranks of another transport.  The program is the one that lockstep runs."""

from __future__ import annotations

import pickle
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from parsim.collectives import transfer_plan
from parsim.data import Dataset
from parsim.executor import program
from parsim.executor.clock import Clock
from parsim.executor.job import Job
from parsim.executor.need import Awaited, Begun, Ended, Meeting
from parsim.executor.program import Record
from parsim.executor.rank import Rank
from parsim.model.dims import COMPUTE
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Plan
from parsim.scenario.types import Training
from parsim.step.timing import Market
from parsim_kernels import Channel, Machine
from parsim_kernels.part import communicate, exchange_shards
from parsim_kernels.transport.channel import Incoming, Outgoing

_CLOCK, _TOLD = 2**30, 2**30 + 1  # tags; those of messages lie below


@dataclass(frozen=True, slots=True)
class Run:
    """What every worker is told: the job, how many steps, and whether to keep virtual clocks."""

    model: ModelSpec
    market: Market
    plan: Plan
    dtype_bytes: Mapping[str, int]
    seed: int
    num_steps: int
    training: Training
    data: Dataset | None = None
    evaluate_every: int = 0
    precision: str = "float64"  # of the numbers that are computed with
    clocks: bool = True  # costs a message a member in every collective

    def job(self) -> Job:
        """The job, built anew by each worker."""
        given = {"training": self.training, "data": self.data, "precision": self.precision}
        return Job.of(self.model, self.market, self.plan, self.dtype_bytes, self.seed, **given)  # type: ignore[arg-type]


@dataclass(slots=True)
class Report:
    """What a worker returns: its record, and the wall seconds of each step."""

    record: Record
    wall_s: list[float] = field(default_factory=list)


def work(channel: Channel, run: Run, begins: Callable[[], None] = lambda: None, ends: Callable[[], None] = lambda: None) -> Report:
    """All steps of the rank that this channel belongs to; rank 0 reports (step, loss) after each.

    All ranks begin a step's wall time together.  `begins` is called before it, and `ends` after it.
    """
    job = run.job()
    machine = Machine(job.num_buffers)
    rank = Rank(channel.rank, job, machine, Clock(), _Post(channel))
    report = Report(Record(machine.ledgers[channel.rank]))
    start = 0.0
    for need in program.run(rank, run.num_steps, report.record, run.evaluate_every):
        if isinstance(need, Meeting):
            _meet(rank, channel, need, clocks=run.clocks)
        elif isinstance(need, Awaited):
            message = channel.receive(need.src, _tag(need.name))
            machine.hold(rank.number, need.name, message.array, need.itemsize)
            rank.clock.compute = max(rank.clock.compute, message.clock)
        elif isinstance(need, Begun):
            begins()
            channel.barrier()
            start = time.perf_counter()
        else:
            report.wall_s.append(time.perf_counter() - start)
            ends()
            _tell(channel, rank, need)
    return report


@dataclass(frozen=True, slots=True)
class _Post:
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


def _meet(rank: Rank, channel: Channel, need: Meeting, *, clocks: bool) -> None:
    """This rank's part of a collective."""
    come = rank.clock.come(need.names[0], need.stream)
    end = _latest(channel, need.members, come) + need.ps if clocks else come
    rank.clock.leave(end, need.stream, need.target or need.names[0])
    machine = rank.machine
    transfers = transfer_plan(rank.job.algorithm(need, machine, rank.number), need.operation, len(need.members), need.operator)
    if need.shards:
        exchange_shards(
            machine,
            channel,
            need.operation,  # type: ignore[arg-type]
            need.axis,
            need.members,
            need.shards,
            need.names,
            transfers,
            itemsize=need.itemsize,
            add=need.add,
        )
        return
    communicate(
        machine,
        channel,
        need.operation,
        need.axis,
        need.members,
        need.names,
        need.target,
        transfers,
        dim=max(need.dim, 0),
        operator=need.operator,  # type: ignore[arg-type]
        itemsize=need.itemsize,
    )


def _latest(channel: Channel, members: Sequence[int], ps: int) -> int:
    """When the last of the members has come."""
    others = [member for member in members if member != channel.rank]
    arrived = channel.exchange([Outgoing(dst, b"", _CLOCK, ps) for dst in others], [Incoming(src, _CLOCK) for src in others])
    return max([ps, *(message.clock for message in arrived)])


def _tell(channel: Channel, rank: Rank, need: Ended) -> None:
    """What all ranks tell of a step, to rank 0, which reports it: the sum of the losses, and the weights where it is evaluated."""
    if channel.rank:
        channel.send(0, pickle.dumps((need.loss, need.weights)), _TOLD)
        return
    parts = [(need.loss, need.weights)]
    parts += [pickle.loads(channel.receive(src, _TOLD).array.tobytes()) for src in range(1, rank.job.num_ranks)]
    channel.report((need.step, sum(loss or 0.0 for loss, _ in parts), [weights for _, weights in parts if weights is not None]))
