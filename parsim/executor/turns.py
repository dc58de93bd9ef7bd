"""In which order parameter servers serve: as gradients come, or by the events of a simulation in which workers really compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from parsim.asynchrony.protocol import Outcome, Shard, Terms
from parsim.asynchrony.service import Service
from parsim.asynchrony.simulation import ServedWorld


class Desk(Protocol):
    """What a server does as its turn comes."""

    def grant(self, worker: int, version: int) -> None:
        """A worker pulls a version of the shard."""
        ...

    def take(self, worker: int, outcome: Outcome, now_ps: int) -> None:
        """The next gradient of a worker comes to its outcome."""
        ...


class _ToldShard(Shard):
    """A shard that says what is done to it."""

    def __init__(self, terms: Terms, desk: Desk, now_ps: Callable[[], int]) -> None:
        super().__init__(terms)
        self._desk, self._now_ps = desk, now_ps

    def pull(self, worker: int) -> int:
        """The version that a worker gets, which may pull."""
        version = super().pull(worker)
        self._desk.grant(worker, version)
        return version

    def push(self, worker: int) -> Outcome:
        """What becomes of the gradient of a worker that has pulled."""
        outcome = super().push(worker)
        self._desk.take(worker, outcome, self._now_ps())
        return outcome


def serve_by_wall(terms: Terms, num_updates: int, desk: Desk, first: Callable[[Sequence[int]], int]) -> None:
    """Serve one shard as gradients come, until it has so many updates; `first` waits for a gradient of any of some workers."""
    shard = _ToldShard(terms, desk, lambda: 0)
    waiting, computing = list(range(terms.num_workers)), list[int]()
    while shard.version < num_updates:
        for worker in [each for each in waiting if shard.may_pull(each)]:
            waiting.remove(worker)
            computing.append(worker)  # behind the others, so that nobody is overlooked
            shard.pull(worker)
        worker = first(computing)
        computing.remove(worker)
        waiting.append(worker)
        shard.push(worker)


class Clockwork(ServedWorld):
    """The simulation of all servers, as server `own` goes through it: what happens there is done, and it asks how long workers compute.

    Every server goes through the same one, since all know how long each gradient takes; so they agree on the order without a message.
    """

    def __init__(self, service: Service, num_updates: int, own: int, desk: Desk, compute_ps: Callable[[int, int], int]) -> None:
        super().__init__(service, compute_ps, 1)
        self.marks, self._num_updates = (-1, -1), num_updates
        self.servers.shards[own] = _ToldShard(service.terms, desk, lambda: int(self.env.now))

    def handle(self, worker: int, shard: int) -> None:
        """As ServedWorld has it; the run ends when every shard has its updates."""
        super().handle(worker, shard)
        if all(each.version >= self._num_updates for each in self.servers.shards) and not self.done.triggered:
            self.done.succeed()
