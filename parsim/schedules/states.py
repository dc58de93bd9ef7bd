"""What a rank holds when an action starts: micro_batches that are between two phases, by chunk; the memory peak stands in one of these."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from parsim.schedules.columnar import issue
from parsim.schedules.phase import Phase
from parsim.schedules.schedule import Ints, find, homes


class State(NamedTuple):
    """What a rank holds when an action starts.

    With n phases, entry `c * (n - 1) + k` of `in_flight` counts the micro_batches of chunk c whose phase k ran and whose next did not.
    """

    in_flight: tuple[int, ...]
    chunk: int
    phase: Phase


@dataclass(frozen=True, eq=False)
class States:
    """The states of all ranks, rank by rank.

    Attributes:
        rank: whose it is [state].
        chunk: of the next action, counted among the rank's stages [state].
        phase: of the next action, index into the schedule's `phases` [state].
        in_flight: micro_batches whose phase k ran and whose next did not [state, chunk, k].
    """

    rank: Ints
    chunk: Ints
    phase: Ints
    in_flight: Ints


@functools.lru_cache(maxsize=512)
def state_columns(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> States:
    """The distinct states that may set a peak: none holds less than another before the same phase of the same chunk.

    Where a steady state repeats, a few rounds of micro_batches show all states.

    >>> found = state_columns("1f1b", 2, 1, 8)
    >>> found.rank.tolist(), found.phase.tolist(), found.in_flight[:, 0, 0].tolist()
    ([0, 0, 1, 1], [0, 1, 0, 1], [1, 2, 0, 1])
    """
    found = find(schedule, num_ranks)
    count = num_micro_batches if found.steady_rounds is None else min(num_micro_batches, found.steady_rounds * num_ranks)
    rank, stage, phase, _ = issue(schedule, num_ranks, chunks, count)
    home = homes(found, num_ranks, chunks)
    chunk = np.array([np.count_nonzero(home[:each] == home[each]) for each in range(len(home))])[stage]
    between = len(found.phases) - 1
    change = np.zeros((len(rank), chunks, between + 2), dtype=np.int32)  # a place before the first phase, and one after the last
    rows = np.arange(len(rank))
    change[rows, chunk, phase] = -1
    change[rows, chunk, phase + 1] = 1
    change = change[:, :, 1:-1]
    # A rank ends as it began, with nothing in flight, so that one sum over all ranks does.
    in_flight = np.cumsum(change, axis=0, dtype=np.int32) - change
    kept = _greatest((rank * chunks + chunk) * (between + 1) + phase, in_flight.reshape(len(rank), -1))
    made = (rank[kept], chunk[kept], phase[kept], in_flight[kept].astype(np.int64))
    for each in made:
        each.setflags(write=False)  # the cache hands the same arrays to everybody
    return States(*made)


def _greatest(group: Ints, entries: Ints) -> Ints:
    """Rows that no other row of their group reaches in every entry, once each: the largest sum stands, what it reaches goes, and again."""
    rows = np.lexsort((*entries.T, -entries.sum(axis=1), group))
    same = (np.diff(group[rows]) == 0) & (np.diff(entries[rows], axis=0) == 0).all(axis=1)
    rows = rows[np.append(True, ~same)]
    kept = []
    while len(rows):
        first = np.diff(group[rows], prepend=-1) != 0
        top = rows[first]
        kept.append(top)
        rows = rows[(entries[rows] > entries[top[np.cumsum(first) - 1]]).any(axis=1)]
    every = np.concatenate(kept)
    return every[np.lexsort((*entries[every].T[::-1], group[every]))]


@functools.lru_cache(maxsize=512)
def memory_states(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> tuple[tuple[State, ...], ...]:
    """The same for each rank as tuples.

    >>> memory_states("1f1b", 2, 1, 8)[0]
    (State(in_flight=(1,), chunk=0, phase=<Phase.F: 'F'>), State(in_flight=(2,), chunk=0, phase=<Phase.B: 'B'>))
    """
    found = state_columns(schedule, num_ranks, chunks, num_micro_batches)
    phases = find(schedule, num_ranks).phases
    by_rank: list[list[State]] = [[] for _ in range(num_ranks)]
    flat = found.in_flight.reshape(len(found.rank), -1)
    for rank, chunk, phase, in_flight in zip(*(each.tolist() for each in (found.rank, found.chunk, found.phase, flat)), strict=True):
        by_rank[rank].append(State(tuple(in_flight), chunk, phases[phase]))
    return tuple(tuple(sorted(states)) for states in by_rank)
