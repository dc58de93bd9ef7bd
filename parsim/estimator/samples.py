"""The steps of one plan, disturbed in many samples at once: the recurrence of pipeline.py, with an axis of samples for that of plans.

Pipelines that pass by themselves meet where a collective of the step's end joins them: there the last of them starts it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim import schedules
from parsim.cluster.scalars import Floats, Ints, distinct
from parsim.cost.factors import DelayParts, Factors, Hosted, delays_ps, stretched_ps
from parsim.cost.shape import StageKind
from parsim.estimator.fold import Moved, fold_samples, levels_of
from parsim.estimator.passes import Stages
from parsim.estimator.pipeline import RankEnds, beside_times, busy_ends, by_action, finish, members_of
from parsim.estimator.streams import exposure
from parsim.parallel.group import Group
from parsim.schedules import Rounds
from parsim.schedules.columnar import Bools
from parsim.schedules.phase import Phase
from parsim.step.task import COMPUTE_STREAM, HOST, Collective, Compute, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXPOSED: Final = exposure("")


def _is_kernels(charge: str) -> bool:
    return charge == "compute"


def _is_wait(charge: str) -> bool:
    """For links; what is charged otherwise is the host's, which launches kernels as fast as ever."""
    return charge.startswith(_EXPOSED) and charge != exposure(HOST)


A = TypeVar("A", bound="NDArray[Any]")
Kinds = tuple[StageKind, StageKind]


class PipelineRun(Struct, frozen=True, eq=False):
    """What one of the pipelines of a plan runs, as it is priced."""

    stages: Stages
    rounds: Rounds
    loops: int
    times: Ints  # of actions, of their messages, and how much longer those take that close their stage, [3, action, 1]
    far: Ints  # how long messages are on their way to other sites, [action, 1]
    parts: DelayParts
    rows: tuple[Ints, ...]  # of the actions of each level, among those of all ranks in order of issue
    micro_batches: tuple[Ints, ...]  # and which micro_batch each is of, those of a copy of the model after those of another
    others: tuple[tuple[Stages, Bools], ...] = ()  # other prices, and the ranks that have them

    @classmethod
    def of(cls, stages: Stages, most: Stages | None = None, least: Stages | None = None) -> PipelineRun:
        """That of the only plan; with the documents that cost most and least in its micro_batches, where they may have others."""
        w = stages.workload
        ((rounds, member),) = members_of(0, w)
        times, far = _times(stages, rounds)
        more, less = (times[0] * 0 if each is None else _times(each, rounds)[0][0] - times[0] for each in (most, least))
        kernels, waits = (_charges_ps(stages, rounds, each) for each in (_is_kernels, _is_wait))
        made = schedules.columns(w.schedule, w.num_ranks, w.chunks, w.num_micro_batches)
        rows = tuple(_rows(rounds, member.loops, np.searchsorted(made.rank, np.arange(w.num_ranks))))
        number = made.micro_batch + made.stage // w.shape.stages_a_copy * w.num_micro_batches
        own = tuple(number[each] for each in rows)
        parts = DelayParts(kernels, waits, more, less, tuple(_waits_for_host(stages, rounds)))
        return cls(stages, rounds, member.loops, times, far, parts, rows, own)

    @property
    def num_actions(self) -> int:
        """Of all ranks."""
        return sum(map(len, self.rows))

    def ends(self, factors: Factors) -> RankEnds:
        """When the passes of each rank end in each of the samples, [rank, sample]."""
        ((_, member),) = members_of(0, self.stages.workload)
        passes = fold_samples(self.rounds, self.times, self.far, factors.num_samples, self._moves(factors), self.loops)
        busy = busy_ends(beside_times(self.stages), member, self.rounds, passes)
        for stages, ranks in self.others:
            busy = np.where(ranks[:, None], busy_ends(beside_times(stages), member, self.rounds, passes), busy)
        return RankEnds(passes.ends, busy, passes.flying)

    def priced_by(self, other: PipelineRun, ranks: Bools) -> PipelineRun:
        """The same, in which some ranks have the prices of another; a message takes as long as at the slower of its ends."""
        shape, phases = self.stages.workload.shape, self.stages.workload.phases
        there = np.stack([np.clip(np.arange(shape.num_stages) + phase.step, 0, shape.num_stages - 1) for phase in phases])
        home = np.broadcast_to(shape.home, there.shape)
        own = np.concatenate([ranks[home].ravel(), ranks[shape.home[self.rounds.pairs[:, 0]]], [False]])[: self.times.shape[1], None]
        either = own.copy()
        either[: there.size, 0] |= ranks[shape.home[there]].ravel()
        times = np.where(np.stack([own, either, own]), other.times, self.times)
        names = ("kernels", "waits", "most", "least")
        hosted = tuple(
            Hosted(usual.copies, *(np.where(own, getattr(slow, name), getattr(usual, name)) for name in ("kernels", "wait")))
            for usual, slow in zip(self.parts.hosted, other.parts.hosted, strict=True)
        )
        kernels, waits, most, least = (np.where(own, getattr(other.parts, name), getattr(self.parts, name)) for name in names)
        parts = DelayParts(kernels, waits, most, least, hosted)
        return replace(self, times=times, parts=parts, others=(*self.others, (other.stages, ranks)))

    def _moves(self, factors: Factors) -> Iterator[Moved]:
        for level, rows, which in zip(levels_of(self.rounds, self.loops), self.rows, self.micro_batches, strict=True):
            sends = None
            if factors.links is not None:
                sends = stretched_ps(factors.links[rows[level.ends]], self.times[1][level.sends])
            yield Moved(delays_ps(factors, rows, self.parts.take(level.action), which), sends)


