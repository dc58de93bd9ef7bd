"""Pipeline schedules, one small file each: the order in which a rank runs the phases of its stages.

`columns` links each action to what it waits for, and `state_columns` says what is in flight.  A plan names a registered schedule, or holds
a written one: the actions of each rank as text (action.py).  Where a stage lives is the schedule's to say: `Schedule.rank_of`.
"""

from __future__ import annotations

from parsim.errors import ScheduleError
from parsim.schedules.action import Action as Action
from parsim.schedules.columnar import Columns as Columns
from parsim.schedules.columnar import check as check
from parsim.schedules.columnar import columns as columns
from parsim.schedules.columnar import order_of_issue as order_of_issue
from parsim.schedules.phase import Phase as Phase
from parsim.schedules.schedule import SCHEDULES as SCHEDULES
from parsim.schedules.schedule import Schedule as Schedule
from parsim.schedules.schedule import find as find
from parsim.schedules.schedule import in_turn as in_turn
from parsim.schedules.states import States as States
from parsim.schedules.states import enough as enough
from parsim.schedules.states import starts as starts
from parsim.schedules.states import state_columns as state_columns
from parsim.schedules.steady import Level as Level
from parsim.schedules.steady import Rounds as Rounds
from parsim.schedules.steady import rounds as rounds
from parsim.schedules.steady import stage_pairs as stage_pairs


def names() -> tuple[str, ...]:
    """All schedules there are."""
    SCHEDULES.discover(__name__)
    return SCHEDULES.names()


def default(chunks: int) -> str:
    """The schedule where a plan names none (Narayanan et al. 2021, section 2.2)."""
    return "interleaved_1f1b" if chunks > 1 else "1f1b"


def names_for(num_ranks: int, chunks: int) -> tuple[str, ...]:
    """The schedules that run so many chunks a rank, with some number of micro_batches."""
    return tuple(name for name in names() if (each := SCHEDULES.get(name)).legal(num_ranks, chunks * each.num_copies, None) is None)


def fault(schedule: str | tuple[str, ...], num_ranks: int, chunks: int, num_micro_batches: int | None = None) -> str | None:
    """Why a named or written schedule cannot run a pipeline of so many chunks of the model a rank; None where it can.

    A named one is asked for its rule; a written one is checked action by action once the number of micro_batches is known.

    >>> fault("1f1b", 2, 2)
    "schedule '1f1b' runs one chunk of the model a rank, but virtual_pipeline = 2"
    >>> print(fault(("0F0 0B0", "1B0 1F0"), 2, 1, 1))
    rank 1 waits for ever: 1B0 needs 1F0
      rank 0 | 0F0 0B0
      rank 1 | 1B0 1F0   <-- here
    """
    if isinstance(schedule, str):
        found = find(schedule, num_ranks)
        said = found.legal(num_ranks, chunks * found.num_copies, num_micro_batches)
        return None if said is None else f"schedule '{schedule}' {said}"
    try:
        if num_micro_batches is None:
            find(schedule, num_ranks)
        else:
            columns(schedule, num_ranks, chunks, num_micro_batches)
    except ScheduleError as error:
        return str(error)
    return None
