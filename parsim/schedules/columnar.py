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
        last, none = (
            len(self.rank),
            len(self.rank) + 1,
        )  # where a rank is at its end, which is never ready; and what is there from the start
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
    found, num_stages = find(schedule, num_ranks), num_ranks * chunks
    rank, stage, phase, micro_batch = issue(schedule, num_ranks, chunks, num_micro_batches)
    home = homes(found, num_ranks, chunks)
    step, rows = np.array([each.step for each in found.phases])[phase], np.arange(len(rank))
    table = np.empty((len(found.phases), num_stages, num_micro_batches), dtype=np.int64)
    table[phase, stage, micro_batch] = rows

    def crosses(neighbour: Ints) -> tuple[Bools, Bools]:
        """Whether a message passes between a row's stage and its neighbour, and whether both lie on the rank."""
        exists = (step != 0) & (neighbour >= 0) & (neighbour < num_stages)
        same = home[neighbour % num_stages] == rank
        return exists & ~same, exists & same

    receives, local = crosses(stage - step)
    sends, _ = crosses(stage + step)
    awaits = np.where(receives, table[phase, (stage - step) % num_stages, micro_batch], -1)
    before = np.where(np.diff(rank, prepend=-1) == 0, rows - 1, -1)
    sent_before = np.full(len(rank), -1)
    for direction in (1, -1):
        sent = np.flatnonzero(sends & (step == direction))
        sent_before[sent[1:]] = np.where(rank[sent[1:]] == rank[sent[:-1]], sent[:-1], -1)
    complete = np.flatnonzero(np.array([each.accumulates for each in found.phases])[phase])
    closing = np.empty(num_stages, dtype=np.int64)
    closing[stage[complete]] = complete  # of rows that repeat, the last stays
    closes = np.zeros(len(rank), dtype=bool)
    closes[closing] = True
    made = (rank, stage, phase, micro_batch, before, awaits, local, sends, sent_before, closes)
    for each in made:
        each.setflags(write=False)  # the cache hands the same arrays to everybody
    return Columns(*made)


def issue(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Rank, stage, index of the phase and micro_batch of each action, rank by rank in order."""
    found = find(schedule, num_ranks)
    by_rank = [found.arrays(rank, num_ranks, chunks, num_micro_batches) for rank in range(num_ranks)]
    stage, phase, micro_batch = np.concatenate(by_rank, axis=1)
    return np.repeat(np.arange(num_ranks), [each.shape[1] for each in by_rank]), stage, phase, micro_batch
