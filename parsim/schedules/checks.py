"""What a schedule must hold before it has columns: each action once, on the rank where its stage lives; and how its actions are drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from parsim.errors import ScheduleError
from parsim.schedules.action import Action
from parsim.schedules.schedule import Schedule


def check_each_once(schedule: Schedule, num_ranks: int, chunks: int, num_micro_batches: int) -> None:
    """Refuse a schedule that does not run every phase of every stage once for each micro_batch.

    Raises:
        ScheduleError: an action is missing, doubled, or on the wrong rank; the actions are drawn.
    """
    by_rank = [list(schedule.order(rank, num_ranks, chunks, num_micro_batches)) for rank in range(num_ranks)]
    for rank, actions in enumerate(by_rank):
        own = schedule.stages_of(rank, num_ranks, num_ranks * chunks)
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


def grid(by_rank: Sequence[Sequence[Action]], marked: int, position: int = 0, width: int = 12) -> str:
    """The actions of each rank near a position, one rank a line, with a mark at one of them; of many ranks those near the mark."""
    first, lines = max(0, position - width // 2), []
    near = range(len(by_rank)) if len(by_rank) <= width else range(max(0, marked - width // 2), len(by_rank))[:width]
    for rank in near:
        actions = by_rank[rank]
        shown = " ".join(map(str, actions[first : first + width]))
        before, after = "... " if first else "", " ..." if len(actions) > first + width else ""
        lines.append(f"rank {rank} | {before}{shown}{after}{'   <-- here' if rank == marked else ''}")
    return "\n  ".join(lines)


def _few(some: Sequence[object], most: int = 4) -> str:
    return ", ".join(map(str, some[:most])) + (", ..." if len(some) > most else "")
