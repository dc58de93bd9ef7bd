"""What a schedule states, with the defaults that keep a schedule's file small, and the registry of those that have a name."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.registry import Registry
from parsim.schedules.action import Action, parse
from parsim.schedules.phase import SPLIT, WHOLE, Phase


class Schedule:
    """An order of actions for each rank; a file derives from it and states `source`, and `order` or `arrays`: each gives the other."""

    source: str  # the paper or code that it follows
    # Rounds of p micro_batches, a legal number, that show every memory state and how the order goes on; None: no steady state.
    steady_rounds: int | None = None
    phases: tuple[Phase, ...] = WHOLE  # what a stage does with a micro_batch, in order
    # Whether a rank that comes later never has more in flight of any chunk and phase where it starts the same phase of the same chunk.
    falls: bool = False
    weights_apart: bool = False  # whether pairs run weight gradients of a whole backward behind exchanges of experts
    needs_experts: bool = False  # whether it is there to hide their exchanges, and runs nothing else
    num_copies: int = 1  # of the model: their stages are numbered one copy after the other, and each runs its share of the micro_batches

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """Why it cannot run so many chunks a rank, of all copies, and micro_batches of each (None: not known yet), after "schedule 'x' ";
        None where it can."""
        return f"runs one chunk of the model a rank, but virtual_pipeline = {chunks}" if chunks > 1 else None

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        """The actions of one rank, first to last."""
        for stage, phase, m in self.arrays(rank, num_ranks, chunks, num_micro_batches).T.tolist():
            yield Action(stage, self.phases[phase], m)

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """The same as numbers, [3, action]: stage, index of the phase in `phases`, micro_batch."""
        rows = [(stage, self.phases.index(phase), m) for stage, phase, m in self.order(rank, num_ranks, chunks, num_micro_batches)]
        return np.array(rows, dtype=np.int64).reshape(-1, 3).T

    def pairs(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """Places among a rank's actions of the forwards that run together with the backward behind them, of another micro_batch."""
        return np.zeros(0, dtype=np.int64)

    def rank_of(self, stage: int, num_ranks: int) -> int:
        """Where a stage lives: stages go round the ranks (Narayanan et al. 2021, section 2.2)."""
        return stage % num_ranks

    def stages_of(self, rank: int, num_ranks: int, num_stages: int) -> tuple[int, ...]:
        """The stages that live on a rank, its chunks in order."""
        return tuple(stage for stage in range(num_stages) if self.rank_of(stage, num_ranks) == rank)


SCHEDULES: Registry[Schedule] = Registry("schedule")


class WrittenSchedule(Schedule):
    """The actions that a plan states for each rank; one that has I or W splits every backward."""

    source = "written in the plan"

    def __init__(self, by_rank: tuple[tuple[Action, ...], ...]) -> None:
        self.by_rank = by_rank
        splits = any(action.phase not in WHOLE for actions in by_rank for action in actions)
        self.phases = SPLIT if splits else WHOLE

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        """As written."""
        return iter(self.by_rank[rank])


def find(schedule: str | tuple[str, ...], num_ranks: int) -> Schedule:
    """The schedule of that name, or the one written as text for each of the ranks.

    Raises:
        ParsimError: no schedule of that name.
        ScheduleError: the text holds what is no action, or too few ranks.
    """
    if isinstance(schedule, tuple):
        return _read(schedule, num_ranks)
    SCHEDULES.discover("parsim.schedules")
    return SCHEDULES.get(schedule)


@functools.lru_cache(maxsize=64)
def _read(by_rank: tuple[str, ...], num_ranks: int) -> WrittenSchedule:
    return WrittenSchedule(parse(by_rank, num_ranks))


def in_turn(count: int, lags: Sequence[int]) -> tuple[Ints, Ints]:
    """Index of the phase, and number, of a rank's actions where the k-th of phase i comes in slot k + lags[i], of a slot by phase.

    >>> phase, number = in_turn(3, (-1, 0))  # one forward ahead, then one of each in turn
    >>> [f"{'FB'[i]}{k}" for i, k in zip(phase, number)]
    ['F0', 'F1', 'B0', 'F2', 'B1', 'B2']
    """
    slots = np.arange(count) + np.array(lags)[:, None]
    place = np.argsort((slots * len(lags) + np.arange(len(lags))[:, None]).ravel(), kind="stable")  # merges what is in order
    return place // count, place % count
