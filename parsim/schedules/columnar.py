"""A schedule as columns, one row an action, for those who fold many plans at once: no loop over ranks or actions is left to them.

Before it has columns a schedule must run each action once, on the rank where its stage lives; where one does not, its actions are drawn.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from msgspec import Struct

from parsim.cluster.scalars import Ints
from parsim.errors import ScheduleError
from parsim.schedules.action import Action
from parsim.schedules.phase import Phase
from parsim.schedules.schedule import Schedule, find

if TYPE_CHECKING:
    from numpy.typing import NDArray

Bools: TypeAlias = "NDArray[np.bool_]"


class Columns(Struct, frozen=True, eq=False, dict=True):
    """The actions rank by rank in order of issue, each array [row]; row numbers are -1 where there is no such row.

    >>> each = columns("1f1b", 2, 1, 2)
    >>> " ".join(map(str, each.actions()))
    '0F0 0F1 0B0 0B1 1F0 1B0 1F1 1B1'
    >>> each.awaits.tolist()
    [-1, -1, 5, 7, 0, -1, 1, -1]
    >>> [rows.tolist() for rows in each.levels]
    [[0], [1, 4], [5], [2, 6], [7], [3]]
    """

    phases: tuple[Phase, ...]  # of a stage, in order
    rank: Ints  # that runs it
    stage: Ints
    phase: Ints  # index into `phases`
    micro_batch: Ints
    before: Ints  # row of the rank's previous action
    needs: Ints  # rows of the stage's phase before, and of the neighbouring stage's action whose result it takes, [2, row]
    awaits: Ints  # row of the action on another rank whose message it needs
    sends: Bools  # whether its result goes to another rank
    sent_before: Ints  # row of the rank's previous action that sends in the same direction
    closes: Bools  # whether it is the last of its stage that accumulates weight gradients
    ends: Ints  # row with which it ends, and its message leaves: of a pair's forward the backward behind it, of others their own
    paired: Bools  # whether it is of a pair: it runs with the forward before it, or that with it

    def actions(self) -> list[Action]:
        """The rows as actions."""
        rows = zip(self.stage.tolist(), self.phase.tolist(), self.micro_batch.tolist(), strict=True)
        return [Action(stage, self.phases[phase], m) for stage, phase, m in rows]

    @functools.cached_property
    def levels(self) -> tuple[Ints, ...]:
        """Rows in groups: `before`, `needs` and `sent_before` of each lie in earlier ones, and each row in the first group it can.

        Raises:
            ScheduleError: a rank waits for ever; the actions are drawn.
        """
        # Two rows more: `last`, where a rank is at its end and never ready, and `none`, which is there from the start.
        last, none = len(self.rank), len(self.rank) + 1
        needed = np.append(np.where(self.needs < 0, none, self.ends[self.needs]), [[last], [last]], axis=1)
        following = np.where(np.diff(self.rank, append=-1) == 0, np.arange(1, last + 1), last)
        done = np.zeros(last + 2, dtype=bool)
        done[none] = True
        position, levels = np.flatnonzero(self.before < 0), []
        while (ready := done[needed[:, position]].all(axis=0)).any():
            rows = position[ready]
            done[rows] = True
            position[ready] = following[rows]
            levels.append(rows)
        if (position < last).any():
            waiting = position[position < last].tolist()
            raise self._deadlock({row: [each for each in needed[:, row] if not done[each]] for row in waiting})
        return tuple(levels)

    def _deadlock(self, missing: dict[int, list[int]]) -> ScheduleError:
        rank, actions = self.rank.tolist(), self.actions()
        # Of a chain of ranks that wait, the one to tell of waits for what it runs itself, but later.
        stuck = next((row for row in missing if any(rank[each] == rank[row] for each in missing[row])), min(missing))
        by_rank = [[actions[row] for row in np.flatnonzero(self.rank == each)] for each in range(rank[-1] + 1)]
        needed = ", ".join(map(str, sorted(actions[each] for each in missing[stuck])))
        drawn = grid(by_rank, rank[stuck], stuck - rank.index(rank[stuck]))
        return ScheduleError(f"rank {rank[stuck]} waits for ever: {actions[stuck]} needs {needed}", remedy=drawn)


@functools.lru_cache(maxsize=64)
def columns(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> Columns:
    """The columns of a registered schedule, which its contract test has checked, or of a written one, which is checked here.

    Raises:
        ParsimError: no schedule of that name.
        ScheduleError: a written one cannot run.
    """
    shape = (find(schedule, num_ranks), num_ranks, chunks, num_micro_batches)
    return _columns(*shape) if isinstance(schedule, str) else check(*shape)


def check(schedule: Schedule, num_ranks: int, chunks: int, num_micro_batches: int) -> Columns:
    """The columns of a schedule that can run.

    Raises:
        ScheduleError: an action is missing, doubled, on the wrong rank, or waits for itself; the actions are drawn.
    """
    _check_each_once(schedule, num_ranks, chunks, num_micro_batches)
    made = _columns(schedule, num_ranks, chunks, num_micro_batches)
    _ = made.levels  # raises where a rank waits for ever
    return made


def order_of_issue(
    schedule: Schedule, num_ranks: int, chunks: int, num_micro_batches: int, ranks: Sequence[int] = ()
) -> tuple[Ints, Ints, Ints, Ints, Bools]:
    """Rank, stage, index of the phase and micro_batch of each action, rank by rank in order of issue, and whether it is of a pair.

    `ranks`: only of these, ascending; none: of all.
    """
    ranks = ranks or range(num_ranks)
    by_rank = [schedule.arrays(rank, num_ranks, chunks, num_micro_batches) for rank in ranks]
    stage, phase, micro_batch = np.concatenate(by_rank, axis=1)
    counts = np.array([each.shape[1] for each in by_rank])
    first, paired = np.cumsum(counts) - counts, np.zeros(len(stage), dtype=bool)
    for begin, rank in zip(first.tolist(), ranks, strict=True):
        begins = begin + schedule.pairs(rank, num_ranks, chunks, num_micro_batches)
        paired[begins[:, None] + np.arange(len(schedule.phases))] = True  # a whole backward stands behind
    return np.repeat(ranks, counts), stage, phase, micro_batch, paired


def _columns(schedule: Schedule, num_ranks: int, chunks: int, num_micro_batches: int) -> Columns:
    rank, stage, phase, micro_batch, paired = order_of_issue(schedule, num_ranks, chunks, num_micro_batches)
    step, accumulates = (np.array(each)[phase] for each in zip(*((each.step, each.accumulates) for each in schedule.phases), strict=True))
    # A place before the first phase, and one beyond either end of the pipeline, where there is no row and nobody's home; nor is there
    # beyond an end of a copy of the model.
    row = np.full((len(schedule.phases) + 1, num_ranks * chunks + 2, num_micro_batches), -1)
    row[phase + 1, stage + 1, micro_batch] = np.arange(len(rank))
    home = np.array([-1, *(schedule.rank_of(each, num_ranks) for each in range(num_ranks * chunks)), -1])
    copy_of = np.arange(-1, num_ranks * chunks + 1) // (num_ranks * chunks // schedule.num_copies)
    own = copy_of[stage + 1]
    follows = row[phase, stage + 1, micro_batch]
    takes = np.where((step == 0) | (copy_of[stage + 1 - step] != own), -1, row[phase + 1, stage + 1 - step, micro_batch])
    awaits = np.where((takes >= 0) & (rank[takes] != rank), takes, -1)
    goes_to = np.where(copy_of[stage + 1 + step] == own, home[stage + 1 + step], -1)
    sends = (goes_to >= 0) & (goes_to != rank)
    before = np.where(np.diff(rank, prepend=-1) == 0, np.arange(-1, len(rank) - 1), -1)
    closing = np.zeros(num_ranks * chunks, dtype=np.int64)
    np.maximum.at(closing, stage[accumulates], np.flatnonzero(accumulates))
    closes = np.zeros(len(rank), dtype=bool)
    closes[closing] = True
    sending = np.flatnonzero(sends)
    sending = sending[np.argsort(step[sending], kind="stable")]
    one, other = sending[:-1], sending[1:]
    sent_before = np.full_like(rank, -1)
    sent_before[other] = np.where((rank[one] == rank[other]) & (step[one] == step[other]), one, -1)
    assert not (paired & closes).any(), "a pair completes no weight gradients"
    ends = np.arange(len(rank)) + (paired & (phase == 0))
    made = (rank, stage, phase, micro_batch, before, np.stack([follows, takes]), awaits, sends, sent_before, closes, ends, paired)
    for each in made:
        each.setflags(write=False)  # the cache hands the same arrays to everybody
    return Columns(schedule.phases, *made)


def _check_each_once(schedule: Schedule, num_ranks: int, chunks: int, num_micro_batches: int) -> None:
    """Refuse a schedule that does not run every phase of every stage once for each micro_batch."""
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
