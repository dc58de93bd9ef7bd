"""All ranks of a job in one process, each as far as it gets alone, until every program has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from parsim.errors import ScheduleError
from parsim.executor import program
from parsim.executor.clock import Clock
from parsim.executor.job import Job
from parsim.executor.need import Awaited, Begun, Ended, Meeting, Need
from parsim.executor.program import Record
from parsim.executor.rank import Rank
from parsim.executor.values import Array
from parsim.model.dims import COMPUTE
from parsim_kernels import Machine

Told = Callable[[int, float, list[Mapping[str, Array]]], None]  # a step's number, its loss, and where it is evaluated each rank's weights


@dataclass(slots=True)
class Mail:
    """Messages through the machine's mailboxes; when each arrives, on the sender's clock."""

    arrivals: dict[tuple[int, str], int] = field(default_factory=dict)

    def post(self, rank: Rank, dst: int, buffer: str, name: str, arrival: int) -> None:
        """As Wire has it."""
        rank.machine.send(rank.number, dst, buffer, name, "pp", rank.job.itemsize(COMPUTE))
        self.arrivals[dst, name] = arrival


def run(job: Job, num_steps: int, told: Told | None = None, evaluate_every: int = 0) -> list[Record]:
    """Some steps of a job; what each rank did.

    Raises:
        ScheduleError: ranks wait for one another for ever.
    """
    machine, mail = Machine(job.num_buffers), Mail()
    ranks = [Rank(number, job, machine, Clock(), mail) for number in range(job.num_ranks)]
    records = [Record(machine.ledgers[rank.number]) for rank in ranks]
    programs = [program.run(rank, num_steps, record, evaluate_every) for rank, record in zip(ranks, records, strict=True)]
    _drive(ranks, programs, mail, told)
    assert machine.num_waiting() == 0, "messages were sent that nobody received"
    return records


def _drive(ranks: list[Rank], programs: list[Iterator[Need]], mail: Mail, told: Told | None) -> None:
    """Let each rank run until it needs others; hold the meetings that are complete."""
    waiting: dict[int, Need] = {}
    meetings: dict[tuple[object, ...], dict[int, Meeting]] = {}
    ended: dict[int, dict[int, Ended]] = {}
    runnable = list(range(len(ranks)))
    while runnable:
        for number in runnable:
            need = next(programs[number], None)
            while isinstance(need, Begun | Ended):
                if isinstance(need, Ended):
                    ended.setdefault(need.step, {})[number] = need
                    _tell(ranks, ended[need.step], told)
                need = next(programs[number], None)
            if need is None:
                continue
            waiting[number] = need
            if isinstance(need, Meeting):
                meetings.setdefault(need.key, {})[number] = need
        runnable = _released(ranks, waiting, meetings, mail)
    if waiting:
        stuck = "; ".join(f"rank {number} at {need}" for number, need in sorted(waiting.items())[:4])
        raise ScheduleError(f"ranks wait for one another: {stuck}")


def _tell(ranks: list[Rank], ended: Mapping[int, Ended], told: Told | None) -> None:
    """What a step came to, when all ranks have ended it."""
    if told and len(ended) == len(ranks):
        parts = [ended[rank.number] for rank in ranks]
        told(parts[0].step, sum(part.loss or 0.0 for part in parts), [part.weights for part in parts if part.weights is not None])


def _released(ranks: list[Rank], waiting: dict[int, Need], meetings: dict[tuple[object, ...], dict[int, Meeting]], mail: Mail) -> list[int]:
    """Ranks that can go on, once complete meetings are held and messages taken."""
    free: list[int] = []
    for key in [k for k, present in meetings.items() if len(present) == len(next(iter(present.values())).members)]:
        present = meetings.pop(key)
        _hold_meeting(ranks, present)
        free += present
    for number, need in waiting.items():
        if isinstance(need, Awaited) and ranks[number].machine.receive(number, need.name, need.itemsize):
            clock = ranks[number].clock
            clock.compute = max(clock.compute, mail.arrivals.pop((number, need.name)))
            free.append(number)
    for number in free:
        del waiting[number]
    return sorted(free)


def _hold_meeting(ranks: list[Rank], present: Mapping[int, Meeting]) -> None:
    (number, first), job, machine = next(iter(present.items())), ranks[0].job, ranks[0].machine
    clocks = [ranks[number].clock for number in first.members]
    names = [present[number].names for number in first.members]
    end = max(clock.come(own[0], first.stream) for clock, own in zip(clocks, names, strict=True)) + first.ps
    for clock in clocks:
        clock.leave(end, first.stream, first.target or first.names[0])
    transfers = job.algorithm(first, machine, number).transfers(first.operation, len(first.members), first.operator)  # type: ignore[arg-type]
    if first.shards:
        shards = [present[number].shards for number in first.members]
        machine.exchange_shards(
            first.operation,  # type: ignore[arg-type]
            first.axis,
            first.members,
            shards,
            names,
            transfers,
            itemsize=first.itemsize,
            add=first.add,
        )
        return
    machine.communicate(
        first.operation,
        first.axis,
        first.members,
        names,
        first.target,
        transfers,
        dim=max(first.dim, 0),
        operator=first.operator,  # type: ignore[arg-type]
        itemsize=first.itemsize,
    )
