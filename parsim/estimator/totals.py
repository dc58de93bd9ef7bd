"""A step's FLOPs, HBM bytes and sent bytes of one device, as Python integers: each task list once, times how often, plus the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from msgspec import Struct

from parsim.cluster.scalars import distinct
from parsim.cost.buckets import Held
from parsim.cost.cost_model import CostModel
from parsim.cost.count import counted_flops, flops, hbm_bytes, sent_over
from parsim.cost.sizes import Ints, Sizes
from parsim.cost.workload import Prices
from parsim.estimator.passes import Stages
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
        self._rows, self._model, self._at = distinct(rows), prices.model, at or {}
        sizes = prices.sizes.take(self._rows)
        self._sizes = sizes if at is None else sizes.at(at)
        self._known: dict[tuple[int, ...], tuple[Sequence[Task], dict[str, Ints]]] = {}  # by the identities of tasks, which are kept

    def of(self, tasks: Sequence[Task], row: int) -> dict[str, int]:
        """Of one list for one row, by name: FLOPs, HBM bytes, and what is sent over each link."""
        key = tuple(map(id, tasks))
        if key not in self._known:
            self._known[key] = tasks, self._count(tasks)
        place = int(np.searchsorted(self._rows, row))
        return {name: int(count[place]) for name, count in self._known[key][1].items()}

    def _count(self, tasks: Sequence[Task]) -> dict[str, Ints]:
        total: dict[str, Ints] = {}
        for task in tasks:
            for name, count in _counts(task, self._sizes, self._model, self._at):
                total[name] = total.get(name, self._sizes.zero) + count
        return total


def device_totals(stages: Stages, at: Mapping[str, int] | None = None, counts: PassCounts | None = None) -> tuple[Totals, ...]:
    """Of the device of each pipeline rank at these coordinates; `counts`: of these coordinates, of several plans."""
    links = stages.workload.step.structure.links
    shape = stages.workload.shape
    firsts = np.unique(shape.index, return_index=True)[1].tolist()
    counts = counts or PassCounts(stages.workload.prices, stages.workload.rows, at)
    passes, ends = [_passes(stages, stage, counts) for stage in firsts], _finish(stages, at)
    found = []
    for rank, own in enumerate(shape.index[shape.by_rank].tolist()):
        total = Counter({name: int(count[rank]) for name, count in ends.items()})
        for index in own:
            total.update(passes[index])
        work, again, moved = (total.pop(name, 0) for name in (_FLOPS, _AGAIN, _HBM_BYTES))
        found.append(Totals(work, again, moved, {link: total[link] for link in (*links, *(total.keys() - set(links)))}))
    return tuple(found)


def _passes(stages: Stages, stage: int, counts: PassCounts) -> Counter[str]:
    """Counts of all micro_batches on one stage, by name."""
    w, total = stages.workload, Counter[str]()
    for phase in w.phases:
        for closes in (False, True) if phase.accumulates else (False,):
            times = 1 if closes else w.num_micro_batches - phase.accumulates
            for run in w.pass_of(stage, phase, closes=closes).lists:
                repeats = times * int(run.copies)
                for name, count in counts.of(run.tasks, int(w.rows[0])).items():
                    total[name] += count * repeats
    return total


def _finish(stages: Stages, at: Mapping[str, int] | None) -> dict[str, Ints]:
    """Counts of the end of the step, [rank]."""
    w, place = stages.workload, at or {}
    held = {name: each[:, 0] for name, each in stages.held.items()}
    sizes = w.sizes.take(np.zeros(w.num_ranks, dtype=np.int64))
    sizes = sizes if at is None else sizes.at(at)
    total: dict[str, Ints] = {}
    for task in w.step.finish:
        alone: Group | None = getattr(task, "alone", None)
        if alone is None or not any(place.get(axis, 0) for axis in alone.axes):
            for name, count in _counts(task, sizes, w.model, {**place, "pp": np.arange(w.num_ranks)}, held):
                total[name] = total.get(name, sizes.zero) + count
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
