"""A schedule's columns over a state of few rows, for those who fold many plans: what its steady state repeats stands once.

An action is named by a number: phase * stages + stage; behind these come `pairs`, and last what takes no time: the rest of each.

Row r of the state is the end of rank r's last action.  Then come messages under way: by stage and phase, as many places each as are in
use at once.  The last two rows are one that stays 0, for what waits for nobody, and one that nobody reads.
"""

from __future__ import annotations

import functools
from math import lcm
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct

from parsim.cluster.scalars import Ints, distinct
from parsim.schedules.columnar import Columns, columns
from parsim.schedules.schedule import find

_LEAST: Final = 4  # micro_batches of a loop: looking whether all repeats then costs little beside it


class Level(NamedTuple):
    """Actions of different ranks, of which none waits for another."""

    rank: Ints | slice  # [action]
    action: Ints
    reads: Ints  # rows of the state where its message is; then, of each message that leaves, where the one before it on its way is
    ends: Ints | slice  # with which of the actions each message leaves, [message]
    sends: Ints  # and of which action it is
    gives: Ints  # and where it goes
    closing: Ints | None  # which of them are the last of their stage that accumulate weight gradients, if one is


class Rounds(Struct, frozen=True, eq=False):
    """The actions of some numbers of micro_batches, in an order in which they can run: `head`, `loop` any number of times, `tail`."""

    num_ranks: int
    num_rows: int  # of the state
    head: tuple[Level, ...]
    loop: tuple[Level, ...]
    tail: tuple[Level, ...]  # all that closes
    turns: int  # loops after which a micro_batch that goes round all ranks is where it was
    pairs: Ints  # stages of the forward and of the backward of each, [pair, 2]
    first_pair: int  # its number as an action
    closing: Ints  # of each rank the `action`s that close, in order, [rank, chunk]

    def times(self, loops: int) -> Ints:
        """How often each pair runs."""
        every = (np.concatenate([level.action for level in levels] or [self.pairs[:0, 0]]) for levels in (self.head, self.loop, self.tail))
        head, loop, tail = (np.bincount(each, minlength=self.first_pair + len(self.pairs) + 1) for each in every)
        return np.asarray(head + loops * loop + tail)[self.first_pair : -1]


class _Steady(NamedTuple):
    """Levels of columns that repeat: `length` of them run the next `advance` micro_batches."""

    columns: Columns
    first: int
    length: int
    advance: int
    copies: int
    each: int  # copies in a loop

    @property
    def least(self) -> int:
        """Micro_batches that run without any copy."""
        return int(self.columns.micro_batch.max()) + 1 - self.copies * self.advance


