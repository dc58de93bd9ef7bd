"""Slots of V-shaped building blocks after squeezing and reordering: what waits in warm-up and end moves into slots that nobody has.

No rank comes to hold more than the blocks let any rank hold.  Actions first move with weights in slots of their own, in warm-up and end;
then, in the end, once more, with weights wherever room is left.
Source: Qi et al. 2024 (arXiv:2405.15362), section 3; sail-sg/zero-bubble-pipeline-parallelism,
megatron/core/pipeline_parallel/zerobubble/scheduler/zbv_greedy.py, schedule_from_pattern.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from parsim.cluster.scalars import Ints

# The slots of one rank by kind: forwards down and up the V, backwards up and down it, and weights, in order; [kind][micro_batch].
SlotsOfRank = list[list[int]]
UP, BACK_UP, BACK_DOWN, WEIGHTS = 1, 2, 3, 4
_NOBODY: Final = -1
_FROM: Final = (-1, 1, -1, 1)  # where each kind comes from: the rank before or after


def reorder(ranks: Sequence[SlotsOfRank]) -> list[SlotsOfRank]:
    """The slots of all ranks, moved forward; `ranks`: those of the blocks, without weights."""
    moved = _move_forward([[*slots, _weights(slots)] for slots in ranks])
    return _move_forward([slots[:WEIGHTS] for slots in moved])


def _weights(slots: SlotsOfRank) -> list[int]:
    """The slots of weights: their own, or for each backward the next behind it that nobody has."""
    if len(slots) > WEIGHTS:
        return slots[WEIGHTS]
    after, taken = np.sort(slots[BACK_UP] + slots[BACK_DOWN]), np.concatenate(slots)
    is_free = np.ones(taken.max() + len(after) + 2, dtype=bool)
    is_free[taken] = False
    free, k = np.flatnonzero(is_free), np.arange(len(after))
    found: list[int] = free[k + np.maximum.accumulate(np.searchsorted(free, after) - k)].tolist()
    return found


def _row(slots: SlotsOfRank) -> Ints:
    """The kind that has each slot."""
    row = np.full(1 + max(own[-1] for own in slots), _NOBODY)
    for kind, own in enumerate(slots):
        row[own] = kind
    return row


def _most_held(row: Ints, *, has_weights: bool) -> int:
    """The most micro_batches of a chunk between forward and weights."""
    held = np.cumsum((row >= 0) & (row <= UP))
    if has_weights:
        return int((held - np.cumsum(row == WEIGHTS)).max())
    need, room = np.cumsum((row == BACK_UP) | (row == BACK_DOWN)), np.cumsum(row == _NOBODY)
    return int((held - room - np.minimum.accumulate(np.minimum(need - room, 0))).max())  # of the room what had nothing to do is left


def _in_time(ranks: Sequence[SlotsOfRank]) -> list[tuple[int, int, int, int]]:
    """Slot, rank, kind and number of all actions, first to last."""
    every = (((slot, rank, kind, m) for m, slot in enumerate(own)) for rank, slots in enumerate(ranks) for kind, own in enumerate(slots))
    return sorted(action for each in every for action in each)


def _follows(ranks: Sequence[SlotsOfRank], rank: int, kind: int, m: int) -> Iterator[int]:
    """The slots of what an action follows, but for weights, which also follow the backward of their number."""
    own = ranks[rank]
    if kind < WEIGHTS and 0 <= rank + _FROM[kind] < len(ranks):
        yield ranks[rank + _FROM[kind]][kind][m]
    if 0 < kind < WEIGHTS:
        yield own[kind - 1][m]
    if m:
        yield own[kind][m - 1]


def _move_forward(ranks: Sequence[SlotsOfRank]) -> list[SlotsOfRank]:
    """Each action of warm-up and end in the first slot where it can run and no rank holds more; of the end alone, where weights have none.

    Warm-up ends with the first backward that is done with the V, and the end begins with the last forward into it.
    """
    ranks, rows, has_weights = [[[*own] for own in slots] for slots in ranks], [*map(_row, ranks)], len(ranks[0]) > WEIGHTS
    most = max(_most_held(row, has_weights=has_weights) for row in rows)
    is_warm, is_ending = True, False
    for slot, rank, kind, m in _in_time(ranks):
        is_warm = is_warm and (kind, rank) != (BACK_DOWN, 0)
        if is_ending or (is_warm and has_weights):
            row, start = rows[rank], 1 + max(_follows(ranks, rank, kind, m), default=-1)
            if kind == WEIGHTS:
                start = max(start, 1 + int(np.flatnonzero((row == BACK_UP) | (row == BACK_DOWN))[m]))
            for earlier in (start + np.flatnonzero(row[start:slot] == _NOBODY)).tolist():
                row[slot], row[earlier] = _NOBODY, kind
                if (has_weights and kind > UP) or _most_held(row, has_weights=has_weights) <= most:
                    ranks[rank][kind][m] = earlier
                    break
                row[slot], row[earlier] = kind, _NOBODY
        is_ending = is_ending or (not is_warm and kind == 0 and m == len(ranks[0][0]) - 1)
    return _squeeze([[*slots[:WEIGHTS], _weights(slots)] for slots in ranks])


def _squeeze(ranks: Sequence[SlotsOfRank]) -> list[SlotsOfRank]:
    """Each action as soon as its rank and what it follows are done, in the same order; all take one slot."""
    found: list[SlotsOfRank] = [[[0] * len(own) for own in slots] for slots in ranks]
    done = [0] * len(ranks)
    for _, rank, kind, m in _in_time(ranks):
        found[rank][kind][m] = max(done[rank], 1 + max(_follows(found, rank, kind, m), default=-1))
        done[rank] = found[rank][kind][m] + 1
    return found
