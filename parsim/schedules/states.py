"""What a rank holds when an action starts: micro_batches that are between two phases, by chunk; the memory peak stands in one of these."""

from __future__ import annotations

import functools

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


def state_columns(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> States:
    """The distinct states that may set a peak: none holds less than another before the same phase of the same chunk.

    Where a steady state repeats, a few rounds of micro_batches show all states.

    >>> found = state_columns("1f1b", 2, 1, 8)
    >>> found.rank.tolist(), found.phase.tolist(), found.in_flight[:, 0, 0].tolist()
    ([0, 0, 1, 1], [0, 1, 0, 1], [1, 2, 0, 1])
    """
    rounds = find(schedule, num_ranks).steady_rounds
    count = num_micro_batches if rounds is None else min(num_micro_batches, rounds * num_ranks)
    return _state_columns(schedule, num_ranks, chunks, count)


@functools.lru_cache(maxsize=512)
def _state_columns(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, count: int) -> States:
    if not isinstance(schedule, str):
        columns(schedule, num_ranks, chunks, count)  # checks it
    found = find(schedule, num_ranks)
    rank, stage, phase, _, paired = order_of_issue(found, num_ranks, chunks, count)
    between = len(found.phases) - 1
    home = np.array([found.rank_of(each, num_ranks) for each in range(num_ranks * chunks)])
    chunk = np.empty_like(home)
    chunk[np.argsort(home, kind="stable")] = np.tile(np.arange(chunks), num_ranks)
    chunk = chunk[stage]
    together = np.where(paired & (phase == 0), np.roll(chunk, -1), -1)
    group = ((rank * chunks + chunk) * (between + 1) + phase) * (chunks + 1) + 1 + together
    # Of first phases that follow one another the last finds most in flight, of last phases the first.
    again = (np.diff(group, prepend=-1) == 0) & ~paired & ~np.roll(paired, 1) & ((phase == 0) | (phase == between))
    first = np.flatnonzero(~again)
    times, rows = np.diff(first, append=len(rank)), np.arange(len(first))
    rank, chunk, phase, together, group = (each[first] for each in (rank, chunk, phase, together, group))
    change = np.zeros((len(first), chunks, between + 2), dtype=np.int32)  # a place before the first phase, and one after the last
    change[rows, chunk, phase] = -times
    change[rows, chunk, phase + 1] = times
    change = change[:, :, 1:-1]
    # A rank ends as it began, with nothing in flight, so that one sum over all ranks does.
    in_flight = np.cumsum(change, axis=0, dtype=np.int32) - change
    in_flight[rows, chunk, 0] += (times - 1) * (phase == 0)
    starts = np.flatnonzero(~paired[first] | (phase == 0))
    kept = starts[greatest(group[starts], in_flight[starts].reshape(len(starts), -1))]
    made = (rank[kept], chunk[kept], phase[kept], together[kept], in_flight[kept].astype(np.int64))
    for each in made:
        each.setflags(write=False)  # the cache hands the same arrays to everybody
    return States(*made)


def greatest(group: Ints, entries: Ints) -> Ints:
    """Rows that no other row of their group reaches in every entry, once each: the largest sum stands, what it reaches goes, and again."""
    rows = _unless_one_is(group, entries)
    first, _ = distinct_rows([group[rows], *entries[rows].T], len(rows))
    rows = rows[first]
    rows = rows[np.lexsort((*entries[rows].T, -entries[rows].sum(axis=1), group[rows]))]
    kept = []
    while len(rows):
        first = np.diff(group[rows], prepend=-1) != 0
        top = rows[first]
        kept.append(top)
        rows = rows[(entries[rows] > entries[top[np.cumsum(first) - 1]]).any(axis=1)]
    every = np.concatenate(kept)
    return every[np.lexsort((*entries[every].T[::-1], group[every]))]


def _unless_one_is(group: Ints, entries: Ints) -> Ints:
    """All rows, but where one of a group reaches the greatest of every entry only such rows."""
    order = np.argsort(group, kind="stable")
    own, begins = entries[order], np.diff(group[order], prepend=-1) != 0
    begin, which = np.flatnonzero(begins), np.cumsum(begins) - 1
    is_greatest = (own == np.maximum.reduceat(own, begin)[which]).all(axis=1)
    return np.asarray(order[is_greatest | ~np.logical_or.reduceat(is_greatest, begin)[which]])
