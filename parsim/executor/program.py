"""The program of a rank over some steps: the phases of its stages in schedule order, and the end of each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from msgspec import Struct, field

from parsim.cost.workload import Workload
from parsim.executor.bind import Bound, OfStage
from parsim.executor.clock import Clock
from parsim.executor.names import NORM
from parsim.executor.rank import Rank
from parsim.executor.requests import Request, Saved, StepEnd, StepStart
from parsim.executor.shards import Counts, Past, ShardKeeping, read_shard, write_shard
from parsim.schedules import columns
from parsim_kernels import Ledger
from parsim_kernels.signature import Array


class Record(Struct):
    """What a rank did, and what it holds of the numbers that must equal those of one rank."""

    ledger: Ledger
    ends_ps: list[int] = field(default_factory=list)  # by step, from its start
    host_bytes: int = 0  # the most that it kept on its host
    losses: list[float | None] = field(default_factory=list)  # by step, this rank's part
    gradients: Mapping[str, Array] = field(default_factory=dict)  # of the last step, summed over all ranks, before clipping
    weights: Mapping[str, Array] = field(default_factory=dict)  # after the last update
    norms: list[float] = field(default_factory=list)  # by step: squared, of the gradients that are clipped
    own_norms: list[float] = field(default_factory=list)  # the same of this rank's, before they are summed over replicas
    input_gradients: Mapping[tuple[str, int], Array] = field(default_factory=dict)  # see Execution


def run(rank: Rank, num_steps: int, record: Record, evaluate_every: int = 0) -> Iterator[Request]:
    """All that a rank does, from drawing its weights on; what it leaves is in `record`.

    After each `evaluate_every` steps it tells its weights too; 0: never.
    """
    rank.store.prepare()
    rank.machine.ledgers[rank.number].reset_peak()
    keeping = rank.job.asked.keeping
    start = _go_on(rank, record, keeping) if keeping and keeping.start else 0
    for rank.step in range(start, num_steps):
        yield StepStart(rank.step)
        if rank.step:
            rank.store.clear()
        rank.own_norm, rank.clock = 0.0, Clock()  # all ranks begin a step together
        yield from _step(rank, record, is_last=rank.step == num_steps - 1)
        record.losses.append(rank.loss())
        record.own_norms.append(rank.own_norm)
        record.ends_ps.append(rank.clock.compute)
        is_evaluated = evaluate_every and (rank.step + 1) % evaluate_every == 0
        yield StepEnd(rank.step, record.losses[-1], rank.store.read("parameters") if is_evaluated else None)
        if keeping and keeping.is_due(ended := rank.step + 1):
            yield Saved(ended, write_shard(keeping.path(ended, rank.number), rank.store.what_lasts(), _past(rank, record)))
    record.host_bytes = rank.store.host_bytes
    record.weights = rank.store.read("parameters")
    record.input_gradients = rank.inputs_seen
    record.gradients = rank.gradients_seen or record.gradients


def _past(rank: Rank, record: Record) -> Past:
    """What it knows of the steps until now, beside what its memories hold."""
    counts = [Counts.of(rank.machine.ledgers[number]) for number in rank.store.memories]
    return Past(record.losses, record.norms, record.own_norms, record.ends_ps, counts)


def _go_on(rank: Rank, record: Record, keeping: ShardKeeping) -> int:
    """The step with which it goes on, all as it was when the checkpoint before was written."""
    past = read_shard(keeping.path(keeping.start, rank.number), rank.store.what_lasts())
    record.losses, record.norms, record.own_norms = list(past.losses), list(past.norms), list(past.own_norms)
    record.ends_ps = list(past.ends_ps)
    for number, counts in zip(rank.store.memories, past.ledgers, strict=True):
        counts.put(rank.machine.ledgers[number])
    return keeping.start


def _number(workload: Workload, stage: int, micro_batch: int) -> int:
    """Of a micro_batch among those of all copies of the model."""
    return stage // workload.shape.stages_a_copy * workload.num_micro_batches + micro_batch


def passes(rank: Rank) -> Iterator[Request]:
    """The passes of all micro_batches of the rank's present step."""
    workload = rank.job.workload
    order = columns(workload.schedule, workload.num_ranks, workload.chunks, workload.num_micro_batches)
    own = np.flatnonzero(order.rank == rank.at["pp"])
    columns_of = (order.stage, order.phase, order.micro_batch, order.closes, order.paired, order.ends > np.arange(len(order.rank)))
    waiting: list[OfStage] = []  # the forward of a pair, whose message is there
    for stage, phase, m, closes, paired, begins in zip(*(each[own].tolist() for each in columns_of), strict=True):
        micro_batch = _number(workload, stage, m)
        if not paired:
            yield from rank.action(stage, workload.phases[phase], micro_batch, closes=closes)
        elif begins:
            waiting = [(stage, micro_batch)]
            yield from rank.message(waiting[0])
        elif waiting:
            yield from rank.pair(waiting.pop(), (stage, micro_batch))


def _step(rank: Rank, record: Record, *, is_last: bool) -> Iterator[Request]:
    yield from passes(rank)

    def keep(bound: Bound) -> None:
        if bound.task.name == "clip":
            record.norms.append(float(rank.machine.get(rank.number, NORM)))
            if is_last:
                record.gradients = rank.store.read("gradients")

    yield from rank.finish(keep)
