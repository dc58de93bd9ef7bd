"""Whether a schedule runs: each action once on the rank where its stage lives, none before what it needs, no deadlock."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from parsim.errors import ScheduleError
from parsim.schedules.action import Action, needs
from parsim.schedules.schedule import Schedule, find


class Order(NamedTuple):
    """A checked schedule: actions by rank, and all of them in an order in which each follows what it needs."""

    by_rank: tuple[tuple[Action, ...], ...]
    overall: tuple[Action, ...]


@functools.lru_cache(maxsize=512)
def ordered(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> Order:
    """The checked order of a registered schedule, or of a written one.

    Raises:
        ParsimError: no schedule of that name.
        ScheduleError: an action is missing, doubled, on the wrong rank, or waits for itself; the grid is drawn.

    >>> [str(a) for a in ordered("1f1b", 2, 1, 2).by_rank[0]]
    ['0F0', '0F1', '0B0', '0B1']
    """
    return check(find(schedule, num_ranks), num_ranks, chunks, num_micro_batches)


def check(schedule: Schedule, num_ranks: int, chunks: int, num_micro_batches: int) -> Order:
    """The order of these actions, every one after what it needs.

    Raises:
        ScheduleError: as `ordered`.
    """
    by_rank = tuple(tuple(schedule.order(rank, num_ranks, chunks, num_micro_batches)) for rank in range(num_ranks))
    num_stages = num_ranks * chunks
    _each_once(schedule, by_rank, num_stages, num_micro_batches)
    done: dict[Action, None] = {}
    position = [0] * num_ranks
    progress = True
    while progress:
        progress = False
        for rank, actions in enumerate(by_rank):
            while position[rank] < len(actions) and needs(actions[position[rank]], num_stages) <= done.keys():
                done[actions[position[rank]]] = None
                position[rank] += 1
                progress = True
    waiting = [rank for rank in range(num_ranks) if position[rank] < len(by_rank[rank])]
    if waiting:
        needed = {rank: sorted(needs(by_rank[rank][position[rank]], num_stages) - done.keys()) for rank in waiting}
        # Of a chain of ranks that wait, the one to tell of waits for what it runs itself, but later.
        stuck = next((r for r in waiting if any(schedule.rank_of(each.stage, num_ranks) == r for each in needed[r])), waiting[0])
        missing, at = ", ".join(map(str, needed[stuck])), position[stuck]
        raise ScheduleError(f"rank {stuck} waits for ever: {by_rank[stuck][at]} needs {missing}", remedy=grid(by_rank, stuck, at))
    return Order(by_rank, tuple(done))


def _each_once(schedule: Schedule, by_rank: tuple[tuple[Action, ...], ...], num_stages: int, num_micro_batches: int) -> None:
    for rank, actions in enumerate(by_rank):
        own = [stage for stage in range(num_stages) if schedule.rank_of(stage, len(by_rank)) == rank]
        expected = {Action(stage, phase, m) for stage in own for phase in schedule.phases for m in range(num_micro_batches)}
        wrong = {
            "lacks": expected.difference(actions),
            "cannot run": set(actions).difference(expected),
            "repeats": {action for action, times in Counter(actions).items() if times > 1},
        }
        faults = [f"{verb} {_few(sorted(some))}" for verb, some in wrong.items() if some]
        if faults:
            *most, last = (f"{phase.words} ({phase})" for phase in schedule.phases)
            rule = f"it runs stages {_few(own)} {', '.join(most)} and {last} once for each of {num_micro_batches} micro batches"
            raise ScheduleError(f"rank {rank} {' and '.join(faults)}: {rule}", remedy=grid(by_rank, rank))


def grid(by_rank: tuple[tuple[Action, ...], ...], marked: int | None = None, position: int = 0, width: int = 12) -> str:
    """The actions of each rank near a position, one rank a line, with a mark at one of them; of many ranks those near the mark."""
    first, lines = max(0, position - width // 2), []
    near = range(len(by_rank)) if len(by_rank) <= width else range(max(0, (marked or 0) - width // 2), len(by_rank))[:width]
    for rank in near:
        actions = by_rank[rank]
        shown = " ".join(map(str, actions[first : first + width]))
        before, after = "... " if first else "", " ..." if len(actions) > first + width else ""
        lines.append(f"rank {rank} | {before}{shown}{after}{'   <-- here' if rank == marked else ''}")
    return "\n  ".join(lines)


def _few(some: Sequence[object], most: int = 4) -> str:
    return ", ".join(map(str, some[:most])) + (", ..." if len(some) > most else "")
