"""Parameter servers by events: how stale gradients are, how many a second are applied, and how busy servers and ports are.

Integer picoseconds; a process of simpy for each worker and shard, which pulls, waits for the worker's other shards, and pushes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from parsim.asynchrony.line import Line
from parsim.asynchrony.protocol import Servers
from parsim.asynchrony.service import Service
from parsim.errors import PlanError
from parsim.plain import Plain

if TYPE_CHECKING:
    import simpy

Waits: TypeAlias = "Generator[simpy.Event, Any, Any]"
ComputePs = Callable[[int, int], int]  # of a worker and the number of its gradient
MOST_MESSAGES: Final = 2_000_000  # some ten seconds
_FEWEST_ROUNDS, _MOST_ROUNDS, _MESSAGES = 16, 256, 100_000


class ServedRun(Plain, frozen=True):
    """What a simulation saw, without the first half, in which workers fall into step."""

    step_ps: int  # in which as many gradients are applied as there are workers, on average
    staleness: tuple[tuple[int, int], ...]  # updates between pull and application, and how many gradients were so stale
    num_applied: int  # a shard each
    num_dropped: int  # that came too late, a shard each
    busy: Mapping[str, float]  # by name, the share of the whole run: of servers, of their ports that send and take, of workers' computing
    num_events: int

    @property
    def mean_staleness(self) -> float:
        """Of gradients that were applied."""
        return sum(stale * count for stale, count in self.staleness) / max(1, sum(count for _, count in self.staleness))

    @property
    def most_stale(self) -> int:
        """The largest."""
        return max((stale for stale, _ in self.staleness), default=0)


def simulate_servers(service: Service, compute_ps: ComputePs, rounds: int | None = None) -> ServedRun:
    """A run of so many gradients a worker, on average.

    Raises:
        PlanError: that would be too many messages.
    """
    parts = service.terms.num_workers * service.terms.num_shards
    rounds = rounds or max(_FEWEST_ROUNDS, min(_MOST_ROUNDS, _MESSAGES // parts))
    if parts * rounds > MOST_MESSAGES:
        said = f"{rounds} gradients of each of {service.terms.num_workers} workers to {service.terms.num_shards} servers take minutes"
        raise PlanError(said, remedy="Ask the estimate, or lower data_parallel or parameter_servers.")
    return ServedWorld(service, compute_ps, rounds).run()


class ServedWorld:
    """All workers, servers and ports."""

    def __init__(self, service: Service, compute_ps: ComputePs, rounds: int) -> None:
        import simpy  # imported here: the command line must start without it

        terms = service.terms
        self.env, self.event = (env := simpy.Environment()), env.event
        self.service, self.compute_ps, self.servers = service, compute_ps, Servers(terms)
        shards, workers = range(terms.num_shards), range(terms.num_workers)
        self.memory, self.takes, self.sends = ([Line() for _ in shards] for _ in range(3))  # of servers
        self.leave, self.enter = ({port: Line() for port in service.ports} for _ in range(2))  # ports of workers
        self.ready_ps = [0 for _ in shards]  # when the last update is done
        self.waiting: list[list[tuple[int, simpy.Event]]] = [[] for _ in shards]  # who may not pull yet, in order
        self.missing = [terms.num_shards for _ in workers]  # shards that a worker has not pulled yet
        self.computed = [self.event() for _ in workers]
        self.left_ps = [[0 for _ in shards] for _ in workers]  # when the gradient of each shard starts to leave
        self.number = [0 for _ in workers]  # of the gradient that a worker computes
        self.computing_ps, self.num_events = 0, 0
        updates = rounds * terms.num_workers // terms.num_needed
        self.marks = updates // 2, updates
        self.seen: list[tuple[int, int]] = []  # at the marks: when, and how many gradients had been applied
        self.before = Counter[int](), 0  # staleness and how many were dropped, until the first mark
        self.done = self.event()

    @property
    def now(self) -> int:
        """Picoseconds since the start."""
        return int(self.env.now)

    def run(self) -> ServedRun:
        """Until the second mark of the last shard."""
        self.go()
        (start_ps, some), (end_ps, all_of_them) = self.seen
        staleness = self.servers.staleness - self.before[0]
        whole, shards, workers = self.now, self.service.terms.num_shards, self.service.terms.num_workers
        lines = {"server": self.memory, "server_takes": self.takes, "server_sends": self.sends}
        busy = {name: sum(min(each.busy_ps, whole) for each in every) / (whole * shards) for name, every in lines.items()}
        return ServedRun(
            step_ps=round((end_ps - start_ps) * workers / (all_of_them - some)),
            staleness=tuple(sorted(staleness.items())),
            num_applied=sum(staleness.values()),
            num_dropped=self.servers.num_dropped - self.before[1],
            busy=busy | {"workers": min(1.0, self.computing_ps / (whole * workers))},
            num_events=self.num_events,
        )

    def go(self) -> None:
        """Let all workers go, until it is done."""
        for worker in range(self.service.terms.num_workers):
            for shard in range(self.service.terms.num_shards):
                self.env.process(self.part(worker, shard))
        self.env.run(self.done)

    def part(self, worker: int, shard: int) -> Waits:
        """What a worker does with a shard, for ever."""
        service, port = self.service, self.service.ports[worker]
        pull, push, handle_ps = service.pulls[shard], service.pushes[shard], service.handle_ps[shard]
        state = self.servers.shards[shard]
        while True:
            yield from self.until(self.ready_ps[shard])
            while not state.may_pull(worker):
                self.waiting[shard].append((worker, event := self.event()))
                yield event
                yield from self.until(self.ready_ps[shard])
            start_ps = self.sends[shard].enter(self.now, pull.out_ps) - pull.out_ps
            yield from self.until(start_ps)
            state.pull(worker)
            yield from self.until(start_ps + pull.ready_ps)
            yield from self.until(self.enter[port].enter(self.now, pull.in_ps))
            yield from self.gradient(worker, port)
            start_ps = self.left_ps[worker][shard]
            yield from self.until(start_ps + push.ready_ps)
            yield from self.until(self.takes[shard].enter(self.now, push.in_ps))
            late = service.terms.is_synchronous and state.pulled[worker] != state.version  # is dropped unread
            yield from self.until(self.memory[shard].enter(self.now, 0 if late else handle_ps))
            self.handle(worker, shard)

    def gradient(self, worker: int, port: int) -> Waits:
        """Wait until a worker has pulled all shards and computed: the last of them computes, and its gradients leave in order of shards."""
        self.missing[worker] -= 1
        if self.missing[worker]:
            yield self.computed[worker]
            return
        spent_ps = self.compute_ps(worker, self.number[worker])
        self.computing_ps += spent_ps
        yield from self.until(self.now + spent_ps)
        self.number[worker] += 1
        self.missing[worker] = self.service.terms.num_shards
        out = self.leave[port]
        self.left_ps[worker] = [out.enter(self.now, push.out_ps) - push.out_ps for push in self.service.pushes]
        event, self.computed[worker] = self.computed[worker], self.event()
        event.succeed()

    def handle(self, worker: int, shard: int) -> None:
        """A gradient has been applied, or added to others, or was dropped."""
        outcome = self.servers.push(worker, shard)
        if outcome.update and self.service.update_ps[shard]:
            self.ready_ps[shard] = self.memory[shard].enter(self.now, self.service.update_ps[shard])
        if outcome.opens:
            waiting, self.waiting[shard] = self.waiting[shard], []
            for _, event in waiting:
                event.succeed()
        if outcome.update and shard == self.service.terms.num_shards - 1:
            self.mark(shard)

    def mark(self, shard: int) -> None:
        """Note an update of the last shard, if it is one of the marks."""
        state = self.servers.shards[shard]
        if state.version not in self.marks:
            return
        self.seen.append((self.now, sum(state.staleness.values())))
        if state.version == self.marks[0]:
            self.before = self.servers.staleness, self.servers.num_dropped
        if state.version == self.marks[1]:
            self.done.succeed()

    def until(self, at_ps: int) -> Waits:
        """Wait until then, if it is not past."""
        if at_ps > self.now:
            self.num_events += 1
            yield self.env.timeout(at_ps - self.now)
