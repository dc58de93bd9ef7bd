"""A step's FLOPs, HBM bytes and sent bytes of one device, as Python integers: each task list once, times how often, plus the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.cluster.scalars import distinct
from parsim.cost.buckets import Held
from parsim.cost.cost_model import CostModel
from parsim.cost.count import counted_flops, flops, hbm_bytes, sent_over
from parsim.cost.sizes import Ints, Sizes
from parsim.cost.workload import Prices
from parsim.estimator.passes import Stages
from parsim.model.dims import SLOTS
from parsim.model.op_kinds import COSTS
from parsim.parallel.group import Group
from parsim.step.task import COMPUTE_STREAM, Collective, Compute, HostCopy, Send, Task

Coordinates: TypeAlias = "Mapping[str, int | Ints]"
_FLOPS, _AGAIN, _HBM_BYTES = "flops", "again", "hbm_bytes"


class Totals(Struct, frozen=True):
    """What a device does in a step; HBM bytes are those of its passes."""

    flops: int
    again_flops: int  # of recomputed matmuls and attention, pairs of query and key as MFU counts them
    hbm_bytes: int
    sent_bytes: dict[str, int]  # by link


class PassCounts:
    """What lists of tasks count on a device of each of some rows of the prices, at these coordinates inside its pipeline rank, each list
    once for all; without coordinates on the representative, the first of its groups."""

    def __init__(self, prices: Prices, rows: Ints, at: Mapping[str, int] | None = None) -> None:
        self._rows, self._models, self._at = distinct(rows), prices.model.on_each, at or {}
        sizes = prices.sizes.take(self._rows)
        self._sizes, self._alike = sizes if at is None else sizes.at(at), prices.alike
        self._of_tasks: dict[tuple[int, object], dict[str, Ints]] = {}  # by node and what tasks have in common
        self._known: dict[tuple[int, ...], tuple[Sequence[Task], dict[str, Ints]]] = {}  # by node and identities of tasks, which are kept

    def of(self, tasks: Sequence[Task], node: int, row: int) -> dict[str, int]:
        """Of one list on a kind of node for one row, by name: FLOPs, HBM bytes, and what is sent over each link."""
        place = int(np.searchsorted(self._rows, row))
        return {name: int(count[place]) for name, count in self._counts_of(tasks, node).items()}

    def of_rows(self, tasks: Sequence[Task], node: int, rows: Ints) -> dict[str, Any]:
        """The same for several rows, as arrays of Python's integers."""
        places = np.searchsorted(self._rows, rows)
        return {name: count[places].astype(object) for name, count in self._counts_of(tasks, node).items()}

    def _counts_of(self, tasks: Sequence[Task], node: int) -> dict[str, Ints]:
        key = (node, *map(id, tasks))
        if key not in self._known:
            self._known[key] = tasks, self._count(tasks, node)
        return self._known[key][1]

    def _count(self, tasks: Sequence[Task], node: int) -> dict[str, Ints]:
        total: dict[str, Ints] = {}
        for task in tasks:
            if (key := (node, self._alike(task))) not in self._of_tasks:
                self._of_tasks[key] = dict(_counts(task, self._sizes, self._models[node], self._at))
            for name, count in self._of_tasks[key].items():
                total[name] = total.get(name, self._sizes.zero) + count
        return total


class EveryRank(NamedTuple):
    """What passes count on each rank along the axes over which experts lie, where some have more slots than others."""

    stands: Mapping[str, Ints]  # where each rank does
    in_passes: Sequence[Mapping[str, Any]]  # of each pipeline rank, arrays of Python's integers [rank]

    @classmethod
    def of(cls, stages: Stages) -> EveryRank | None:
        """Of the one plan; None where ranks are all alike, or differ in more than slots."""
        tables = stages.workload.sizes.tables
        if not tables or any(dim[0] not in SLOTS for dim, _ in tables):
            return None
        every, _ = stages.on_all_ranks(dict.fromkeys(axis for _, axis in tables))
        rows = every.workload.rows
        counts = PassCounts(every.workload.prices, rows)
        return cls(every.workload.sizes.stands, _in_passes(every, lambda tasks, node: counts.of_rows(tasks, node, rows)))

    def mean_again_flops(self) -> Fraction:
        """Recomputed FLOPs of a device on average."""
        count = len(next(iter(self.stands.values())))
        return Fraction(sum(int(np.sum(total[_AGAIN])) for total in self.in_passes), count * len(self.in_passes))


def worst_totals(stages: Stages, every: EveryRank) -> tuple[Totals, ...]:
    """Of each pipeline rank those of its device with most FLOPs, the first of equals."""
    worst = np.array([int(np.argmax(total[_FLOPS])) for total in every.in_passes])
    ends = _finish(stages, None, {axis: stands[worst] for axis, stands in every.stands.items()})
    chosen = ({name: count[place] for name, count in total.items()} for total, place in zip(every.in_passes, worst.tolist(), strict=True))
    return tuple(_totals(stages, rank, ends, total) for rank, total in enumerate(chosen))


