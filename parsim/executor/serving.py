"""A whole run through parameter servers: it starts servers and workers, and puts together what they return."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Literal

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.asynchrony.protocol import Terms
from parsim.asynchrony.service import ServedWeights, Service, service_of
from parsim.errors import ParsimError
from parsim.executor.evaluate import Score, evaluate
from parsim.executor.job import Job, RunRequest
from parsim.executor.replica import Replica
from parsim.executor.served import Applied, ServedJob, ServerReport, WorkerReport, take_part
from parsim_kernels import Ledger, TransportError, WorkerError, launch
from parsim_kernels.signature import Array

OnServedStep = Callable[[int, float, Score | None], None]


class ServedStep(Struct, frozen=True):
    """As many applied gradients as make a step, with what they came to."""

    loss: float  # the mean over their sequences, each measured with the weights that its worker had
    samples: int  # sequences of all applied gradients so far
    end_ps: int
    wall_s: float  # since server 0 began


class ServedExecution(Struct, frozen=True):
    """What servers and workers did."""

    job: Job
    terms: Terms
    servers: tuple[ServerReport, ...]
    workers: tuple[WorkerReport, ...]
    steps: tuple[ServedStep, ...]  # as server 0 sees them
    are_processes: bool
    scores: Mapping[int, Score]  # by step, counted from 1, after which the weights were measured

    @property
    def losses(self) -> tuple[float, ...]:
        """By step."""
        return tuple(step.loss for step in self.steps)

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """Of workers, then of servers."""
        return (*(worker.ledger for worker in self.workers), *(server.ledger for server in self.servers))

    @property
    def step_walls_s(self) -> tuple[float, ...]:
        """By step: wall seconds since the one before; none where servers and workers are no processes."""
        if not self.are_processes:
            return ()
        ends = [0.0, *(step.wall_s for step in self.steps)]
        return tuple(end - start for start, end in pairwise(ends))

    @property
    def mean_staleness(self) -> float:
        """Of all gradients that were applied."""
        return sum(each * count for each, count in self.staleness.items()) / sum(self.staleness.values())

    @property
    def end_ps(self) -> int:
        """When the last update was made, on virtual clocks."""
        return max(server.applied[-1].end_ps for server in self.servers)

    @property
    def staleness(self) -> Counter[int]:
        """How often gradients of each staleness were applied, all shards together."""
        return Counter(each.staleness for server in self.servers for each in server.applied)

    @property
    def num_dropped(self) -> int:
        """Gradients that came too late, all shards together."""
        return sum(server.num_dropped for server in self.servers)

    @property
    def weights(self) -> dict[str, Array]:
        """By name, after the last update."""
        return _by_name(self.job, [server.weights[max(server.weights)] for server in self.servers])


def run(
    asked: RunRequest,
    transport: Literal["lockstep", "shared_memory", "mpi"],
    *,
    wall: bool,
    deadline_s: float | None,
    progress: OnServedStep | None,
) -> ServedExecution:
    """All steps of a legal plan of parameter servers.

    Raises:
        ParsimError: a worker or server died, or the transport cannot work here.
    """
    asked, factors = replace(asked, factors=()), asked.factors  # workers' clocks tell what is usual
    job, terms = asked.job(), Terms.of(asked.plan)
    group = 1 if terms.is_synchronous else terms.num_workers  # updates of a step
    served = ServedJob(asked, terms, asked.num_steps * group, asked.evaluate_every * group, None if wall else service_for(job), factors)
    updates: list[float] = []

    def on_update(told: tuple[int, list[float]]) -> None:
        update, losses = told
        updates.extend(losses)
        if progress and update % group == 0:
            per_step = terms.num_needed * group
            progress(update // group - 1, _mean(job, updates[-per_step:]), None)

    args = (served, job) if transport == "lockstep" else (served,)  # processes make each their own
    try:
        found = launch(take_part, terms.num_shards + terms.num_workers, transport, args, deadline_s=deadline_s, progress=on_update)
    except WorkerError as error:
        place = error.rank - terms.num_shards
        who = f"worker {place}" if place >= 0 else f"parameter server {error.rank}"
        raise ParsimError(f"the run ended: {who} {error.how}") from error
    except TransportError as error:
        raise ParsimError(f"the run ended: {error}") from error
    servers, workers = tuple(found[: terms.num_shards]), tuple(found[terms.num_shards :])
    return ServedExecution(
        job, terms, servers, workers, tuple(_steps(job, terms, servers[0].applied)), transport != "lockstep", _scores(job, servers, group)
    )


def service_for(job: Job) -> Service:
    """What servers do for the workers of a job."""
    weights = ServedWeights.of(job.step.structure, job.sizes, Replica(job, 0).weights().size)
    return service_of(job.model.cluster, Terms.of(job.asked.plan), weights)


def _steps(job: Job, terms: Terms, applied: list[Applied]) -> Iterator[ServedStep]:
    """Gradients in the order in which server 0 applied them, some at a time."""
    count, each = terms.num_needed if terms.is_synchronous else terms.num_workers, job.model.batch.global_batch // terms.num_workers
    for start in range(0, len(applied) - count + 1, count):
        own = applied[start : start + count]
        yield ServedStep(_mean(job, [one.loss for one in own]), (start + count) * each, own[-1].end_ps, own[-1].wall_s)


def _mean(job: Job, losses: list[float]) -> float:
    """Over the sequences of gradients, whose losses are parts of the mean over a batch."""
    return sum(losses) * job.num_ranks / len(losses)


def _scores(job: Job, servers: tuple[ServerReport, ...], group: int) -> dict[int, Score]:
    """The weights that were kept in all shards, measured."""
    data, every = job.asked.data, job.asked.evaluate_every
    if data is None or not every:
        return {}
    kept = [update for update in servers[0].weights if update % (every * group) == 0 and all(update in each.weights for each in servers)]
    return {update // group: evaluate(job, _by_name(job, [each.weights[update] for each in servers]), data.validation) for update in kept}


def _by_name(job: Job, shards: list[Array]) -> dict[str, Array]:
    """Weights by name, from those of all shards."""
    whole, start, found = np.concatenate(shards), 0, dict[str, Array]()
    for name, shape in Replica(job, 0).shapes.items():
        size = int(np.prod(shape))
        found[name], start = whole[start : start + size].reshape(shape), start + size
    return found
