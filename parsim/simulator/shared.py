"""Whether the communications of a step ask more of a link at once than it carries, and what the step then takes.

Where they never do, the estimate says all; that is seen without a simulation where collectives cost the kernels beside them nothing.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.cost.workload import Workload
from parsim.schedules.columnar import Bools
from parsim.simulator.demand import Leg, Legs, LinkAt
from parsim.simulator.program import Program, StreamItem, Walks, fold, one
from parsim.simulator.run import items_ps, play
from parsim.simulator.timeline import leaves_running, passages
from parsim.step.program import Run
from parsim.step.task import COMPUTE_STREAM, Collective, Receive, Send, Wait

if TYPE_CHECKING:
    from parsim.simulator.rank import World

_WHOLE: Final = 1 + 1e-9  # a link; shares that add up to it but for the last bits are no more
_Lists = Sequence[tuple[Sequence[StreamItem], str]]  # of an action, each with the name of its segment


class _Use(NamedTuple):
    """A communication of a rank."""

    task: Collective | Send
    rank: int
    leg: Leg


class SharedStep:
    """The step of one plan with contention: its communications, and the links on which they may meet."""

    def __init__(self, workload: Workload) -> None:
        self.program = Program(workload, shared=True)
        self._of = Legs(self.program)
        self._lists_ps: dict[tuple[int, int, int], int] = {}  # by lists, which the passes keep, and the kind of node

    @property
    def overlaps(self) -> bool:
        """Whether a link is ever asked for more than it has."""
        return self._shares_links if self.is_foreseen and self._costs_kernels else self.is_foreseen

    @functools.cached_property
    def is_foreseen(self) -> bool:
        """The same without a simulation; where collectives cost kernels something, which moves them, whether it may be."""
        if not any(sum(streams.values()) > _WHOLE for streams in self._asked.values()):
            return False
        return self._costs_kernels or self.overlaps_alone

    @functools.cached_property
    def overlaps_alone(self) -> bool:
        """Whether it is from when each communication has its links in the estimate."""
        windows, program = _Windows(), Program(self.program.workload) if self._costs_kernels else self.program
        for task, rank, row, starts in passages(program):
            windows.add(self._of.leg(task, rank, row), starts)
        return any(windows.most(wire) > _WHOLE for wire in windows.on)

    @functools.cached_property
    def num_events(self) -> int:
        """About how many it takes to simulate."""
        return self.program.num_events(self._walks)

    def step_ps(self) -> int:
        """The step, simulated."""
        return self._world.end_ps

    @functools.cached_property
    def _world(self) -> World:
        return play(self.program, self._walks, contention=True, noted=False, legs=self._of)

    @property
    def _shares_links(self) -> bool:
        """Whether something was lost on a link, in a simulation."""
        assert self._world.network is not None
        return any(wire in self._asked for wire, *_ in self._world.network.lost_ps)

    @functools.cached_property
    def _costs_kernels(self) -> bool:
        """Whether any collective does beside which they run."""
        return any(leg.device for _, _, leg in self._uses)

    @functools.cached_property
    def _walks(self) -> Walks:
        """What streams do; actions whose collectives cannot be held up are their whole time and their message."""
        walks, rows, short, alike = self.program.walks(), np.flatnonzero(self._undisturbed), dict[int, _Lists](), dict[int, int]()
        for index, first in zip(*np.unique(walks.of[rows], return_index=True), strict=True):
            if (key := id(self.program.passes[index])) not in alike:
                alike[key] = self._action_ps(int(rows[first]))
            short[index] = _as_one(walks.lists[index], alike[key])
        lists = [short.get(index, ()) for index in range(len(walks.lists))]
        return Walks([*walks.lists, *lists], walks.of + len(lists) * self._undisturbed)

    def _action_ps(self, row: int) -> int:
        """Picoseconds of an undisturbed action; those whose collectives cost its kernels something are simulated."""
        program, index, rank = self.program, int(self.program.pass_index[row]), int(self.program.columns.rank[row])
        legs = (self._of.leg(task, rank, row) for task, _ in program.folds[index].inside)
        if not any(leg and leg.device for leg in legs):
            return program.folds[index].ps
        lists = program.passes[index].lists
        if any(fold(program.items(run, program.nodes[index])).beside for run in lists):
            return items_ps(program, program.pass_items(index), self._of, row)
        return sum(one(run.copies) * self._list_ps(run, row) for run in lists)  # each starts when all before it has ended

    def _list_ps(self, run: Run, row: int) -> int:
        """The same of a list that leaves nothing running."""
        node = self.program.nodes[self.program.pass_index[row]]
        if (key := (id(run.tasks), id(run.before), node)) not in self._lists_ps:
            self._lists_ps[key] = items_ps(self.program, self.program.items(run, node), self._of, row)
        return self._lists_ps[key]

    @functools.cached_property
    def _undisturbed(self) -> Bools:
        """Actions before which their rank leaves nothing running, and whose collectives no link holds up, [row]."""
        program, rank = self.program, self.program.columns.rank
        rows = np.arange(len(rank))
        first = np.full(program.workload.num_ranks, len(rows))  # that leaves something running
        np.minimum.at(first, rank, np.where(leaves_running(program), rows, len(rows)))
        _, examples = np.unique(program.pass_index, return_index=True)
        keys = [(id(each), int(rank[row])) for each, row in zip(program.passes, examples, strict=True)]
        known = {key: self._has_its_links(row) for key, row in zip(keys, examples.tolist(), strict=True)}
        alone: Bools = np.array([known[key] for key in keys])[program.pass_index]
        return np.logical_and(alone, rows < first[rank])

    def _has_its_links(self, row: int) -> bool:
        """Whether no link can be full that the collectives within an action load, while nothing else of its rank runs but messages."""
        rank, windows, streams = int(self.program.columns.rank[row]), _Windows(), defaultdict[LinkAt, dict[str, float]](dict)
        inside = [(task, start, self._of.leg(task, rank, row)) for task, start in self.program.folds[self.program.pass_index[row]].inside]
        for task, start, leg in inside:
            windows.add(leg, np.array([start]))
            for wire, load in leg.loads if leg else ():
                streams[wire][task.stream] = max(load, streams[wire].get(task.stream, 0.0))
        moves = any(leg and leg.device for _, _, leg in inside)  # when each starts depends on kernels
        own = {wire: sum(streams[wire].values()) if moves else windows.most(wire) for wire in windows.on}
        others = {wire: [load for key, load in self._asked[wire].items() if key[0] != rank or key in self._messages] for wire in own}
        return all(own[wire] + sum(loads) <= _WHOLE for wire, loads in others.items())

    @functools.cached_property
    def _asked(self) -> dict[LinkAt, dict[tuple[int, str], float]]:
        """The most that each stream of each rank asks of each link; it does one thing at a time."""
        asked: defaultdict[LinkAt, dict[tuple[int, str], float]] = defaultdict(dict)
        for task, rank, leg in self._uses:
            for wire, load in leg.loads:
                asked[wire][rank, task.stream] = max(load, asked[wire].get((rank, task.stream), 0.0))
        return asked

    @functools.cached_property
    def _messages(self) -> set[tuple[int, str]]:
        """The streams of each rank that send messages."""
        return {(rank, task.stream) for task, rank, _ in self._uses if isinstance(task, Send)}

    @functools.cached_property
    def _uses(self) -> list[_Use]:
        """All that load links."""
        found = ((task, rank, self._of.leg(task, rank, row)) for task, rank, row in self._communications())
        return [_Use(task, rank, leg) for task, rank, leg in found if leg and leg.transfer_ps]

    def _communications(self) -> Iterator[tuple[Collective | Send, int, int | None]]:
        """Each with its rank and one of the actions that it is of, None at the step's end."""
        program, columns = self.program, self.program.columns
        _, first = np.unique(program.pass_index, return_index=True)
        for each, row in zip(program.passes, first.tolist(), strict=True):
            for task in (task for run in each.lists for task in run.tasks):
                if isinstance(task, Collective) or (isinstance(task, Send) and program.sends[program.sender(row, task)]):
                    yield task, int(columns.rank[row]), row
        for task in program.workload.step.finish:
            if isinstance(task, Collective):
                yield from ((task, rank, None) for rank in range(program.workload.num_ranks) if program.takes_part(task, rank))


