"""Pipeline schedules, one small file each: the order in which a rank runs the forwards and backwards of its stages.

A schedule is data for three readers; `ordered` checks it once (each action once, none before what it needs, no deadlock) and
gives the order in which the estimator's recurrence can fold it.  A plan names a registered schedule, or holds a written one: the
actions of each rank as text (action.py).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from parsim.errors import ScheduleError
from parsim.registry import Registry
from parsim.schedules.action import KINDS, parsed
from parsim.schedules.action import Action as Action


class Schedule(Protocol):
    """An order of actions for each rank."""

    source: str

    @property
    def steady_rounds(self) -> int | None:
        """Rounds of p micro_batches, a number that is legal, that show every memory state; None where there is no steady state."""
        ...

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """Why it cannot run so many chunks a rank and micro_batches (None: not known yet); None where it can.  Follows "schedule 'x' "."""
        ...

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        """The actions of one rank, first to last."""
        ...


SCHEDULES: Registry[Schedule] = Registry("schedule")


def names() -> tuple[str, ...]:
    """All schedules there are."""
    SCHEDULES.discover(__name__)
    return SCHEDULES.names()


def default(chunks: int) -> str:
    """The schedule where a plan names none (Narayanan et al. 2021, section 2.2)."""
    return "interleaved_1f1b" if chunks > 1 else "1f1b"


def one_chunk(chunks: int) -> str | None:
    """What a schedule of one chunk a rank says to several."""
    return f"runs one chunk of the model a rank, but virtual_pipeline = {chunks}" if chunks > 1 else None


def accepting(num_ranks: int, chunks: int) -> tuple[str, ...]:
    """The schedules that run so many chunks a rank, with some number of micro_batches."""
    return tuple(name for name in names() if SCHEDULES.get(name).legal(num_ranks, chunks, None) is None)


def fault(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int | None = None) -> str | None:
    """Why a named or written schedule cannot run a pipeline of this shape; None where it can.

    A named one is asked for its rule; a written one is checked action by action once the number of micro_batches is known.

    >>> fault("1f1b", 2, 2)
    "schedule '1f1b' runs one chunk of the model a rank, but virtual_pipeline = 2"
    >>> print(fault(("0F0 0B0", "1B0 1F0"), 2, 1, 1))
    rank 1 waits for ever: 1B0 needs 1F0
      rank 0 | 0F0 0B0
      rank 1 | 1B0 1F0   <-- here
    """
    if isinstance(schedule, str):
        SCHEDULES.discover(__name__)
        said = SCHEDULES.get(schedule).legal(num_ranks, chunks, num_micro_batches)
        return None if said is None else f"schedule '{schedule}' {said}"
    try:
        by_rank = parsed(schedule, num_ranks)
        if num_micro_batches is not None:
            checked(by_rank, num_ranks * chunks, num_micro_batches)
    except ScheduleError as error:
        return str(error)
    return None


def rank_of(stage: int, num_ranks: int) -> int:
    """Where a virtual stage lives: stages go round the ranks (Narayanan et al. 2021, section 2.2)."""
    return stage % num_ranks


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
    if isinstance(schedule, tuple):
        return checked(parsed(schedule, num_ranks), num_ranks * chunks, num_micro_batches)
    SCHEDULES.discover(__name__)
    registered = SCHEDULES.get(schedule)
    by_rank = tuple(tuple(registered.order(rank, num_ranks, chunks, num_micro_batches)) for rank in range(num_ranks))
    return checked(by_rank, num_ranks * chunks, num_micro_batches)


def checked(by_rank: tuple[tuple[Action, ...], ...], num_stages: int, num_micro_batches: int) -> Order:
    """The order of these actions, every one after what it needs.

    Raises:
        ScheduleError: as `ordered`.
    """
    num_ranks = len(by_rank)
    for rank, actions in enumerate(by_rank):
        own = range(rank, num_stages, num_ranks)
        expected = {Action(s, kind, m) for s in own for kind in KINDS for m in range(num_micro_batches)}
        wrong = {
            "lacks": expected.difference(actions),
            "cannot run": set(actions).difference(expected),
            "repeats": {action for action, times in Counter(actions).items() if times > 1},
        }
        told = [f"{verb} {_few(sorted(some))}" for verb, some in wrong.items() if some]
        if told:
            rule = f"it runs stages {_few(own)} forward (F) and backward (B) once for each of {num_micro_batches} micro batches"
            raise ScheduleError(f"rank {rank} {' and '.join(told)}: {rule}", remedy=grid(by_rank, rank))
    done: set[Action] = set()
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
    waiting = [rank for rank in range(num_ranks) if position[rank] < len(by_rank[rank])]
    if waiting:
        needed = {rank: sorted(needs(by_rank[rank][position[rank]], num_stages) - done) for rank in waiting}
        # Of a chain of ranks that wait, the one to tell of waits for what it runs itself, but later.
        stuck = next((r for r in waiting if any(rank_of(each.stage, num_ranks) == r for each in needed[r])), waiting[0])
        missing, at = ", ".join(map(str, needed[stuck])), position[stuck]
        raise ScheduleError(f"rank {stuck} waits for ever: {by_rank[stuck][at]} needs {missing}", remedy=grid(by_rank, stuck, at))
    return Order(by_rank, tuple(overall))


def _ready(action: Action, last_stage: int, done: set[Action]) -> bool:
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


@functools.lru_cache(maxsize=512)
def memory_states(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> tuple[tuple[State, ...], ...]:
    """For each rank, the distinct (micro_batches in flight by chunk, next action's chunk and kind) that may set the peak.

    Where a steady state repeats, a few rounds of micro_batches show all states.
    """
    count = num_micro_batches
    if isinstance(schedule, str):
        SCHEDULES.discover(__name__)
        rounds = SCHEDULES.get(schedule).steady_rounds
        count = count if rounds is None else min(count, rounds * num_ranks)
    order = ordered(schedule, num_ranks, chunks, count)
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
