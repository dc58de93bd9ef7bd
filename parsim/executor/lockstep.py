"""All ranks of a job in one process, each as far as it gets alone, until every program has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from parsim.errors import ScheduleError
from parsim.executor import program
from parsim.executor.clock import Clock
from parsim.executor.job import Job
from parsim.executor.program import Record
from parsim.executor.rank import Rank
from parsim.executor.requests import CollectiveCall, MessageNeed, Request, Saved, StepEnd, StepStart
from parsim.executor.shards import ShardFile
from parsim.model.dims import COMPUTE
from parsim_kernels import Machine
from parsim_kernels.signature import Array

OnStep = Callable[[int, float, list[Mapping[str, Array]]], None]  # a step's number, its loss, and where it is evaluated each rank's weights
OnSaved = Callable[[int, list[ShardFile]], None]  # after how many steps, and what each rank has written


class Mail(Struct):
    """Messages through the machine's mailboxes; when each arrives, on the sender's clock."""

    arrivals: dict[tuple[int, str], int] = field(default_factory=dict)

    def post(self, rank: Rank, dst: int, buffer: str, name: str, arrival: int) -> None:
        """As Wire has it."""
        rank.machine.send(rank.number, dst, buffer, name, "pp", rank.job.itemsize(COMPUTE))
        self.arrivals[dst, name] = arrival


def run(job: Job, num_steps: int, on_step: OnStep | None = None, evaluate_every: int = 0, on_saved: OnSaved | None = None) -> list[Record]:
    """Some steps of a job; what each rank did.

    Raises:
        ScheduleError: ranks wait for one another for ever.
    """
    machine, mail = Machine(job.num_buffers), Mail()
    ranks = [Rank(number, job, machine, Clock(), mail) for number in range(job.num_ranks)]
    records = [Record(machine.ledgers[rank.number]) for rank in ranks]
    programs = [program.run(rank, num_steps, record, evaluate_every) for rank, record in zip(ranks, records, strict=True)]
    _drive(ranks, programs, mail, on_step, on_saved)
    assert machine.num_waiting() == 0, "messages were sent that nobody received"
    return records


def _drive(ranks: list[Rank], programs: list[Iterator[Request]], mail: Mail, on_step: OnStep | None, on_saved: OnSaved | None) -> None:
    """Let each rank run until it needs others; hold the calls that are complete."""
    waiting: dict[int, Request] = {}
    calls: dict[tuple[object, ...], dict[int, CollectiveCall]] = {}
    ended: dict[int, dict[int, StepEnd]] = {}
    saved: dict[int, dict[int, ShardFile]] = {}
    runnable = list(range(len(ranks)))
    while runnable:
        for number in runnable:
            need = next(programs[number], None)
            while isinstance(need, StepStart | StepEnd | Saved):
                if isinstance(need, StepEnd):
                    ended.setdefault(need.step, {})[number] = need
                    _report(ranks, ended[need.step], on_step)
                elif isinstance(need, Saved):
                    saved.setdefault(need.ended, {})[number] = need.shard
                    if on_saved and len(shards := saved[need.ended]) == len(ranks):
                        on_saved(need.ended, [shards[rank.number] for rank in ranks])
                need = next(programs[number], None)
            if need is None:
                continue
            waiting[number] = need
            if isinstance(need, CollectiveCall):
                calls.setdefault(need.key, {})[number] = need
        runnable = _release(ranks, waiting, calls, mail)
    if waiting:
        stuck = "; ".join(f"rank {number} at {need}" for number, need in sorted(waiting.items())[:4])
        raise ScheduleError(f"ranks wait for one another: {stuck}")


def _report(ranks: list[Rank], ended: Mapping[int, StepEnd], on_step: OnStep | None) -> None:
    """What a step came to, when all ranks have ended it."""
    if on_step and len(ended) == len(ranks):
        parts = [ended[rank.number] for rank in ranks]
        on_step(parts[0].step, sum(part.loss or 0.0 for part in parts), [part.weights for part in parts if part.weights is not None])


def _release(
    ranks: list[Rank], waiting: dict[int, Request], calls: dict[tuple[object, ...], dict[int, CollectiveCall]], mail: Mail
) -> list[int]:
    """Ranks that can go on, once complete calls are held and messages taken."""
    free: list[int] = []
    for key in [k for k, present in calls.items() if len(present) == len(next(iter(present.values())).members)]:
        present = calls.pop(key)
        _run_collective(ranks, present)
        free += present
    for number, need in waiting.items():
        if isinstance(need, MessageNeed) and ranks[number].machine.receive(number, need.name, need.itemsize):
            clock = ranks[number].clock
            ranks[number].machine.rename(number, need.name, need.target)
            clock.compute = max(clock.compute, mail.arrivals.pop((number, need.name)))
            free.append(number)
    for number in free:
        del waiting[number]
    return sorted(free)


def _run_collective(ranks: list[Rank], present: Mapping[int, CollectiveCall]) -> None:
    (number, first), job, machine = next(iter(present.items())), ranks[0].job, ranks[0].machine
    own = [present[number] for number in first.members]
    clocks = [ranks[number].clock for number in first.members]
    end_ps = max(clock.start(call.stream, call.reads) for clock, call in zip(clocks, own, strict=True)) + first.ps
    for clock, call in zip(clocks, own, strict=True):
        clock.end(call.stream, end_ps, call.writes)
    transfers = job.algorithm(first, machine, number).transfers(first.operation, len(first.members), first.operator)
    names = [call.names for call in own]
    run: Any = machine.exchange_shards if first.shards else machine.communicate
    others: Any = ([call.shards for call in own], names) if first.shards else (names, first.target)
    run(first.operation, first.group.name, first.members, *others, transfers, **first.how)
