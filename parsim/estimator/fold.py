"""The passes of many plans that run the same rounds of a schedule, folded at once in integer picoseconds.

Time goes through a loop as a max-plus map: what starts later ends later, by as much.  So where all ends and messages of a plan have moved
on by the same after some loops, they do so for ever, and the loops that are left cost nothing.  Nothing is rounded.
Source: Baccelli et al. 1992, Synchronization and Linearity, section 3.7, for the period that every such map comes to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import Final, NamedTuple

import numpy as np

from parsim.cost.sizes import Ints
from parsim.errors import ScenarioError
from parsim.schedules import Level, Rounds
from parsim.schedules.columnar import Bools
from parsim.units import PS_PER_S

_MOST_PS: Final = 2**63 - 1  # 106 days
_MOST_VALUES: Final = 200_000  # of a state: a processor's cache holds them


class Passes(NamedTuple):
    """What the passes of each plan come to."""

    ends: Ints  # of each rank, [rank, plan]
    starts: Ints  # of the actions that close a stage, zeros for others, [action, plan]
    flying: Ints  # how long each rank waited for messages that had left, [rank, plan]


class Moved(NamedTuple):
    """What disturbs the actions of a level, [action, sample]."""

    delays: Ints | None = None  # how much later they begin than they could
    sends: Ints | None = None  # and what the messages that leave with them take; None: as usual


ALWAYS_USUAL: Final = repeat(Moved())


def fold(rounds: Rounds, loops: Ints, spans: Ints, sends: Ints, late: Ints, far: Ints | None = None, *, watch: bool = False) -> Passes:
    """Every action after the one before it on its rank and after its message; a message leaves after the one before it.

    Args:
        rounds: of the schedule.
        loops: how often each plan runs the loop.
        spans: picoseconds of the actions, [action, plan].
        sends: and of their messages.
        late: how much longer an action takes that closes its stage.
        far: how long after its last byte has left a message is there, while others follow it; None: at once.
        watch: whether `flying` is asked for; it is 0 otherwise.

    Raises:
        ScenarioError: int64 may not hold a step.
    """
    far = sends[:, :0] * 0 if far is None else far
    _check_range(rounds, loops, spans + sends + late + (far if far.size else 0))
    size = max(1, _MOST_VALUES // rounds.num_rows)
    parts = [slice(first, first + size) for first in range(0, len(loops), size)]
    waits = _by_row(rounds, far)
    found = [_fold(rounds, loops[own], np.stack([spans[:, own], sends[:, own], late[:, own]]), waits[:, own], watch) for own in parts]
    return Passes(*(np.concatenate(each, axis=1) for each in zip(*found, strict=True)))


def fold_samples(rounds: Rounds, times: Ints, far: Ints, num_samples: int, moved: Iterable[Moved], loops: int) -> Passes:
    """The same of one plan in several samples, each of which moves its actions otherwise, level by level: so no loop comes again.

    Args:
        rounds: of the schedule.
        times: of the actions, of their messages, and how much longer those take that close their stage, [3, action, 1].
        far: as in `fold`.
        num_samples: how many.
        moved: of each level of the head, of the loop as often as it runs, and of the tail.
        loops: how often that is.
    """
    run = _Run(rounds, times, _by_row(rounds, far), np.zeros((rounds.num_rows, num_samples), dtype=np.int64))
    run.starts = np.zeros((times.shape[1], num_samples), dtype=np.int64)
    run.advance(levels_of(rounds, loops), moved)
    ends = run.state[: rounds.num_ranks]
    return Passes(ends, run.starts, ends * 0)


def levels_of(rounds: Rounds, loops: int) -> Iterator[Level]:
    """All levels in the order in which they run."""
    return chain(rounds.head, *repeat(rounds.loop, loops), rounds.tail)


def _by_row(rounds: Rounds, far: Ints) -> Ints:
    """Of what each row of the state holds, how long after it has left it is there, [row, plan]; no plan where nothing is far."""
    found = np.zeros((rounds.num_rows, far.shape[1] if far.any() else 0), dtype=np.int64)
    for level in (*rounds.head, *rounds.loop, *rounds.tail) if found.size else ():
        found[level.gives] = far[level.sends]
    found[-2:] = 0
    return found


def _fold(rounds: Rounds, loops: Ints, times: Ints, far: Ints, watch: bool) -> Passes:
    rows = rounds.num_rows + (rounds.num_rows + rounds.num_ranks) * watch
    run = _Run(rounds, times, far, np.zeros((rows, len(loops)), dtype=np.int64))
    run.advance(rounds.head)
    if loops.any():
        run = _Run(rounds, times, far, _run_loops(run, loops))
    run.advance(rounds.tail)
    ends = run.state[: rounds.num_ranks]
    return Passes(ends, run.starts, run.flying if watch else ends * 0)


class _Run:
    """Plans under way: `every` holds the state, and where asked for when each message left, and `flying`."""

    def __init__(self, rounds: Rounds, times: Ints, far: Ints, every: Ints) -> None:
        self.rounds, self.times, self.far, self.every = rounds, times, far, every
        self.state, self.left, self.flying = np.split(every, (rounds.num_rows, 2 * rounds.num_rows))
        self.starts = np.zeros_like(times[0])

    def take(self, plans: Bools) -> _Run:
        """The same of some of the plans."""
        return _Run(self.rounds, self.times[:, :, plans], self.far[:, plans] if self.far.size else self.far, self.every[:, plans])

    def advance(self, levels: Iterable[Level], disturbed: Iterable[Moved] = ALWAYS_USUAL) -> None:
        """Run some levels."""
        state, (spans, sends, late) = self.state, self.times
        for (rank, action, reads, ends, sending, gives, closing), moved in zip(levels, disturbed, strict=False):
            count, read = len(action), state.take(reads, 0)
            there = read[:count] + self.far.take(reads[:count], 0) if self.far.size else read[:count]
            start = np.maximum(state[rank], there)
            if moved.delays is not None:
                start += moved.delays
            end = start + spans.take(action, 0)
            if closing is not None:
                self.starts[action[closing]] = start[closing]
                end[closing] += late.take(action[closing], 0)
            if len(self.flying):
                self.flying[rank] += start - np.maximum(state[rank], self.left.take(reads[:count], 0))
                self.left[gives] = end[ends]
            state[rank] = end
            sent = sends.take(sending, 0) if moved.sends is None else moved.sends
            state[gives] = np.maximum(end[ends], read[count:]) + sent

    def has_moved(self, by: Ints) -> Bools:
        """Whether all ends and messages of a plan moved by the same."""
        rounds = self.rounds
        state, left, _ = np.split(by, (rounds.num_rows, 2 * rounds.num_rows))
        return np.asarray((state[:-2] == by[0]).all(axis=0) & (left[rounds.num_ranks : -2] == by[0]).all(axis=0))


def _run_loops(run: _Run, loops: Ints) -> Ints:
    """All of the plans after their loops; a plan that moves on by the same takes those that are left in one step."""
    found, place, rest = np.empty_like(run.every), np.arange(len(loops)), loops
    known, since = run.every.copy(), 0
    while len(place):
        run.advance(run.rounds.loop)
        since, rest = since + 1, rest - 1
        by = run.every - known
        times = np.where(run.has_moved(by), rest // since, 0)
        if times.any():
            run.every += times * by
            rest = rest - times * since
        if since == run.rounds.turns:
            known, since = run.every.copy(), 0
        if not rest.all():
            found[:, place[rest == 0]] = run.every[:, rest == 0]
            goes_on = rest > 0
            run, known, place, rest = run.take(goes_on), known[:, goes_on], place[goes_on], rest[goes_on]
    return found


def _check_range(rounds: Rounds, loops: Ints, times: Ints) -> None:
    """Raise a ScenarioError for a step that int64 may not hold: the slowest actions of all levels, one after another."""
    slowest = times.max(axis=0).astype(np.float64)
    if (slowest * (len(rounds.head) + len(rounds.loop) * loops + len(rounds.tail))).max() <= _MOST_PS:
        return
    head, loop, tail = (
        sum((times[level.action].max(axis=0) for level in levels), start=slowest * 0) for levels in (rounds.head, rounds.loop, rounds.tail)
    )
    longest = float((head + loop * loops + tail).max())
    if longest > _MOST_PS:
        raise ScenarioError(f"the step would take {longest / PS_PER_S:.3g} s", remedy="Check the rates and bandwidths of the hardware.")
