"""Parameter servers without a clock: who may pull weights, what becomes of a gradient, and how stale it is.

Each shard of the weights is served by itself.  A worker pulls its version, computes, and pushes a gradient; it pulls that shard again when
the gradient has been handled there, so that it reads what it wrote.  Whoever knows time, simulated or real, asks here what is allowed.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from msgspec import Struct

from parsim.parallel.plan import Plan

Fate = Literal["applied", "held", "dropped"]


class Terms(Struct, frozen=True):
    """On what workers and servers agree.

    Source of the bound: Ho et al. 2013 (NIPS), section 2, stale synchronous parallel; of backup workers: Chen et al. 2016
    (arXiv:1604.00981), section 3.
    """

    num_workers: int
    num_shards: int = 1
    staleness_bound: int | None = None  # gradients that a worker may be ahead of the slowest; 0: synchronous; None: no bound
    backup_workers: int = 0  # of synchronous ones: so many gradients of a version come too late

    @classmethod
    def of(cls, plan: Plan) -> Terms:
        """Those of a legal plan, whose replicas are the workers."""
        return cls(plan.data_parallel, plan.parameter_servers, plan.staleness_bound, plan.backup_workers)

    @property
    def is_synchronous(self) -> bool:
        """Whether an update takes gradients of several workers, all of its own version."""
        return self.staleness_bound == 0

    @property
    def num_needed(self) -> int:
        """Gradients that an update takes.

        >>> Terms(4).num_needed, Terms(4, staleness_bound=0, backup_workers=1).num_needed
        (1, 3)
        """
        return self.num_workers - self.backup_workers if self.is_synchronous else 1

    @property
    def most_stale(self) -> int | None:
        """The staleness that no gradient exceeds; None: any may come.

        While a worker that is s gradients ahead of another computes, that one comes to be s ahead of it, and pushes once more.

        >>> [Terms(3, staleness_bound=bound).most_stale for bound in (0, 1, 2)]
        [0, 6, 10]
        """
        if self.is_synchronous or self.staleness_bound is None:
            return self.staleness_bound
        return (self.num_workers - 1) * (2 * self.staleness_bound + 1)


class Outcome(Struct, frozen=True):
    """What became of a gradient that a shard has handled."""

    fate: Fate  # held: for an update that takes more
    staleness: int  # updates of the shard between the pull and the application; of one that is held or dropped, until now
    update: tuple[int, ...] = ()  # workers whose gradients the update takes that this one completes, as they came; none: no update
    opens: bool = False  # whether some who might not pull before may now


class Shard:
    """One shard of the weights: its version is the number of its updates."""

    def __init__(self, terms: Terms) -> None:
        self.terms, self.version = terms, 0
        self.handled = [0] * terms.num_workers  # gradients of each worker
        self.pulled: list[int | None] = [None] * terms.num_workers  # the version that each computes with; None: none
        self.staleness = Counter[int]()  # of gradients that were applied
        self.num_dropped = 0
        self._next = [0] * terms.num_workers  # the least version that a synchronous worker may pull
        self._slowest, self._num_slowest = 0, terms.num_workers  # handled gradients of the slowest, and how many have no more
        self._held: list[int] = []

    def may_pull(self, worker: int) -> bool:
        """Whether a worker may pull now; if not, it waits for a push that opens."""
        if self.pulled[worker] is not None:
            return False
        bound = self.terms.staleness_bound
        if bound == 0:
            return self.version >= self._next[worker]
        return bound is None or self.handled[worker] - self._slowest <= bound

    def pull(self, worker: int) -> int:
        """The version that a worker gets, which may pull."""
        assert self.may_pull(worker), f"worker {worker} may not pull"
        self.pulled[worker] = self.version
        return self.version

    def push(self, worker: int) -> Outcome:
        """What becomes of the gradient of a worker that has pulled."""
        pulled = self.pulled[worker]
        assert pulled is not None, f"worker {worker} has pulled nothing"
        self.pulled[worker], staleness = None, self.version - pulled
        rises = self._count(worker)
        if not self.terms.is_synchronous:
            return self._apply("applied", staleness, (worker,), opens=rises)
        if staleness:
            self.num_dropped += 1
            self._next[worker] = self.version
            return Outcome("dropped", staleness)
        self._next[worker] = self.version + 1
        self._held.append(worker)
        if len(self._held) < self.terms.num_needed:
            return Outcome("held", 0)
        update, self._held = tuple(self._held), []
        return self._apply("applied", 0, update, opens=True)

    def _apply(self, fate: Fate, staleness: int, update: tuple[int, ...], *, opens: bool) -> Outcome:
        self.staleness[staleness] += len(update)
        self.version += 1
        return Outcome(fate, staleness, update, opens)

    def _count(self, worker: int) -> bool:
        """Note a gradient as handled; whether the slowest have come further by it."""
        self.handled[worker] += 1
        if self.handled[worker] - 1 != self._slowest:
            return False
        self._num_slowest -= 1
        if self._num_slowest:
            return False
        self._slowest = min(self.handled)
        self._num_slowest = self.handled.count(self._slowest)
        return True


class Servers:
    """All shards of the weights.

    >>> served = Servers(Terms(num_workers=2, staleness_bound=1))
    >>> [served.pull(worker, 0) for worker in (0, 1)], served.push(0, 0).staleness, served.pull(0, 0), served.push(0, 0).staleness
    ([0, 0], 0, 1, 0)
    >>> served.may_pull(0, 0), served.push(1, 0).staleness, served.may_pull(0, 0)
    (False, 2, True)
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.shards = [Shard(terms) for _ in range(terms.num_shards)]

    def may_pull(self, worker: int, shard: int) -> bool:
        """Whether a worker may pull a shard now."""
        return self.shards[shard].may_pull(worker)

    def pull(self, worker: int, shard: int) -> int:
        """The version of a shard that a worker gets, which may pull."""
        return self.shards[shard].pull(worker)

    def push(self, worker: int, shard: int) -> Outcome:
        """What becomes of the gradient that a worker pushes to a shard of which it has pulled."""
        return self.shards[shard].push(worker)

    @property
    def staleness(self) -> Counter[int]:
        """How often gradients of each staleness were applied, all shards together."""
        return sum((shard.staleness for shard in self.shards), Counter[int]())

    @property
    def num_dropped(self) -> int:
        """Gradients that came too late, all shards together."""
        return sum(shard.num_dropped for shard in self.shards)