def rounds(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> tuple[Rounds, int]:
    """The actions of a schedule, and how often the loop runs; arguments and errors as those of `columns`.

    >>> each, times = rounds("1f1b", 2, 1, 1002)
    >>> times, len(each.head), len(each.loop), len(each.tail)
    (250, 3, 8, 3)
    """
    shown = find(schedule, num_ranks).steady_rounds
    steady = None if shown is None or num_micro_batches <= shown * num_ranks else _steady(schedule, num_ranks, chunks, shown)
    if steady is not None:
        more, rest = divmod(num_micro_batches - steady.least, steady.advance)
        if not rest and more >= steady.each:
            return _with_loop(steady, more % steady.each), more // steady.each
    return _at_length(schedule, num_ranks, chunks, num_micro_batches), 0


@functools.lru_cache(maxsize=128)
def _at_length(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int) -> Rounds:
    made = columns(schedule, num_ranks, chunks, num_micro_batches)
    return _rounds(made, (0, 0, 0), 0, 1)


@functools.lru_cache(maxsize=256)
def _with_loop(steady: _Steady, before: int) -> Rounds:
    """`before`: copies that come before the loop."""
    begin = steady.first + before * steady.length
    ends = begin, begin + steady.each * steady.length, steady.first + steady.copies * steady.length
    left_out = (steady.copies - steady.each - before) * steady.advance
    return _rounds(steady.columns, ends, left_out, steady.each * steady.advance)


def _rounds(made: Columns, ends: tuple[int, int, int], left_out: int, each: int) -> Rounds:
    """The levels up to the first end, those of a loop up to the second, and those from the third on, with so many micro_batches less."""
    order, cuts = np.concatenate(made.levels), np.cumsum([0, *map(len, made.levels)])
    num_ranks, num_stages = int(made.rank[-1]) + 1, int(made.stage.max()) + 1
    action, pairs = made.phase * num_stages + made.stage, _pairs_of(made)
    run = _names_of(made, num_stages, pairs)
    senders = distinct(action[made.sends])
    places, channel = _places(made), np.searchsorted(senders, action)
    num_rows = num_ranks + len(senders) * places + 2
    earlier = np.where(np.arange(len(order)) < cuts[ends[2]], 0, left_out)

    def row_of(sender: Ints, nobody: int, earlier: Ints) -> Ints:
        rows = num_ranks + channel[sender] * places + (made.micro_batch[sender] - earlier) % places
        return np.where(sender < 0, nobody, rows)

    place = np.empty_like(order)  # of a row in the order
    place[order] = np.arange(len(order))
    leaves = earlier[place[made.ends[order]]]
    reads = np.stack([row_of(made.awaits[order], num_rows - 2, earlier), row_of(made.sent_before[order], num_rows - 2, leaves)])
    gives = row_of(np.where(made.sends[order], order, -1), num_rows - 1, leaves)
    rank, run, sends, closes = made.rank[order], run[order], action[order], made.closes[order]
    # A message leaves with its own action, but for those of pairs' forwards; in the level of their backwards these come behind the others.
    late = np.flatnonzero(made.ends[order] != order)
    with_level = np.searchsorted(cuts, place[made.ends[order[late]]], side="right") - 1
    gives_own = gives.copy()
    gives_own[late] = num_rows - 1
    late_of = {number: late[with_level == number] for number in distinct(with_level).tolist()}
    levels = zip(cuts.tolist(), cuts[1:].tolist(), rank[cuts[:-1]].tolist(), rank[cuts[1:] - 1].tolist(), strict=False)
    at_closing = {*np.flatnonzero(np.logical_or.reduceat(closes, cuts[:-1])).tolist()}

    made_levels = []
    for at, (begin, end, first, last) in enumerate(levels):
        own = slice(begin, end)
        ranks = slice(first, last + 1) if last - first == end - begin - 1 else rank[own]
        message = reads[0, own], reads[1, own], sends[own], gives_own[own]
        leaving: Ints | slice = slice(None)
        if (more := late_of.get(at)) is not None:
            leaving = np.concatenate([np.arange(end - begin), place[made.ends[order[more]]] - begin])
            behind, of, to = (np.concatenate([a, b[more]]) for a, b in zip(message[1:], (reads[1], sends, gives), strict=True))
            message = message[0], behind, of, to
        closed = np.flatnonzero(closes[own]) if at in at_closing else None
        made_levels.append(Level(ranks, run[own], np.concatenate(message[:2]), leaving, *message[2:], closed))
    turns = lcm(num_ranks, each) // each
    head, loop, tail = (tuple(made_levels[own]) for own in (slice(ends[0]), slice(*ends[:2]), slice(ends[2], None)))
    closing = action[made.closes].reshape(num_ranks, -1)
    return Rounds(num_ranks, num_rows, head, loop, tail, turns, pairs, len(made.phases) * num_stages, closing)


def _names_of(made: Columns, num_stages: int, pairs: Ints) -> Ints:
    """The number of the action of each row: of a pair, that of its own where its backward begins."""
    first, begins = len(made.phases) * num_stages, np.flatnonzero(made.ends != np.arange(len(made.rank)))
    run = made.phase * num_stages + made.stage
    run[made.paired] = first + len(pairs)
    run[begins + 1] = first + np.searchsorted(pairs @ [num_stages, 1], made.stage[begins] * num_stages + made.stage[begins + 1])
    return run


def _pairs_of(made: Columns) -> Ints:
    """The stages of the forwards and backwards of pairs, each two once, ascending."""
    begins = np.flatnonzero(made.ends != np.arange(len(made.rank)))
    return distinct(np.stack([made.stage[begins], made.stage[begins + 1]], axis=1))


@functools.lru_cache(maxsize=4096)
def stage_pairs(schedule: str | tuple[str, ...], num_ranks: int, chunks: int) -> Ints:
    """All that a schedule pairs with any number of micro_batches, as `pairs` of Rounds."""
    found = find(schedule, num_ranks)
    count = (found.steady_rounds or 0) * num_ranks if isinstance(schedule, str) else 0
    has_pairs = any(len(found.pairs(rank, num_ranks, chunks, count)) for rank in range(num_ranks)) if count else False
    return _pairs_of(columns(schedule, num_ranks, chunks, count)) if has_pairs else np.zeros((0, 2), np.int64)


def _places(made: Columns) -> int:
    """How many messages of a stage and phase are under way at once, or are written before an earlier one is read."""
    level = np.empty(len(made.rank), dtype=np.int64)
    for number, rows in enumerate(made.levels):
        level[rows] = number
    leaves = level[made.ends]
    shape = len(made.phases), int(made.stage.max()) + 1, int(made.micro_batch.max()) + 1
    written, read = np.full((2, *shape), [[[[len(level)]]], [[[-1]]]])
    written[made.phase, made.stage, made.micro_batch] = leaves
    there = made.awaits >= 0
    sender = made.awaits[there]
    read[made.phase[sender], made.stage[sender], made.micro_batch[sender]] = level[there]
    found = 1
    while (written[:, :, found:] < read[:, :, :-found]).any():
        found *= 2
    return found


@functools.lru_cache(maxsize=256)
def _steady(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, shown: int) -> _Steady | None:
    """What repeats in so many rounds, or twice as many; None where nothing is known to."""
    more = -(-2 * _LEAST // num_ranks) - 1
    for count in (shown + more, 2 * shown + more):
        made = columns(schedule, num_ranks, chunks, count * num_ranks)
        each = next((each for shift in sorted({1, 2, num_ranks}) if (each := _copies(made, shift))), None)
        if each and each.copies >= 2 * each.each - 1:
            return each
    return None


def _copies(made: Columns, count: int) -> _Steady | None:
    """Levels in the middle whose actions come again with so many micro_batches more."""
    levels, middle = made.levels, len(made.levels) // 2
    num_stages = int(made.stage.max()) + 1
    action, sent = made.phase * num_stages + made.stage, made.sent_before
    behind = np.where(sent < 0, 0, made.micro_batch - made.micro_batch[sent])
    # And what its rank sent before.
    what = np.stack([action, _names_of(made, num_stages, _pairs_of(made)), np.where(sent < 0, -1, action[sent]), behind])

    def come_again(at: int, length: int) -> bool:
        if at < 0 or at + length >= len(levels):
            return False
        one, other = levels[at], levels[at + length]
        same = len(one) == len(other) and np.array_equal(what[:, one], what[:, other])
        return same and np.array_equal(made.micro_batch[one] + count, made.micro_batch[other])

    busy = count * len(made.phases) * (num_stages // (int(made.rank[-1]) + 1))
    length = next((each for each in range(busy, 2 * busy + 1) if come_again(middle, each)), 0)
    if not length:
        return None
    first, last = middle, middle
    while come_again(first - 1, length):
        first -= 1
    while come_again(last + 1, length):
        last += 1
    closing = next(number for number, rows in enumerate(levels) if made.closes[rows].any())  # of no copy: it comes once
    copies = min((last + 1 - first) // length + 1, (closing - first) // length)
    whole = lcm(count, _places(made))
    return _Steady(made, first, length, count, copies, -(-_LEAST // whole) * whole // count)
