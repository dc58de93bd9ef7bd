"""How fast parameter servers go at best, in closed form, and what binds them.

Of workers that do not wait for one another: the largest of a cycle without waits, and of what all together ask of a server, of its ports
and of a port of workers.  Equal workers whose times do not vary, each with a port of its own, reach it: customers that go round through
queues in a row take the longest of their way and of so many times the slowest queue, since in their timed event graph each circuit is made
of these (Baccelli et al. 1992, Synchronization and Linearity, section 2.5).  Of synchronous workers: one round after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from parsim.asynchrony.line import Line
from parsim.asynchrony.service import Service
from parsim.plain import Plain

# What may bind: the cycles of all workers, or of the slowest where others wait for it, and what a server or a port is asked for.
WORKERS, SLOWEST, SERVER, TAKES, SENDS, PORTS = ("workers", "slowest_worker", "server", "server_takes", "server_sends", "worker_ports")
_ROUNDS: Final = 4  # after which the shards of synchronous workers keep their distance


class Served(Plain, frozen=True):
    """What a plan of parameter servers takes for as many gradients as there are workers."""

    step_ps: int
    compute_ps: int  # of a worker's gradient
    pull_ps: int  # of all shards, where nobody else is there
    push_ps: int  # the same, and until servers have handled it
    bounds_ps: Mapping[str, int]  # by what might bind: a worker's cycle, and what all gradients ask of the busiest server and ports
    binds: str
    pull_bytes: int  # of a worker and gradient, from all servers
    push_bytes: int
    num_hosts: int  # of servers
    server_bytes: Mapping[str, int]  # memory of the fullest of these by part

    @property
    def others_ps(self) -> int:
        """What a worker does not compute of a cycle."""
        return max(0, self.step_ps - self.compute_ps)


def cycle_of(service: Service, compute_ps: int, each_ps: Sequence[int] = ()) -> Served:
    """What servers and workers reach of which each computes so long; `each_ps`: where some compute longer."""
    workers = tuple(each_ps) or (compute_ps,) * service.terms.num_workers
    push_ps, pull_ps = ways_ps(service)
    bounds = _bounds(service, workers, push_ps + pull_ps)
    step_ps = rounds_ps(service, workers) if service.terms.is_synchronous else max(bounds.values())
    return Served(
        step_ps=step_ps,
        compute_ps=compute_ps,
        pull_ps=pull_ps,
        push_ps=push_ps,
        bounds_ps=bounds,
        binds=max(bounds, key=lambda name: bounds[name]),
        pull_bytes=service.pull_bytes,
        push_bytes=service.push_bytes,
        num_hosts=service.num_hosts,
        server_bytes=service.server_bytes,
    )


def ways_ps(service: Service) -> tuple[int, int]:
    """From the end of a worker's computing to when servers have handled its gradients, and from there until it has pulled all shards."""
    leave, enter, handled = Line(), Line(), []
    for push, handle_ps, update_ps in zip(service.pushes, service.handle_ps, service.update_ps, strict=True):
        start = leave.enter(0, push.out_ps) - push.out_ps
        handled.append(start + push.alone_ps + handle_ps + update_ps)
    ready = sorted((start + pull.ready_ps, pull.in_ps) for start, pull in zip(handled, service.pulls, strict=True))
    pulled = max(enter.enter(*each) for each in ready)
    return max(handled), pulled - max(handled)


def _bounds(service: Service, workers: Sequence[int], way_ps: int) -> dict[str, int]:
    """What each might bind, for one gradient of each worker."""
    count, ways = service.terms.num_workers, (service.pushes, service.pulls)
    shares, applied = service.most_at_a_port, service.terms.num_needed if service.terms.is_synchronous else count
    if service.terms.staleness_bound is None:
        cycle = round(count / sum(1 / (each + way_ps) for each in workers)) if len({*workers}) > 1 else workers[0] + way_ps
    else:
        cycle = sorted(workers)[service.terms.num_needed - 1 if service.terms.is_synchronous else -1] + way_ps
    each = zip(service.handle_ps, service.update_ps, strict=True)
    sums = [sum(getattr(way, side) for way in own) for own, side in zip(ways, ("out_ps", "in_ps"), strict=True)]
    return {
        WORKERS if service.terms.staleness_bound is None else SLOWEST: _of_applied(service, cycle),
        SERVER: _of_applied(service, max(applied * handle + update for handle, update in each)),
        TAKES: _of_applied(service, count * max(way.in_ps for way in service.pushes)),
        SENDS: _of_applied(service, count * max(way.out_ps for way in service.pulls)),
        PORTS: _of_applied(service, shares * max(sums)),
    }


def _of_applied(service: Service, round_ps: int) -> int:
    """For as many applied gradients as there are workers, of a round in which some come too late."""
    terms = service.terms
    return round_ps if not terms.backup_workers else round(round_ps * terms.num_workers / terms.num_needed)


def rounds_ps(service: Service, workers: Sequence[int]) -> int:
    """The round of synchronous workers, once rounds are alike, by what each queue does in it; of backup workers what they ask is left out.

    Exact where none are backups and all compute equally long.
    """
    updated = [0] * service.terms.num_shards
    for _ in range(_ROUNDS):
        before, updated = updated[-1], _round(service, workers, updated)
    return _of_applied(service, updated[-1] - before)


def _round(service: Service, workers: Sequence[int], updated: Sequence[int]) -> list[int]:
    """When each shard is updated next, after it was."""
    enter, leave = ({port: Line() for port in service.ports} for _ in range(2))
    ready: list[tuple[int, int, int]] = []
    for shard, pull in enumerate(service.pulls):
        sends = Line()
        ready += ((sends.enter(updated[shard], pull.out_ps) - pull.out_ps + pull.ready_ps, shard, worker) for worker in range(len(workers)))
    pulled = [0] * len(workers)
    for at, shard, worker in sorted(ready):
        pulled[worker] = max(pulled[worker], enter[service.ports[worker]].enter(at, service.pulls[shard].in_ps))
    coming: list[list[tuple[int, int]]] = [[] for _ in service.pushes]
    for done, worker in sorted((at + workers[worker], worker) for worker, at in enumerate(pulled)):
        for shard, push in enumerate(service.pushes):
            start = leave[service.ports[worker]].enter(done, push.out_ps) - push.out_ps
            coming[shard].append((start + push.ready_ps, worker))
    return [_update(service, shard, sorted(each)) for shard, each in enumerate(coming)]


def _update(service: Service, shard: int, coming: Sequence[tuple[int, int]]) -> int:
    """When a shard has what it needs of gradients that come, and is updated."""
    takes, memory = Line(), Line()
    handled = [memory.enter(takes.enter(at, service.pushes[shard].in_ps), service.handle_ps[shard]) for at, _ in coming]
    return handled[service.terms.num_needed - 1] + service.update_ps[shard]