def _times(stages: Stages, rounds: Rounds) -> tuple[Ints, Ints]:
    tables = [stages.table(each) for each in (stages.total_ps, stages.send_ps, stages.late_ps, stages.longer_ps)]
    ((_, member),) = members_of(0, stages.workload)
    *times, far = by_action(stages.workload, tables, stages.spread_pairs(stages.pair_ps), member, rounds)
    return np.stack(times), far


def _charges_ps(stages: Stages, rounds: Rounds, counts: Callable[[str], bool]) -> Ints:
    """Picoseconds of each action that are charged under such names, [action, 1]."""

    def own(kind: StageKind, phase: Phase) -> Ints:
        return sum((ps for name, ps in stages.charges(kind, phase).items() if counts(name)), start=stages.rows_of(kind) * 0)

    def of_pair(kinds: Kinds) -> Ints:
        return sum((ps for name, ps in stages.pair_charges(kinds).items() if counts(name)), start=stages.pair_rows(kinds) * 0)

    return _of_actions(stages, rounds, own, of_pair)


def _of_actions(stages: Stages, rounds: Rounds, own: Callable[[StageKind, Phase], Ints], of_pair: Callable[[Kinds], Ints]) -> Ints:
    """A value of each action, [action, 1]."""
    alone = stages.table(own)
    ((_, member),) = members_of(0, stages.workload)
    found, *_ = by_action(stages.workload, [alone, *[alone * 0] * 3], stages.spread_pairs(of_pair), member, rounds)
    return found


def _waits_for_host(stages: Stages, rounds: Rounds) -> Iterator[Hosted]:
    """The first of what waits for the host in each action, the second, and so on."""
    alone = {(kind, phase): stages.launches(kind, phase) for kind in stages.members for phase in stages.workload.phases}
    pairs = {kinds: stages.pair_launches(kinds) for kinds in stages.pair_members}

    def value(number: int, part: int) -> Ints:
        def own(kind: StageKind, phase: Phase) -> Ints:
            return _part(alone[kind, phase], number, part, stages.rows_of(kind))

        def of_pair(kinds: Kinds) -> Ints:
            return _part(pairs[kinds], number, part, stages.pair_rows(kinds))

        return _of_actions(stages, rounds, own, of_pair)

    for number in range(max(map(len, (*alone.values(), *pairs.values())))):
        yield Hosted(value(number, 0), value(number, 1), value(number, 2))


def _part(found: Sequence[Sequence[Ints]], number: int, part: int, rows: Ints) -> Ints:
    return found[number][part] if number < len(found) else rows * 0


def delays_of_gradients(stages: Stages, factors: Floats) -> Ints:
    """How much longer than usual the only rank of a plan takes for a gradient, [...], by the factors of its kernels, [...]."""
    run, found = PipelineRun.of(stages), np.zeros(factors.size, dtype=np.int64)
    kernels = factors.reshape(1, -1)
    each = Factors(factors.size, kernels)
    for action, count in Counter(int(level.action[0]) for level in levels_of(run.rounds, run.loops)).items():
        delays = delays_ps(each, [0], run.parts.take(np.array([action])), np.array([0]))
        assert delays is not None
        found += count * delays[0]
    for task in stages.workload.step.finish:
        if isinstance(task, Compute) and task.stream == COMPUTE_STREAM:
            ps = stages.finish_ps(task)[0]
            found += stretched_ps(kernels[0], ps) - ps
    return found.reshape(factors.shape)


def _rows(rounds: Rounds, loops: int, first: Ints) -> Iterator[Ints]:
    """Of each level the rows of its actions: a rank runs its own in order."""
    after = first.copy()
    for level in levels_of(rounds, loops):
        found = after[level.rank].copy()
        after[level.rank] += 1
        yield found


