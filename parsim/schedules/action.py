"""One phase of a stage and micro_batch, and a schedule written as such: for each pipeline rank its actions in order, as text."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from parsim.errors import ScheduleError
from parsim.schedules.phase import Phase

_TOKEN: Final = re.compile(rf"([0-9]{{1,9}})([{''.join(Phase)}])([0-9]{{1,9}})")


class Action(NamedTuple):
    """Prints as '2F0': stage 2, forward, micro_batch 0."""

    stage: int
    phase: Phase
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.phase}{self.micro_batch}"


def is_written(text: str) -> bool:
    """Whether a text starts as the actions of a rank do, rather than as a name.

    >>> is_written("0F0 0B0"), is_written("1f1b")
    (True, False)
    """
    return _TOKEN.fullmatch((text.split() or [""])[0]) is not None


def parse(by_rank: tuple[str, ...], num_ranks: int) -> tuple[tuple[Action, ...], ...]:
    """The actions of each rank.

    Raises:
        ScheduleError: not a text for each rank, or a token that is no action.

    >>> [str(action) for action in parse(("0F0  0B0",), 1)[0]]
    ['0F0', '0B0']
    """
    if len(by_rank) != num_ranks:
        remedy = f"Write the actions of each of the ranks 0 to {num_ranks - 1}." if num_ranks > 1 else "Write the actions of rank 0."
        raise ScheduleError(f"the schedule is written for {len(by_rank)} ranks, but pipeline_parallel = {num_ranks}", remedy=remedy)
    return tuple(tuple(_action(token, rank) for token in line.split()) for rank, line in enumerate(by_rank))


def _action(token: str, rank: int) -> Action:
    found = _TOKEN.fullmatch(token)
    if found is None:
        remedy = (
            "An action is a stage, F or B, and a micro batch: 0F0 is stage 0, forward, micro batch 0.  "
            "I (backward of inputs) and W (of weights) stand in place of B in a schedule that splits it."
        )
        raise ScheduleError(f"rank {rank}: '{token[:40]}' is no action", remedy=remedy)
    stage, phase, micro_batch = found.groups()
    return Action(int(stage), Phase[phase], int(micro_batch))
