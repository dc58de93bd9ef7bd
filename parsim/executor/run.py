"""`execute`: all ranks of a plan in one process, each as far as it gets alone, until every program has ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parsim.collectives import Collective
from parsim.errors import ScheduleError
from parsim.executor.clock import Clock, meet
from parsim.executor.finish import finish, owned, prepare
from parsim.executor.job import Job
from parsim.executor.need import Awaited, Meeting, Need
from parsim.executor.rank import Rank
from parsim.executor.values import Array
from parsim.parallel.plan import Plan
from parsim.schedules import ordered
from parsim.step.choice import algorithm
from parsim.step.timing import Market
from parsim_kernels import Ledger, Machine

if TYPE_CHECKING:
    from parsim.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Execution:
    """What the ranks did: ledgers and clocks by rank, and the numbers that must equal those of one rank."""

    ledgers: tuple[Ledger, ...]
    end_ps: int
    loss: float
    gradients: tuple[Mapping[str, Array], ...]  # by rank: each weight's, summed over all ranks, before clipping
    weights: tuple[Mapping[str, Array], ...]  # by rank, after the update
    input_gradients: tuple[Mapping[int, Array], ...]  # by rank, then micro_batch: of the embedding's output
    job: Job


def execute(scenario: Scenario, plan: Plan | str, *, seed: int | None = None) -> Execution:
    """One step of a plan, executed by numpy ranks in lockstep.

    Raises:
        ScenarioError: the scenario has no plan of that name.
        ScheduleError: ranks wait for one another for ever.
    """
    chosen = scenario.plan(plan) if isinstance(plan, str) else plan
    market = Market(scenario.cluster, scenario.stack, scenario.batch)
    job = Job.of(scenario.model, market, chosen, scenario.itemsize_bytes, scenario.seed if seed is None else seed)
    return run(job)


def run(job: Job) -> Execution:
    """One step of a job on all its ranks."""
    machine = Machine(job.num_ranks * (2 if job.step.structure.offload else 1))  # where the optimizer is off the device, the hosts behind
    ranks = [Rank(number, job, machine, Clock(), {}) for number in range(job.num_ranks)]
    for rank in ranks:
        prepare(rank)
    machine.reset_peak()
    snapshots: list[dict[str, Array]] = [{} for _ in ranks]
    _drive(ranks, [_program(rank, snapshots[rank.number]) for rank in ranks], machine)
    assert machine.num_waiting() == 0, "messages were sent that nobody received"
    return Execution(
        tuple(machine.ledgers[: job.num_ranks]),
        max(rank.clock.compute for rank in ranks),
        _loss(ranks, machine),
        tuple(snapshots),
        tuple(_named(rank, "") for rank in ranks),
        tuple(rank.inputs_seen for rank in ranks),
        job,
    )


def _program(rank: Rank, snapshot: dict[str, Array]) -> Iterator[Need]:
    """The whole step of one rank."""
    job, plan = rank.job, rank.job.plan
    order = ordered(plan.schedule, plan.pipeline_parallel, plan.virtual_pipeline, job.num_micro_batches)
    backwards: dict[int, int] = {}
    for action in order.by_rank[rank.at["pp"]]:
        if action.kind == "B":
            backwards[action.stage] = backwards.get(action.stage, 0) + 1
        yield from rank.action(action, action.kind == "B" and backwards[action.stage] == job.num_micro_batches)
    yield from finish(rank, before_clip=lambda: snapshot.update(_named(rank, "d_")))


def _drive(ranks: list[Rank], programs: list[Iterator[Need]], machine: Machine) -> None:
    """Let each rank run until it needs others; hold the meetings that are complete.

    Raises:
        ScheduleError: nobody can go on.
    """
    waiting: dict[int, Need] = {}
    meetings: dict[tuple[object, ...], dict[int, Meeting]] = {}
    runnable = list(range(len(ranks)))
    while runnable:
        for number in runnable:
            need = next(programs[number], None)
            if need is None:
                continue
            waiting[number] = need
            if isinstance(need, Meeting):
                meetings.setdefault(need.key, {})[number] = need
        runnable = _released(ranks, waiting, meetings, machine)
    if waiting:
        stuck = "; ".join(f"rank {number} at {need}" for number, need in sorted(waiting.items())[:4])
        raise ScheduleError(f"ranks wait for one another: {stuck}")


def _released(
    ranks: list[Rank], waiting: dict[int, Need], meetings: dict[tuple[object, ...], dict[int, Meeting]], machine: Machine
) -> list[int]:
    """Ranks that can go on, once complete meetings are held and messages taken."""
    free: list[int] = []
    for key in [k for k, present in meetings.items() if len(present) == len(next(iter(present.values())).members)]:
        present = meetings.pop(key)
        _hold_meeting(ranks, present, machine)
        free += present
    for number, need in waiting.items():
        if isinstance(need, Awaited) and machine.receive(number, need.name, need.itemsize):
            arrival = ranks[number].job.arrivals.pop((number, need.name))
            ranks[number].clock.compute = max(ranks[number].clock.compute, arrival)
            free.append(number)
    for number in free:
        del waiting[number]
    return sorted(free)


def _hold_meeting(ranks: list[Rank], present: Mapping[int, Meeting], machine: Machine) -> None:
    first = next(iter(present.values()))
    clocks = [ranks[number].clock for number in first.members]
    names = [present[number].names[0] for number in first.members]
    meet(clocks, names, first.ps, first.stream, first.target or first.names[0])
    if first.operation == "slice":
        raise ScheduleError(f"a slice of {first.names} needs no meeting")
    ordered_names = [present[number].names for number in first.members]
    transfers = _algorithm(ranks[0].job, present, machine).transfers(first.operation, len(first.members), first.operator)
    if first.shards:
        shards = [present[number].shards for number in first.members]
        machine.exchange_shards(
            first.operation,  # type: ignore[arg-type]
            first.axis,
            first.members,
            shards,
            ordered_names,
            transfers,
            itemsize=first.itemsize,
            add=first.add,
        )
        return
    machine.communicate(
        first.operation,
        first.axis,
        first.members,
        ordered_names,
        first.target,
        transfers,
        dim=max(first.dim, 0),
        operator=first.operator,  # type: ignore[arg-type]
        itemsize=first.itemsize,
    )


def _algorithm(job: Job, present: Mapping[int, Meeting], machine: Machine) -> Collective:
    """By the elements that the buffers really hold."""
    first = next(iter(present.values()))
    joins = first.operation == "all_gather" and not first.shards
    held = [sum(machine.get(number, name).size for name in present[number].names) for number in first.members]
    elements = sum(held) if joins else held[0]
    return algorithm(first.operation, first.axis, elements * first.itemsize, job.sizes, job.market, num_ranks=len(first.members))


def _named(rank: Rank, prefix: str) -> dict[str, Array]:
    """Copies of all weights, or with prefix d_ of their gradients: whole, or this rank's part where ZeRO leaves it no more."""
    zero = rank.job.step.structure.zero_stage
    part = ".shard" if zero >= (1 if prefix else 3) else ""
    return {f"{i}/{w.name}": rank.machine.get(rank.number, f"{i}/{prefix}{w.name}{part}").copy() for i, _, w in owned(rank)}


def _loss(ranks: list[Rank], machine: Machine) -> float:
    """The mean loss of a token: the ranks that split the batch hold parts of the sum."""
    summed = {"pp", *ranks[0].job.step.head.totals[0].sharding.partial}
    last = [r for r in ranks if any(i == "head" for i, _ in r.held()) and not any(r.at[axis] for axis in r.at if axis not in summed)]
    return float(sum(machine.get(r.number, "head/loss") for r in last))
