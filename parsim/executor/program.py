"""The program of a rank over some steps: forwards and backwards in schedule order, and the end of each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from parsim.executor.finish import finish, owned, prepare
from parsim.executor.need import Begun, Ended, Need
from parsim.executor.rank import Rank
from parsim.executor.values import Array
from parsim.schedules import ordered
from parsim_kernels import Ledger


@dataclass(slots=True)
class Record:
    """What a rank did, and what it holds of the numbers that must equal those of one rank."""

    ledger: Ledger
    end_ps: int = 0
    losses: list[float | None] = field(default_factory=list)  # by step, this rank's part
    gradients: Mapping[str, Array] = field(default_factory=dict)  # of the last step, summed over all ranks, before clipping
    weights: Mapping[str, Array] = field(default_factory=dict)  # after the last update
    input_gradients: Mapping[int, Array] = field(default_factory=dict)  # by micro_batch: of the embedding's output


def run(rank: Rank, num_steps: int, record: Record, evaluate_every: int = 0) -> Iterator[Need]:
    """All that a rank does, from drawing its weights on; what it leaves is in `record`.

    After each `evaluate_every` steps it tells its weights too; 0: never.
    """
    prepare(rank)
    rank.machine.ledgers[rank.number].reset_peak()
    for rank.step in range(num_steps):
        yield Begun(rank.step)
        if rank.step:
            _clear(rank)
        yield from _step(rank, record, is_last=rank.step == num_steps - 1)
        record.losses.append(rank.loss())
        told = evaluate_every and (rank.step + 1) % evaluate_every == 0
        yield Ended(rank.step, record.losses[-1], named(rank, "") if told else None)
    record.end_ps = rank.clock.compute
    record.weights = named(rank, "")
    record.input_gradients = rank.inputs_seen


def _step(rank: Rank, record: Record, *, is_last: bool) -> Iterator[Need]:
    job, plan = rank.job, rank.job.plan
    order = ordered(plan.schedule, plan.pipeline_parallel, plan.virtual_pipeline, job.num_micro_batches)
    backwards: dict[int, int] = {}
    for action in order.by_rank[rank.at["pp"]]:
        if action.phase == "B":
            backwards[action.stage] = backwards.get(action.stage, 0) + 1
        yield from rank.action(action, action.phase == "B" and backwards[action.stage] == job.num_micro_batches)

    def keep() -> None:
        if is_last:
            record.gradients = named(rank, "d_")

    yield from finish(rank, before_clip=keep)


def _clear(rank: Rank) -> None:
    """Zeros in what a step sums: gradients, the loss and the gradient norm."""
    zero = rank.job.step.structure.zero_stage
    part = "" if zero == 0 else ".flat" if zero == 1 else ".shard"
    totals = [f"{instance}/{total.name}" for instance, segment in rank.held for total in segment.totals]
    for name in (*(f"{i}/d_{w.name}{part}" for i, _, w in owned(rank)), *totals, "gradient_norm"):
        rank.machine.get(rank.number, name)[...] = 0


def named(rank: Rank, prefix: str) -> dict[str, Array]:
    """Copies of all weights, or with prefix d_ of their gradients: whole, or this rank's part where ZeRO leaves it no more."""
    zero = rank.job.step.structure.zero_stage
    part = ".shard" if zero >= (1 if prefix else 3) else ""
    return {f"{i}/{w.name}": rank.machine.get(rank.number, f"{i}/{prefix}{w.name}{part}").copy() for i, _, w in owned(rank)}