class PipelinesEnd(Struct, frozen=True, eq=False):
    """A step's end of several pipelines in several samples: arrays have a column a pipeline and sample, pipeline by pipeline."""

    meetings: Callable[[Group], Ints]  # a number for each pipeline, the same for those that a group joins
    num_pipelines: int
    kernels: Floats | None  # factors of each rank's end, [rank, pipeline and sample]
    links: Floats | None
    others: tuple[tuple[Stages, Bools], ...]  # other prices, and whose they are, [rank, pipeline and sample]

    def ps(self, task: Task, price: Callable[[Stages], Ints], stages: Stages) -> Ints:
        """Picoseconds of a task: of kernels by the factor of their devices, of a collective by its slowest member's."""
        usual = ps = price(stages)
        if isinstance(task, Collective):
            for other, own in self.others:
                ps = np.where(self._slowest(task, own.astype(np.int64), usual) > 0, np.maximum(ps, price(other)), ps)
            return ps if self.links is None else stretched_ps(self._slowest(task, self.links, usual), ps)
        if self.kernels is None or not isinstance(task, Compute) or task.stream != COMPUTE_STREAM:
            return ps
        ps = stretched_ps(self.kernels, ps)
        return ps if task.alone is None else np.where(self._first_of(task.alone, ps.shape[1]), ps, 0)

    def _first_of(self, group: Group, num_columns: int) -> Bools:
        """Of each column, whether its pipeline is the first of those in a group, for all of which it works."""
        _, which = np.unique(self.meetings(group), return_index=True)
        return np.repeat(np.isin(np.arange(self.num_pipelines), which), num_columns // self.num_pipelines)

    def meet(self, task: Task, ends: Ints) -> Ints:
        """When all pipelines that start a task together are there."""
        return self.last(ends, self.meetings(task.group)) if isinstance(task, Collective) else ends

    def last(self, values: A, which: Ints) -> A:
        """For each pipeline the largest value of those that have its number, in the same sample."""
        if self.num_pipelines == 1:
            return values
        each = values.reshape(len(values), self.num_pipelines, -1).copy()
        for number in distinct(which).tolist():
            own = which == number
            each[:, own] = each[:, own].max(axis=1, keepdims=True)
        return cast(A, each.reshape(values.shape))

    def _slowest(self, task: Collective, values: A, usual: Ints) -> A:
        """The largest value of those who take part in a collective; who has no part in it has a price of 0."""
        found: Any = values
        if task.group.mirrors:
            found = np.maximum(values, values[::-1])
        elif "pp" in task.group.axes:
            found = np.broadcast_to(np.where(usual > 0, values, 0).max(axis=0), values.shape)
        return self.last(cast(A, found), self.meetings(task.group))


def sample_steps(parts: Iterable[tuple[PipelineRun, Factors]], meetings: Callable[[Group], Ints]) -> Ints:
    """Picoseconds of the step in each sample.

    Args:
        parts: each pipeline, and what disturbs it.
        meetings: which pipelines a group joins at the step's end: a number for each, the same for those in it together.
    """
    found, at_end, others = list[RankEnds](), list[Factors](), list[Sequence[tuple[Stages, Bools]]]()
    for run, factors in parts:
        found.append(run.ends(factors))
        at_end.append(factors.behind(run.num_actions))
        others.append(run.others)
        stages = run.stages
    ends, busy, flying = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
    kernels, links = (_side_by_side(at_end, name, len(ends)) for name in ("kernels", "links"))
    ending = PipelinesEnd(meetings, len(found), kernels, links, _merge(others, [each.num_samples for each in at_end]))
    if len(found) > 1 and stages.workload.step.structure.replica_stream:
        busy = ending.last(busy, np.zeros(len(found), dtype=np.int64))
    step = finish(stages, RankEnds(ends, busy, flying), ending)
    return np.asarray(step.compute.max(axis=0).reshape(len(found), -1).max(axis=0))


def _side_by_side(factors: Sequence[Factors], name: str, num_ranks: int) -> Floats | None:
    each = [getattr(own, name) for own in factors]
    if all(own is None for own in each):
        return None
    whole = [np.broadcast_to(1.0 if own is None else own, (num_ranks, of.num_samples)) for own, of in zip(each, factors, strict=True)]
    return np.concatenate(whole, axis=1)


def _merge(others: Sequence[Sequence[tuple[Stages, Bools]]], counts: Sequence[int]) -> tuple[tuple[Stages, Bools], ...]:
    """The other prices of all pipelines, each once, with the ranks of each pipeline that have them."""
    stages = {id(each): each for own in others for each, _ in own}
    nobody = np.zeros(next((len(ranks) for own in others for _, ranks in own), 0), dtype=bool)
    found = []
    for key, each in stages.items():
        ranks = (next((ranks for one, ranks in own if id(one) == key), nobody) for own in others)
        columns = [np.repeat(own[:, None], count, axis=1) for own, count in zip(ranks, counts, strict=True)]
        found.append((each, np.concatenate(columns, axis=1)))
    return tuple(found)