class _Windows:
    """When links carry what, if nobody holds up anybody."""

    def __init__(self) -> None:
        self.on: defaultdict[LinkAt, list[tuple[Ints, int, float]]] = defaultdict(list)  # starts, how long each lasts, part of the link

    def add(self, leg: Leg | None, starts: Ints) -> None:
        """A communication that starts so often."""
        for wire, load in leg.loads if leg and leg.transfer_ps else ():
            assert leg is not None
            self.on[wire].append((starts + leg.latency_ps, leg.transfer_ps, load))

    def most(self, wire: LinkAt) -> float:
        """The most that is asked of a link at once."""
        counts = [len(starts) for starts, _, _ in self.on[wire]]
        starts = np.concatenate([starts for starts, _, _ in self.on[wire]])
        lasts, loads = (np.repeat([each[which] for each in self.on[wire]], counts) for which in (1, 2))
        at, by = np.concatenate([starts, starts + lasts]), np.concatenate([loads, -loads])
        return float(np.cumsum(by[np.lexsort((by, at))]).max())  # at one instant what ends before what starts


def _as_one(lists: Iterable[tuple[Iterable[StreamItem], str]], ps: int) -> _Lists:
    """The items of a pass that takes so long, from its message to its own."""
    items = [item for items, _ in lists for item in items]
    if not items:  # the rest of a pair
        return ()
    begin = items[0].task if isinstance(items[0].task, Receive) else Wait("pass")
    return (([StreamItem(begin, COMPUTE_STREAM, ps, (), ()), *(item for item in items if isinstance(item.task, Send))], ""),)
