"""Training through parameter servers, each server and each worker at its own channel: servers come first, workers behind them.

A worker pulls the weights of all servers, computes the gradient of a part of a batch, and pushes to each server what is its own.  Which
sequences: server 0 numbers what it lets start, and number t takes what replica t mod n has in step t // n of synchronous training, n the
workers.  So workers of any speeds see the same sequences as replicas that wait for one another, each once an epoch.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct, field

from parsim.asynchrony.protocol import Outcome, Terms
from parsim.asynchrony.service import Service
from parsim.executor.job import Job, RunRequest
from parsim.executor.replica import Replica
from parsim.executor.server import Server, bounds
from parsim.executor.turns import Clockwork, serve_by_wall
from parsim.model.dims import COMPUTE, GRADIENT
from parsim_kernels import Channel, Ledger
from parsim_kernels.signature import Array

AXIS: Final = "servers"  # over which workers and servers send
_DURATION, _PUSH, _GRADIENT, _PULL, _WEIGHTS = range(5)  # tags


class ServedJob(Struct, frozen=True):
    """What every server and worker is told."""

    run: RunRequest
    terms: Terms
    num_updates: int  # of each shard
    snapshots: int = 0  # after each so many updates servers keep a copy of their weights; 0: never
    service: Service | None = None  # by which virtual clocks go; None: servers serve as gradients come
    factors: tuple[tuple[float, ...], ...] = ()  # by worker and gradient, as those of RunRequest, which here has none

    def factor(self, worker: int, number: int) -> float:
        """How many times as long as usual a worker computes its gradient of this number."""
        return self.factors[worker][number % len(self.factors[worker])] if self.factors else 1.0


class Pull(Struct, frozen=True):
    """What comes before weights; without a ticket there come none, and the server needs no more gradients."""

    ticket: int | None
    version: int = 0


class Push(Struct, frozen=True):
    """What comes before a gradient; without a ticket there comes none, and no more from this worker."""

    ticket: int | None
    loss: float = 0.0  # of its sequences, as a part of the mean over a batch
    version: int = 0  # of the weights of this server that it was computed with


class Applied(Struct, frozen=True):
    """A gradient that a shard has applied."""

    worker: int
    ticket: int
    loss: float
    staleness: int  # updates of the shard, as they were counted there, between the pull and the application
    update: int  # of the shard, counted from 1
    end_ps: int
    wall_s: float  # since the server began


class ServerReport(Struct):
    """What a server returns."""

    ledger: Ledger
    applied: list[Applied] = field(default_factory=list)
    num_dropped: int = 0
    weights: dict[int, Array] = field(default_factory=dict)  # by update: snapshots, and after the last


class WorkerReport(Struct):
    """What a worker returns."""

    ledger: Ledger
    num_gradients: int = 0
    gradient_ps: int = 0  # of a gradient, undisturbed, on the worker's virtual clock
    wall_s: float = 0.0  # of computing all gradients


def take_part(channel: Channel, served: ServedJob, job: Job | None = None) -> ServerReport | WorkerReport:
    """What the server or worker at this channel does, from drawing its weights to the end; `job`: that of the run, where all share one."""
    part = serve if channel.rank < served.terms.num_shards else work
    return part(channel, served, job or served.run.job())


def work(channel: Channel, served: ServedJob, job: Job) -> WorkerReport:
    """All gradients of a worker, until no server has need of another."""
    worker, servers = channel.rank - served.terms.num_shards, list(range(served.terms.num_shards))
    replica = Replica(job, worker)
    weights, itemsize = replica.weights(), job.itemsize(GRADIENT)
    parts = bounds(weights.size, len(servers))
    report = WorkerReport(replica.ledger)

    def tell_duration(servers: Sequence[int]) -> None:
        for server in servers if served.service else ():
            _send(channel, server, _DURATION, report.gradient_ps + replica.longer_ps(factor))

    while True:
        pulls = {server: _receive(channel, server, _PULL) for server in servers}
        going = [server for server in servers if pulls[server].ticket is not None]
        if served.service and len(going) < len(servers):  # by virtual clocks all servers end at once
            for server in going:
                channel.receive(server, _WEIGHTS)
                _receive(channel, server, _PULL)
            going = []
        for server in (server for server in servers if server not in going):
            _send(channel, server, _PUSH, Push(None))
        servers = going
        if not servers:
            return report
        for server in servers:
            weights[parts[server]] = channel.receive(server, _WEIGHTS).array
        factor = served.factor(worker, report.num_gradients)
        if report.gradient_ps:
            tell_duration(servers)  # usually as long as the last one: so servers need not wait to know who comes next
        start_s, start_ps = time.perf_counter(), replica.clock.compute
        replica.take(weights)
        ticket = pulls[servers[0]].ticket
        assert ticket is not None
        loss, gradient = replica.gradient(ticket)
        if not served.service:
            time.sleep((time.perf_counter() - start_s) * max(0.0, factor - 1))
        report.wall_s += time.perf_counter() - start_s
        report.num_gradients += 1
        spent_ps = replica.clock.compute - start_ps
        if not report.gradient_ps:
            report.gradient_ps = spent_ps
            tell_duration(servers)
        assert spent_ps == report.gradient_ps, "all gradients take as long"
        for server in servers:
            _send(channel, server, _PUSH, Push(ticket, loss, pulls[server].version))
            channel.send(server, gradient[parts[server]], _GRADIENT)
            replica.ledger.send(AXIS, gradient[parts[server]].size * itemsize)


def serve(channel: Channel, served: ServedJob, job: Job) -> ServerReport:
    """All updates of a shard, until every worker has ended."""
    start = Replica(job, 0).weights()
    server = Server(job, served.terms, start[bounds(start.size, served.terms.num_shards)[channel.rank]])
    serving = _Serving(channel, served, server)
    if served.service:
        Clockwork(served.service, served.num_updates, channel.rank, serving, serving.duration_ps).go()
    else:
        serve_by_wall(served.terms, served.num_updates, serving, serving.first)
    serving.end()
    return serving.report


class _Serving:
    """A server at its channel."""

    def __init__(self, channel: Channel, served: ServedJob, server: Server) -> None:
        self.channel, self.served, self.server = channel, served, server
        self.report, self._begin_s = ServerReport(server.ledger), time.perf_counter()
        self._held: dict[int, Push] = {}  # by worker: of gradients for an update that takes more
        self._next_ticket, self._came = 0, Counter[int]()  # of each worker: durations less pushes

    def place(self, worker: int) -> int:
        """The channel of a worker."""
        return self.served.terms.num_shards + worker

    def first(self, workers: Sequence[int]) -> int:
        """The first of some workers of which a gradient comes."""
        return self.channel.first([self.place(worker) for worker in workers], _PUSH) - self.place(0)

    def duration_ps(self, worker: int, _: int) -> int:
        """How long a worker says that its next gradient takes."""
        found: int = _receive(self.channel, self.place(worker), _DURATION)
        self._came[worker] += 1
        return found

    def grant(self, worker: int, version: int) -> None:
        """Weights for a worker."""
        server, dst = self.server, self.place(worker)
        assert server.num_updates == min(version, self.served.num_updates), "the weights are of the version that is pulled"
        _send(self.channel, dst, _PULL, Pull(self._next_ticket, server.num_updates))
        self._next_ticket += 1
        self.channel.send(dst, server.weights, _WEIGHTS)
        server.ledger.send(AXIS, server.weights.size * server.job.itemsize(COMPUTE))

    def take(self, worker: int, outcome: Outcome, now_ps: int) -> None:
        """Hold, apply or drop the next gradient of a worker; when all updates are made, it is of no use any more."""
        push: Push = _receive(self.channel, self.place(worker), _PUSH)
        gradient = self.channel.receive(self.place(worker), _GRADIENT).array
        self._came[worker] -= 1
        if self.server.num_updates == self.served.num_updates:
            return
        if outcome.fate == "dropped":
            self.report.num_dropped += 1
            return
        self._held[worker] = push
        self.server.keep(worker, gradient)
        if outcome.update:
            self._update({each: self._held.pop(each) for each in outcome.update}, now_ps)

    def _update(self, taken: Mapping[int, Push], now_ps: int) -> None:
        server, report = self.server, self.report
        before = server.num_updates
        server.update([*taken])
        for worker, push in taken.items():
            assert push.ticket is not None
            when = server.num_updates, now_ps, time.perf_counter() - self._begin_s
            report.applied.append(Applied(worker, push.ticket, push.loss, before - push.version, *when))
        if server.num_updates == self.served.num_updates or ((every := self.served.snapshots) and server.num_updates % every == 0):
            report.weights[server.num_updates] = server.weights.copy()
        self.channel.report((server.num_updates, [push.loss for push in taken.values()]))

    def end(self) -> None:
        """Tell all workers, and take what they had sent before they heard it."""
        workers = range(self.served.terms.num_workers)
        for worker in workers:
            _send(self.channel, self.place(worker), _PULL, Pull(None))
        for worker in workers:
            while _receive(self.channel, self.place(worker), _PUSH).ticket is not None:
                self.channel.receive(self.place(worker), _GRADIENT)
                self._came[worker] -= 1
            for _ in range(-self._came[worker] if self.served.service else 0):
                _receive(self.channel, self.place(worker), _DURATION)


def _send(channel: Channel, dst: int, tag: int, value: Any) -> None:
    channel.send(dst, pickle.dumps(value), tag)


def _receive(channel: Channel, src: int, tag: int) -> Any:
    return pickle.loads(channel.receive(src, tag).array.tobytes())
