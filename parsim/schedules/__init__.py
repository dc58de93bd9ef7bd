"""Pipeline schedules, one small file each: the order in which a rank runs the forwards and backwards of its stages.

A schedule is data for three readers; `ordered` checks it once (each action once, none before what it needs, no deadlock) and
gives the order in which the estimator's recurrence can fold it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

from parsim.errors import ScheduleError
from parsim.registry import Registry


class Action(NamedTuple):
    """Prints as '2F0': stage 2, forward, micro_batch 0."""

    stage: int
    kind: Literal["F", "B"]
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.micro_batch}"


class Schedule(Protocol):
    """An order of actions for each rank."""

    source: str
    steady_rounds: int  # rounds of p micro_batches after which no new memory state appears

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        """The actions of one rank, first to last."""
        ...


SCHEDULES: Registry[Schedule] = Registry("schedule")


def names() -> tuple[str, ...]:
    """All schedules there are."""
    SCHEDULES.discover(__name__)
    return SCHEDULES.names()


def rank_of(stage: int, num_ranks: int) -> int:
    """Where a virtual stage lives: stages go round the ranks (Narayanan et al. 2021, section 2.2)."""
    return stage % num_ranks


class Order(NamedTuple):
    """A checked schedule: actions by rank, and all of them in an order in which each follows what it needs."""

    by_rank: tuple[tuple[Action, ...], ...]
    overall: tuple[Action, ...]


@functools.lru_cache(maxsize=512)
def ordered(name: str, num_ranks: int, chunks: int, num_micro_batches: int) -> Order:
    """The checked order of a registered schedule.

    Raises:
        ScheduleError: an action is missing, doubled, on the wrong rank, or waits for itself; the grid is drawn.

    >>> [str(a) for a in ordered("1f1b", 2, 1, 2).by_rank[0]]
    ['0F0', '0F1', '0B0', '0B1']
    """
    SCHEDULES.discover(__name__)
    schedule = SCHEDULES.get(name)
    by_rank = tuple(tuple(schedule.order(rank, num_ranks, chunks, num_micro_batches)) for rank in range(num_ranks))
    return checked(by_rank, num_ranks * chunks, num_micro_batches)


def checked(by_rank: tuple[tuple[Action, ...], ...], num_stages: int, num_micro_batches: int) -> Order:
    """The order of these actions, every one after what it needs.

    Raises:
        ScheduleError: as `ordered`.
    """
    num_ranks = len(by_rank)
    for rank, actions in enumerate(by_rank):
        own = range(rank, num_stages, num_ranks)
        expected = {(s, kind, m) for s in own for kind in "FB" for m in range(num_micro_batches)}
        odd = expected.symmetric_difference(actions)
        if odd or len(actions) != len(expected):
            named = ", ".join("{}{}{}".format(*each) for each in sorted(odd)[:4]) or "a doubled action"
            raise ScheduleError(f"rank {rank} must run each action of its stages once: {named}", remedy=grid(by_rank))
    done: set[tuple[int, str, int]] = set()
    overall: list[Action] = []
    position = [0] * num_ranks
    progress = True
    while progress:
        progress = False
        for rank, actions in enumerate(by_rank):
            while position[rank] < len(actions) and _ready(actions[position[rank]], num_stages - 1, done):
                done.add(actions[position[rank]])
                overall.append(actions[position[rank]])
                position[rank] += 1
                progress = True
    stuck = next((r for r in range(num_ranks) if position[r] < len(by_rank[r])), None)
    if stuck is not None:
        action = by_rank[stuck][position[stuck]]
        missing = ", ".join(map(str, sorted(needs(action, num_stages) - done)))
        raise ScheduleError(f"rank {stuck} waits for ever: {action} needs {missing}", remedy=grid(by_rank))
    return Order(by_rank, tuple(overall))


def _ready(action: Action, last_stage: int, done: set[tuple[int, str, int]]) -> bool:
    stage, kind, m = action
    if kind == "F":
        return stage == 0 or (stage - 1, "F", m) in done
    return (stage, "F", m) in done and (stage == last_stage or (stage + 1, "B", m) in done)


def needs(action: Action, num_stages: int) -> set[Action]:
    """What must have run before: the stage below, or the stage above and the own forward."""
    stage, kind, m = action
    if kind == "F":
        return {Action(stage - 1, "F", m)} if stage else set()
    after = {Action(stage + 1, "B", m)} if stage < num_stages - 1 else set()
    return {Action(stage, "F", m), *after}


def grid(by_rank: tuple[tuple[Action, ...], ...], width: int = 12) -> str:
    """The first actions of each rank, one rank a line."""
    lines = []
    for rank, actions in enumerate(by_rank):
        more = " ..." if len(actions) > width else ""
        lines.append(f"rank {rank} | {' '.join(map(str, actions[:width]))}{more}")
    return "\n  ".join(lines)


@functools.lru_cache(maxsize=512)
def memory_states(name: str, num_ranks: int, chunks: int, num_micro_batches: int) -> tuple[tuple[State, ...], ...]:
    """For each rank, the distinct (micro_batches in flight by chunk, next action's chunk and kind) that may set the peak.

    Steady state repeats, so a few rounds of micro_batches show all states.
    """
    SCHEDULES.discover(__name__)
    enough = SCHEDULES.get(name).steady_rounds * num_ranks
    order = ordered(name, num_ranks, chunks, min(num_micro_batches, enough))
    return tuple(_states(actions, num_ranks, chunks) for actions in order.by_rank)


class State(NamedTuple):
    """What a rank holds when an action starts."""

    in_flight: tuple[int, ...]  # micro_batches whose forward ran and whose backward did not, by chunk
    chunk: int
    kind: str


def _states(actions: tuple[Action, ...], num_ranks: int, chunks: int) -> tuple[State, ...]:
    in_flight = [0] * chunks
    seen: set[State] = set()
    for action in actions:
        chunk = action.stage // num_ranks
        seen.add(State(tuple(in_flight), chunk, action.kind))
        in_flight[chunk] += 1 if action.kind == "F" else -1
    return tuple(sorted(seen))
