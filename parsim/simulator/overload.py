"""Whether links can be asked for more than they carry: where they cannot, contention changes no picosecond, and the estimate says all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np

from parsim.cost.workload import Workload
from parsim.simulator.demand import Leg, Legs, LinkAt
from parsim.simulator.program import Program
from parsim.step.task import Collective, Send

_ROUNDING: Final = 1e-9  # relative: shares that add up to the whole link but for the last bits


def may_share(workload: Workload) -> bool:
    """Whether communications of several streams of a plan, all at once, would ask more of a link than it has.

    A stream does one thing at a time, so that it never asks more than its most demanding communication does.  Whether streams are ever
    busy at once is not asked: only a simulation knows that.
    """
    asked: defaultdict[LinkAt, defaultdict[tuple[int, str], float]] = defaultdict(lambda: defaultdict(float))
    for stream, leg in _legs(Program(workload)):
        for wire, load in leg.loads if leg.transfer_ps else ():
            streams = asked[wire]
            streams[stream] = max(load, streams[stream])
            if len(streams) > 1 and sum(streams.values()) > 1 + _ROUNDING:
                return True
    return False


def _legs(program: Program) -> Iterator[tuple[tuple[int, str], Leg]]:
    """The different communications of a step, each with its rank and stream."""
    legs = Legs(program)
    for task, rank, row in _communications(program):
        if leg := legs.leg(task, rank, row):
            yield (rank, task.stream), leg


def _communications(program: Program) -> Iterator[tuple[Collective | Send, int, int | None]]:
    """Each with its rank and one of the actions that it is of, None at the step's end."""
    columns = program.columns
    _, first = np.unique(program.pass_index, return_index=True)
    for each, row in zip(program.passes, first.tolist(), strict=True):
        for task in (task for run in each.lists for task in run.tasks):
            if isinstance(task, Collective) or (isinstance(task, Send) and columns.sends[row]):
                yield task, int(columns.rank[row]), row
    for task in program.workload.step.finish:
        if isinstance(task, Collective):
            yield from ((task, rank, None) for rank in range(program.workload.num_ranks) if program.takes_part(task, rank))
