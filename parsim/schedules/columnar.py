"""A schedule as columns, one row an action, for those who fold many plans at once: no loop over ranks or actions is left to them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parsim.errors import ScheduleError
from parsim.schedules.checks import ordered
from parsim.schedules.schedule import Ints, find, homes

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Columns:
    """The actions rank by rank in order of issue; row numbers are -1 where there is no such row.

    Attributes:
        rank: the rank that runs it [row].
        stage: its stage [row].
        phase: index into the schedule's `phases` [row].
        micro_batch: its micro_batch [row].
        before: row of the rank's previous action [row].
        awaits: row of the action on another rank whose message it needs [row].
        local: whether what it needs from a neighbouring stage lies on the rank, so that no message comes [row].
        sends: whether its result goes to another rank [row].
        sent_before: row of the rank's previous action that sends in the same direction [row].
        closes: whether it is the last of its stage that accumulates weight gradients [row].

    >>> each = columns("1f1b", 2, 1, 2)
    >>> each.stage.tolist(), each.phase.tolist()
    ([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 1, 0, 1])
    >>> each.awaits.tolist()
    [-1, -1, 5, 7, 0, -1, 1, -1]
    >>> [rows.tolist() for rows in each.levels]
    [[0], [1, 4], [5], [2, 6], [7], [3]]
    """

    rank: Ints
    stage: Ints
    phase: Ints
    micro_batch: Ints
    before: Ints
    awaits: Ints
    local: Bools
    sends: Bools
    sent_before: Ints
    closes: Bools

    @functools.cached_property
    def levels(self) -> tuple[Ints, ...]:
        """Rows in groups: `before`, `awaits` and `sent_before` of each lie in earlier ones, and each row in the first group it can.

        Raises:
            ScheduleError: a rank waits for ever.
        """
        # Two rows more: `last`, where a rank is at its end and never ready, and `none`, which is there from the start.
        last, none = len(self.rank), len(self.rank) + 1
        needed = np.append(np.where(self.awaits < 0, none, self.awaits), last)
        following = np.where(np.diff(self.rank, append=-1) == 0, np.arange(1, last + 1), last)
        done = np.zeros(last + 2, dtype=bool)
        done[none] = True
        position, levels = np.flatnonzero(self.before < 0), []
        while (ready := done[needed[position]]).any():
            rows = position[ready]
            done[rows] = True
            position[ready] = following[rows]
            levels.append(rows)
        if not (position == last).all():
            rank, stage, m = (int(each[position.min()]) for each in (self.rank, self.stage, self.micro_batch))
            raise ScheduleError(f"rank {rank} waits for ever before stage {stage} of micro batch {m}")
        return tuple(levels)


@functools.lru_cache(maxsize=64)
def columns(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> Columns:
    """The columns of a registered schedule, which its contract test has checked, or of a written one, which is checked here.

    Raises:
        ParsimError: no schedule of that name.
        ScheduleError: a written one cannot run.
    """
    if not isinstance(schedule, str):
        ordered(schedule, num_ranks, chunks, num_micro_batches)
    found = find(schedule, num_ranks)
    rank, stage, phase, micro_batch = issue(schedule, num_ranks, chunks, num_micro_batches)
    step = np.array([each.step for each in found.phases])[phase]
    home = homes(found, num_ranks, chunks)
    receives, local = _crosses(step, stage - step, home, rank)
    sends, _ = _crosses(step, stage + step, home, rank)
    row = np.empty((len(found.phases), len(home), num_micro_batches), dtype=np.int64)
    row[phase, stage, micro_batch] = np.arange(len(rank))
    awaits = np.where(receives, row[phase, (stage - step) % len(home), micro_batch], -1)
    before = np.where(np.diff(rank, prepend=-1) == 0, np.arange(-1, len(rank) - 1), -1)
    closes = _last_of_stage(stage, np.array([each.accumulates for each in found.phases])[phase])
    made = (rank, stage, phase, micro_batch, before, awaits, local, sends, _sent_before(rank, np.where(sends, step, 0)), closes)
    for each in made:
        each.setflags(write=False)  # the cache hands the same arrays to everybody
    return Columns(*made)


def _crosses(step: Ints, neighbour: Ints, home: Ints, rank: Ints) -> tuple[Bools, Bools]:
    """Whether a message passes between a row and the neighbouring stage, and whether what would be in it stays on the rank."""
    exists = (step != 0) & (neighbour >= 0) & (neighbour < len(home))
    same = home[neighbour % len(home)] == rank
    return exists & ~same, exists & same


def _sent_before(rank: Ints, direction: Ints) -> Ints:
    found = np.full(len(rank), -1)
    for each in (1, -1):
        sent = np.flatnonzero(direction == each)
        found[sent[1:]] = np.where(rank[sent[1:]] == rank[sent[:-1]], sent[:-1], -1)
    return found


def _last_of_stage(stage: Ints, accumulates: Bools) -> Bools:
    rows = np.flatnonzero(accumulates)
    _, from_end = np.unique(stage[rows][::-1], return_index=True)
    closes = np.zeros(len(stage), dtype=bool)
    closes[rows[::-1][from_end]] = True
    return closes


def issue(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Rank, stage, index of the phase and micro_batch of each action, rank by rank in order."""
    found = find(schedule, num_ranks)
    by_rank = [found.arrays(rank, num_ranks, chunks, num_micro_batches) for rank in range(num_ranks)]
    stage, phase, micro_batch = np.concatenate(by_rank, axis=1)
    return np.repeat(np.arange(num_ranks), [each.shape[1] for each in by_rank]), stage, phase, micro_batch
