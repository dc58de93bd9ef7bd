"""A step's FLOPs, HBM bytes and sent bytes of one device, as Python integers: each task list once, times how often, plus the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from parsim.cost.buckets import Held
from parsim.cost.count import flops, hbm_bytes, sent_bytes
from parsim.cost.sizes import Ints, Sizes
from parsim.estimator.passes import Stages
from parsim.model.op_kinds import COSTS
from parsim.parallel.group import Group
from parsim.step.task import COMPUTE_STREAM, HOST, Collective, Compute, HostCopy, Send, Task

Coordinates: TypeAlias = "Mapping[str, int | Ints]"
_FLOPS, _AGAIN, _HBM_BYTES = "flops", "again", "hbm_bytes"


@dataclass(frozen=True, slots=True)
class Totals:
    """What a device does in a step; HBM bytes are those of its passes."""

    flops: int
    again_flops: int  # of recomputed matmuls and attention, all pairs of query and key counted
    hbm_bytes: int
    sent_bytes: dict[str, int]  # by link


def device_totals(stages: Stages, at: Mapping[str, int] | None = None) -> tuple[Totals, ...]:
    """Of the device of each pipeline rank at these coordinates inside it; without any: of the representative, the first of its groups."""
    links = stages.workload.step.structure.links
    known: dict[int, dict[str, int]] = {}
    shape = stages.workload.shape
    firsts = np.unique(shape.index, return_index=True)[1].tolist()
    passes, ends = [_passes(stages, stage, at, known) for stage in firsts], _finish(stages, at)
    found = []
    for rank, own in enumerate(shape.index[shape.by_rank].tolist()):
        total = Counter({name: int(counts[rank]) for name, counts in ends.items()})
        for index in own:
            total.update(passes[index])
        work, again, moved = (total.pop(name, 0) for name in (_FLOPS, _AGAIN, _HBM_BYTES))
        found.append(Totals(work, again, moved, {link: total[link] for link in (*links, *(total.keys() - set(links)))}))
    return tuple(found)


def _passes(stages: Stages, stage: int, at: Mapping[str, int] | None, known: dict[int, dict[str, int]]) -> Counter[str]:
    """Counts of all micro_batches on one stage, by name: FLOPs, HBM bytes, and what is sent over each link; `known`: those of tasks."""
    w, total = stages.workload, Counter[str]()
    sizes = w.sizes if at is None else w.sizes.at(at)
    for phase in w.phases:
        for closes in (False, True) if phase.accumulates else (False,):
            times = 1 if closes else w.num_micro_batches - phase.accumulates
            for run in w.pass_of(stage, phase, closes=closes).lists:
                repeats = times * int(run.copies)
                for task in run.tasks:
                    if id(task) not in known:  # the workload keeps its tasks
                        known[id(task)] = {name: int(count[0]) for name, count in _counts(stages, task, sizes, at or {})}
                    for name, count in known[id(task)].items():
                        total[name] += count * repeats
    return total


def _finish(stages: Stages, at: Mapping[str, int] | None) -> dict[str, Ints]:
    """Counts of the end of the step, [rank]."""
    w, place = stages.workload, at or {}
    sizes = w.sizes.take(np.zeros(w.num_ranks, dtype=np.int64))
    sizes = sizes if at is None else sizes.at(at)
    held = {name: copies[:, 0] for name, copies in stages.held.items()}
    total: dict[str, Ints] = {}
    for task in w.step.finish:
        alone: Group | None = getattr(task, "alone", None)
        if alone is None or not any(place.get(axis, 0) for axis in alone.axes):
            for name, count in _counts(stages, task, sizes, {**place, "pp": np.arange(w.num_ranks)}, held):
                total[name] = total.get(name, sizes.zero) + count
    total.pop(_HBM_BYTES, None)
    return total


def _counts(stages: Stages, task: Task, sizes: Sizes, at: Coordinates, held: Held = None) -> Iterator[tuple[str, Ints]]:
    match task:
        case Compute() if task.stream == COMPUTE_STREAM:
            yield _FLOPS, flops(task, sizes, held)
            if task.again and COSTS[task.kernel].family != "elementwise":
                yield _AGAIN, flops(replace(task, attributes={**task.attributes, "causal": 0}), sizes)
            yield _HBM_BYTES, hbm_bytes(task, sizes, held)
        case Send():
            yield "pp", sent_bytes(task, sizes, stages.workload.model, 0)
        case HostCopy():
            yield HOST, sent_bytes(task, sizes, stages.workload.model, 0, held)
        case Collective():
            homes = [np.asarray(held[name]) > 0 for name in task.group.homes] if held else []
            takes_part = np.any(homes, axis=0) if homes else True
            position = np.cumsum(takes_part) - 1 if homes else sizes.position(task.group, at)
            yield task.group.name, np.where(takes_part, sent_bytes(task, sizes, stages.workload.model, position, held), 0)
