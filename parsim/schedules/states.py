"""What a rank holds when an action starts: micro_batches that are between two phases, by chunk; the memory peak stands in one of these."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from parsim.cluster.scalars import Ints, distinct_rows
from parsim.schedules.columnar import columns, order_of_issue
from parsim.schedules.schedule import find


class States(Struct, frozen=True, eq=False):
    """What ranks hold when an action starts, rank by rank, each array [state]."""

    rank: Ints
    chunk: Ints  # of the next action, counted among the rank's stages
    phase: Ints  # of the next action, index into the schedule's `phases`
    together: Ints  # of a pair the chunk of its backward, -1 for an action by itself
    in_flight: Ints  # micro_batches whose phase k ran and whose next did not, [state, chunk, k]


class Starts(NamedTuple):
    """The same at every start that may set a peak, with stages in place of chunks, and what is in flight by labels of stages."""

    rank: Ints
    stage: Ints
    phase: Ints
    together: Ints
    in_flight: Ints  # [start, label, k]


def state_columns(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> States:
    """The distinct states that may set a peak: none holds less than another before the same phase of the same chunk.

    Where a steady state repeats, a few rounds of micro_batches show all states.

    >>> found = state_columns("1f1b", 2, 1, 8)
    >>> found.rank.tolist(), found.phase.tolist(), found.in_flight[:, 0, 0].tolist()
    ([0, 0, 1, 1], [0, 1, 0, 1], [1, 2, 0, 1])
    """
    return _state_columns(schedule, num_ranks, chunks, enough(schedule, num_ranks, num_micro_batches))


def enough(schedule: str | tuple[str, ...], num_ranks: int, num_micro_batches: int) -> int:
    """The micro_batches that show all states of so many."""
    rounds = find(schedule, num_ranks).steady_rounds
    return num_micro_batches if rounds is None else min(num_micro_batches, rounds * num_ranks)


@functools.lru_cache(maxsize=512)
def _state_columns(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, count: int) -> States:
    found, stages = find(schedule, num_ranks), np.arange(num_ranks * chunks)
    home = np.array([found.rank_of(each, num_ranks) for each in stages.tolist()])
    label = np.empty_like(stages)
    label[np.argsort(home, kind="stable")] = np.tile(stages[:chunks], num_ranks)
    rank, stage, phase, together, in_flight = starts(schedule, num_ranks, count, label)
    chunk, together = label[stage], np.where(together < 0, -1, label[together])
    group = ((rank * chunks + chunk) * len(found.phases) + phase) * (chunks + 1) + 1 + together
    kept = greatest(group, in_flight.reshape(len(group), -1))
    made = (rank[kept], chunk[kept], phase[kept], together[kept], in_flight[kept].astype(np.int64))
    for each in made:
        each.setflags(write=False)  # the cache hands the same arrays to everybody
    return States(*made)


def starts(schedule: str | tuple[str, ...], num_ranks: int, count: int, label: Ints, ranks: Sequence[int] = ()) -> Starts:
    """When actions start, but for those behind which the same phase starts with more in flight, or before which it does.

    Args:
        schedule: named or written.
        num_ranks: of the pipeline.
        count: micro_batches.
        label: of each stage, 0 and up.
        ranks: only of these, ascending; none: of all.
    """
    found, chunks = find(schedule, num_ranks), len(label) // num_ranks
    if not isinstance(schedule, str):
        columns(schedule, num_ranks, chunks, count)  # checks it
    rank, stage, phase, _, paired = order_of_issue(found, num_ranks, chunks, count, ranks)
    num_labels, last = int(label.max()) + 1, len(found.phases) - 1
    # Of first phases that follow one another the last finds most in flight, of last phases the first.
    follows = np.diff((rank * len(label) + stage) * len(found.phases) + phase, prepend=-1) == 0
    first = np.flatnonzero(~follows | paired | np.roll(paired, 1) | ((phase > 0) & (phase < last)))
    times, rows = np.diff(first, append=len(rank)), np.arange(len(first))
    rank, stage, phase, together = (each[first] for each in (rank, stage, phase, np.roll(stage, -1)))
    paired = paired[first]
    change = np.zeros((len(first), num_labels, last + 2), dtype=np.int32)  # a place before the first phase, and one after the last
    change[rows, label[stage], phase] = -times
    change[rows, label[stage], phase + 1] = times
    change = change[:, :, 1:-1]
    # A rank ends as it began, with nothing in flight, so that one sum over all ranks does.
    in_flight = np.cumsum(change, axis=0, dtype=np.int32) - change
    in_flight[rows, label[stage], 0] += (times - 1) * (phase == 0)
    found_starts = Starts(rank, stage, phase, np.where(paired & (phase == 0), together, -1), in_flight)
    return Starts(*(each[~paired | (phase == 0)] for each in found_starts))


def greatest(group: Ints, entries: Ints) -> Ints:
    """Rows that no other row of their group reaches in every entry, once each."""
    order = np.argsort(group, kind="stable")
    own, begins = entries[order], np.diff(group[order], prepend=-1) != 0
    begin, which = np.flatnonzero(begins), np.cumsum(begins) - 1
    is_greatest = (own == np.maximum.reduceat(own, begin)[which]).all(axis=1)
    tops = np.flatnonzero(is_greatest)
    of, first = np.unique(which[tops], return_index=True)
    kept = order[tops[first]]  # of the groups of which one row reaches the greatest of every entry
    if len(of) == len(begin):
        return np.asarray(kept)
    others = np.ones(len(begin), dtype=bool)
    others[of] = False
    every = np.concatenate([kept, *_several(order[others[which]], group, entries)])
    return every[np.lexsort((*entries[every].T[::-1], group[every]))]


def _several(rows: Ints, group: Ints, entries: Ints) -> Iterator[Ints]:
    """Of some rows: in each group the largest sum stands, what it reaches goes, and again."""
    first, _ = distinct_rows([group[rows], *entries[rows].T], len(rows))
    rows = rows[first]
    rows = rows[np.lexsort((*entries[rows].T, -entries[rows].sum(axis=1), group[rows]))]
    while len(rows):
        first = np.diff(group[rows], prepend=-1) != 0
        top = rows[first]
        yield top
        rows = rows[(entries[rows] > entries[top[np.cumsum(first) - 1]]).any(axis=1)]