def device_totals(stages: Stages, at: Mapping[str, int] | None = None, counts: PassCounts | None = None) -> tuple[Totals, ...]:
    """Of the device of each pipeline rank at these coordinates; `counts`: of these coordinates, of several plans.

    Without coordinates of the representative: where no rank has most of all layers, of each pipeline rank the one with most FLOPs.
    """
    if at is None and stages.workload.sizes.torn and (every := EveryRank.of(stages)):
        return worst_totals(stages, every)
    counts, row = counts or PassCounts(stages.workload.prices, stages.workload.rows, at), int(stages.workload.rows[0])
    in_passes, ends = _in_passes(stages, lambda tasks, node: counts.of(tasks, node, row)), _finish(stages, at)
    return tuple(_totals(stages, rank, ends, total) for rank, total in enumerate(in_passes))


def mean_again_flops(stages: Stages, totals: Sequence[Totals]) -> Fraction:
    """Recomputed FLOPs of a device on average: those of representatives, or where a table deals out unevenly of all its places."""
    sizes = stages.workload.sizes
    axes = sorted({axis for _, axis in sizes.tables})
    if axes:
        places = product(*(range(int(sizes.degrees[axis][0])) for axis in axes))
        totals = [each for place in places for each in device_totals(stages, dict(zip(axes, place, strict=True)))]
    return Fraction(sum(each.again_flops for each in totals), len(totals))


def _in_passes(stages: Stages, count: Callable[[Sequence[Task], int], Mapping[str, Any]]) -> list[Counter[str]]:
    """What all passes of a step count on each pipeline rank, by name; `count`: of a list of tasks on a kind of node."""
    shape, found = stages.workload.shape, []
    firsts = np.unique(shape.index, return_index=True)[1].tolist()
    passes = [_passes(stages, stage, count) for stage in firsts]
    for own in shape.index[shape.by_rank].tolist():
        total = Counter[str]()
        for index in own:
            total.update(passes[index])
        found.append(total)
    return found


def _totals(stages: Stages, rank: int, ends: Mapping[str, Ints], in_passes: Mapping[str, int]) -> Totals:
    """Those of a pipeline rank, with the end of the step."""
    links, total = stages.workload.step.structure.links, Counter({name: int(count[rank]) for name, count in ends.items()})
    total.update(in_passes)
    work, again, moved = (total.pop(name, 0) for name in (_FLOPS, _AGAIN, _HBM_BYTES))
    return Totals(work, again, moved, {link: total[link] for link in (*links, *(total.keys() - set(links)))})


def _passes(stages: Stages, stage: int, count: Callable[[Sequence[Task], int], Mapping[str, Any]]) -> Counter[str]:
    """Counts of all micro_batches on one stage, by name."""
    w, total = stages.workload, Counter[str]()
    for phase in w.phases:
        for closes in (False, True) if phase.accumulates else (False,):
            times = 1 if closes else w.num_micro_batches - phase.accumulates
            for run in w.pass_of(stage, phase, closes=closes).lists:
                repeats = times * int(run.copies)
                for name, each in count(run.tasks, w.stage_class(stage).kind.node).items():
                    total[name] = total[name] + each * repeats
    return total


def _finish(stages: Stages, at: Mapping[str, int] | None, stands: Mapping[str, Ints] | None = None) -> dict[str, Ints]:
    """Counts of the end of the step, [rank]; `stands`: where the representative of each does."""
    w, place = stages.workload, at or {}
    held = {name: each[:, 0] for name, each in stages.held.items()}
    sizes = w.sizes.take(np.zeros(w.num_ranks, dtype=np.int64))
    sizes = replace(sizes, stands=stands or {}) if at is None else sizes.at(at)
    total: dict[str, Ints] = {}
    for task in w.step.finish:
        alone: Group | None = getattr(task, "alone", None)
        if alone is None or not any(place.get(axis, 0) for axis in alone.axes):
            for node, model in enumerate(w.model.on_each):
                for name, count in _counts(task, sizes, model, {**place, "pp": np.arange(w.num_ranks)}, held):
                    total[name] = total.get(name, sizes.zero) + count * (w.shape.nodes == node)
    total.pop(_HBM_BYTES, None)
    return total


def _counts(task: Task, sizes: Sizes, model: CostModel, at: Coordinates, held: Held = None) -> Iterator[tuple[str, Ints]]:
    match task:
        case Compute() if task.stream == COMPUTE_STREAM:
            yield _FLOPS, flops(task, sizes, held)
            if task.again and COSTS[task.kernel].family != "elementwise":
                yield _AGAIN, counted_flops(task, sizes)
            yield _HBM_BYTES, hbm_bytes(task, sizes, held)
        case Send() | HostCopy():
            yield from sent_over(task, sizes, model, 0, held)
        case Collective():
            homes = [np.asarray(held[name]) > 0 for name in task.group.homes] if held else []
            takes_part = np.any(homes, axis=0) if homes else True
            position = np.cumsum(takes_part) - 1 if homes else sizes.position(task.group, at)
            for link, sent in sent_over(task, sizes, model, position, held):
                yield link, np.where(takes_part, sent, 0)
