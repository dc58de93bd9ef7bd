"""Which ranks, and which states of theirs, can be the worst of a pipeline: all others hold or do no more in any respect.

Found once for each shape, so that what is asked of many plans is a sum over a few rows each, whatever the number of ranks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from parsim import schedules
from parsim.cluster.scalars import distinct_rows
from parsim.cost.shape import Shape
from parsim.cost.sizes import Ints
from parsim.cost.workload import Workload
from parsim.schedules.states import greatest


class WorstRanks(NamedTuple):
    """Stages of each class that a rank holds, that lie below its first one, and that lie below but for one place further up."""

    own: Ints  # [rank, class]
    below: Ints
    shifted: Ints


class WorstStates(NamedTuple):
    """What a rank holds of each class when an action starts."""

    own: Ints  # its stages, [state, class]
    in_flight: Ints  # micro_batches whose phase k ran and whose next did not, [state, class, k]
    acting: Ints  # class of the next action's stage, [state]
    phase: Ints  # and its phase
    together: Ints  # of a pair the classes of both, as the shape's `class_pairs` count them; -1 of an action by itself


@functools.lru_cache(maxsize=4096)
def worst_ranks(shape: Shape, num_classes: int) -> WorstRanks:
    """The ranks that can finish last, or hold most, with zeros up to so many classes."""
    counts, first = shape.counts, (shape.by_rank % shape.stages_a_copy).min(axis=1)  # the stage of any copy that is reached soonest
    summed = np.concatenate([counts[:1] * 0, np.cumsum(counts, axis=0)])
    below, shifted = summed[first], summed[first + 1] - summed[1]
    found = np.concatenate([shape.own, below, shifted], axis=1)
    kept = greatest(found[:, 0] * 0, found)
    return WorstRanks(*(_fill(each[kept], num_classes) for each in (shape.own, below, shifted)))


@functools.lru_cache(maxsize=65536)
def worst_states(shape: Shape, num_micro_batches: int, num_classes: int) -> WorstStates:
    """The states in which memory can peak, with zeros up to so many classes."""
    return _worst_states(shape, schedules.enough(shape.schedule, shape.num_ranks, num_micro_batches), num_classes)


@functools.lru_cache(maxsize=4096)
def _worst_states(shape: Shape, count: int, num_classes: int) -> WorstStates:
    rank, stage, phase, other, in_flight = schedules.starts(shape.schedule, shape.num_ranks, count, shape.index, _fullest(shape))
    own, acting, together = shape.own[rank], shape.index[stage], pairs_of(shape, stage, other)
    group = (acting * len(shape.phases) + phase) * (len(shape.class_pairs) + 1) + 1 + together
    kept = greatest(group, np.concatenate([own, in_flight.reshape(len(own), -1)], axis=1))
    return WorstStates(_fill(own[kept], num_classes), _fill(in_flight[kept], num_classes), acting[kept], phase[kept], together[kept])


def _fullest(shape: Shape) -> list[int]:
    """Where later ranks have no more in flight, the first of those whose chunks do the same; none: of all ranks each may hold most."""
    falls = schedules.find(shape.schedule, shape.num_ranks).falls
    return sorted(distinct_rows([*shape.index[shape.by_rank].T], shape.num_ranks)[0].tolist()) if falls else []


def pairs_of(shape: Shape, forward: Ints, backward: Ints) -> Ints:
    """Of which two classes the pairs of these stages are; -1 where the backward's is, which is none."""
    together, runs = np.full(len(forward), -1), backward >= 0
    if runs.any():
        together[runs] = shape.classes_of(forward[runs], backward[runs])
    return together


def _fill(values: Ints, num_classes: int) -> Ints:
    found = np.zeros((len(values), num_classes, *values.shape[2:]), dtype=np.int64)
    found[:, : values.shape[1]] = values
    return found


class Rows(NamedTuple):
    """Rows for each plan, all of a plan side by side."""

    plan: Ints  # [row]
    begin: Ints  # the first row of each plan
    columns: tuple[Ints, ...]  # [row, ...]

    def worst(self, values: Ints) -> Ints:
        """The largest value of each plan."""
        return np.asarray(np.maximum.reduceat(values, self.begin))


def ranks_of_plans(workload: Workload, num_classes: int) -> Rows:
    """The worst ranks of each plan; columns as in WorstRanks, filled up with zeros to so many classes."""
    return _spread([worst_ranks(shape, num_classes) for shape in workload.shapes], workload.shape_of)


def states_of_plans(workload: Workload, num_classes: int) -> Rows:
    """The worst states of each plan; columns as in WorstStates."""
    first, which = distinct_rows([workload.shape_of, workload.micro_batches], len(workload.rows))
    kinds = [(workload.shapes[workload.shape_of[plan]], int(workload.micro_batches[plan])) for plan in first.tolist()]
    return _spread([worst_states(*kind, num_classes) for kind in kinds], which)


def _spread(found: Sequence[tuple[Ints, ...]], which: Ints) -> Rows:
    counts = np.array([len(each[0]) for each in found])
    count = counts[which]
    begin = np.cumsum(count) - count
    row = np.arange(count.sum()) + np.repeat((np.cumsum(counts) - counts)[which] - begin, count)
    return Rows(np.repeat(np.arange(len(which)), count), begin, tuple(np.concatenate(own)[row] for own in zip(*found, strict=True)))
