"""What a stage does to two micro_batches at once: the forward of one beside the backward of another, layer by layer.

Exchanges of experts run on a stream of their own, behind what the one computes and beside what the other does: each goes on up to its next
exchange in turn, the backward first.  What the two have no layers for runs by itself, and so do the ends of the model.  Weight gradients of
a backward in two halves run as soon as what they need is there, behind the exchange that is issued first.
Source: NVIDIA/Megatron-LM@d98e8a64, megatron/core/models/common/model_chunk_schedule_plan.py (TransformerLayerSchedulePlan.run,
TransformerModelChunkSchedulePlan.run); DeepSeek-AI 2024 (arXiv:2412.19437), figure 4, has the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, zip_longest
from operator import attrgetter
from typing import Any, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.parallel.dimensions import EXPERT, view_of
from parsim.schedules.phase import Phase
from parsim.step.liveness import with_frees
from parsim.step.program import Run, Same, pass_of, receive_tasks, section, send_tasks
from parsim.step.stages import Copies, Parts
from parsim.step.step import Segment, Step
from parsim.step.task import Collective, Compute, Hold, Operand, Receive, Task, Wait, reads, writes

EXCHANGE: Final = "exchange"  # the stream of exchanges of experts that another micro_batch hides
_FORWARD: Final = "~forward"  # behind names of the forward's buffers, where both stand in one list
_ENTERING, _LEAVING = attrgetter("entering"), attrgetter("leaving")
Phased = tuple[Phase, Task]


class StagePair(Struct, frozen=True):
    """A forward and a backward that run together; each list says of which phase its tasks are."""

    lists: tuple[Run, ...]


class End(Struct, frozen=True):
    """A stage of a pair: its segments in forward order, and whether what it starts from, and hands on, crosses to another rank."""

    parts: Parts
    receives: bool
    sends: bool


def pair_of(step: Step, ends: Iterable[End], phases: Sequence[Phase]) -> StagePair:
    """Both messages are there before either starts, and leave when both have ended.

    Args:
        step: the Step.
        ends: the stage whose forward it is, and the one whose backward it is.
        phases: what is done to a micro_batch, in order.
    """
    (forward, backward), (first, second, *_) = ends, phases
    there = [*_arrival(step, forward, first)]
    found = [*there[:1], *_arrival(step, backward, second), *there[1:]]
    if hides_exchanges(step):
        found += _side_by_side(step, forward.parts, backward.parts, tuple(phases))
    else:
        found += _one_by_one(step, forward.parts, backward.parts, phases)
    return StagePair((*found, *_departure(step, forward, first), *_departure(step, backward, second)))


@functools.lru_cache(maxsize=256)
def hides_exchanges(step: Step) -> bool:
    """Whether there are exchanges that another micro_batch may hide: not where passes gather parameters, or share gradients out."""
    is_plain = step.structure.zero_stage < 2 and not step.structure.in_backward
    return is_plain and any(is_exchange(task) for segment in step.segments.values() for task in segment.phases[Phase.F])


def is_exchange(task: Task) -> bool:
    """Whether tokens go to their experts in it, or come back."""
    return isinstance(task, Collective) and task.operation == "all_to_all" and view_of(task.group.axes) == EXPERT


def _arrival(step: Step, end: End, phase: Phase) -> Iterator[Run]:
    """The message of a phase, and what brings its parts together; for the forward's the rank has waited: its buffer stands for it."""
    if end.receives:
        own = step.segments[end.parts[0 if phase.step > 0 else -1][0]]
        for tasks, known in _receive(step, own.name, phase):
            yield _list(_standing_for(own.name, (*own.known, *known)), tasks, 1, is_copy=False)


@functools.lru_cache(maxsize=256)
def _receive(step: Step, first: str, phase: Phase) -> tuple[tuple[tuple[Phased, ...], tuple[Operand, ...]], ...]:
    """Lists of tasks, each with what may be there when it starts."""
    message, *others = receive_tasks(step, first, phase)
    assert isinstance(message, Receive)
    gathers = tuple((phase, task) for task in others)
    if phase.step < 0:
        return ((((phase, message), *gathers), ()),)
    there = ((phase, Hold("received", message.targets)),)
    return ((there, ()), (gathers, message.targets)) if gathers else ((there, ()),)


def _departure(step: Step, end: End, phase: Phase) -> Iterator[Run]:
    """The message that a phase hands on."""
    if end.sends:
        last = end.parts[-1 if phase.step > 0 else 0][0]
        yield _list(step.segments[last], ((phase, task) for task in send_tasks(step, last, phase)), 1, is_copy=False)


def _list(segment: Segment, tasks: Iterable[Phased], copies: Copies, *, is_copy: bool = True) -> Run:
    tasks = tuple(tasks)
    return Run(segment, tuple(task for _, task in tasks), copies, parts=tasks, is_copy=is_copy)


def _one_by_one(step: Step, forward: Parts, backward: Parts, phases: Sequence[Phase]) -> Iterator[Run]:
    """The passes of both one after another."""
    for phase in phases:
        parts = forward if phase.step > 0 else backward
        for run in pass_of(step, parts, phase, receives=False, sends=False, closes=False).lists:
            yield replace(run, parts=tuple((phase, task) for task in run.tasks))


def _side_by_side(step: Step, forward: Parts, backward: Parts, phases: tuple[Phase, ...]) -> Iterator[Run]:
    """The ends that come first by themselves, layer beside layer, the layers that are left, and the ends that come last."""
    begin, layers, end = _ends_and_layers(step, forward)
    last, others, head = _ends_and_layers(step, backward)
    ahead, behind = phases[:1], phases[1:]
    yield from _alone(step, begin, ahead)
    yield from _alone(step, head, behind)
    starts, stops = _spans(layers), _spans(others[::-1])
    for (name, _), (start, stop) in zip(layers, starts, strict=True):
        for (other, _), (begins, ends) in zip(others[::-1], stops, strict=True):
            both = np.maximum(np.minimum(stop, ends) - np.maximum(start, begins), 0)
            if np.any(both):
                yield replace(_both(step, name, other, phases), copies=both)
    yield from _alone(step, _beyond(others[::-1], starts), behind)
    yield from _alone(step, _beyond(layers, stops), ahead)
    yield from _alone(step, end, ahead)
    yield from _alone(step, last, behind)


def _ends_and_layers(step: Step, parts: Parts) -> tuple[Parts, Parts, Parts]:
    """The first segment of the model, layers, and the last segment, as far as they are there."""
    begins, ends = ([side(step.segments[name])[Phase.F] is None for name, _ in parts] for side in (_ENTERING, _LEAVING))
    found = [each for each, first, last in zip(parts, begins, ends, strict=True) if not first and not last]
    return parts[: sum(begins)], tuple(found), parts[len(parts) - sum(ends) :]


def _spans(parts: Parts) -> list[tuple[Copies, Copies]]:
    """First layer and end of each run of layers."""
    ends: list[Copies] = [sum((np.asarray(copies) for _, copies in parts[:place]), start=np.array(0)) for place in range(len(parts) + 1)]
    return [*pairwise(ends)]


def _beyond(parts: Parts, others: Sequence[tuple[Copies, Copies]]) -> Parts:
    """What is left of layers where there are fewer of others."""
    count = others[-1][1] if others else 0
    spans = zip(parts, _spans(parts), strict=True)
    return tuple((name, np.maximum(stop - np.maximum(start, count), 0)) for (name, _), (start, stop) in spans)


def _alone(step: Step, parts: Parts, phases: tuple[Phase, ...]) -> Iterator[Run]:
    """Segments by themselves, all phases of one before the next."""
    for name, copies in parts:
        if np.any(copies):
            yield replace(_one(step, name, phases), copies=copies)


@functools.lru_cache(maxsize=1024)
def _one(step: Step, name: str, phases: tuple[Phase, ...]) -> Run:
    return _list(step.segments[name], ((phase, task) for phase in phases for task in section(step, name, phase)), 1)


def _both(step: Step, name: str, other: str, phases: tuple[Phase, ...]) -> Run:
    """A layer forward, and another one backward."""
    ahead, behind = phases[0], phases[1:]
    sections = (section(step, name, ahead), *(section(step, other, phase) for phase in behind))
    return _woven(Same(step.segments[name]), Same(step.segments[other]), (*map(Same, sections),), phases)


@functools.lru_cache(maxsize=1024)
def _woven(one: Same, other: Same, sections: tuple[Same, ...], phases: tuple[Phase, ...]) -> Run:
    """The same of segments and their tasks, which Steps share."""
    ahead = phases[0]
    forward, backward, *weights = ([(phase, _beside(task)) for task in each.value] for phase, each in zip(phases, sections, strict=True))
    pieces = _with_weights(_pieces(backward), weights[0]) if weights else _pieces(backward)
    turns: Iterable[tuple[list[Phased], list[Phased]]] = zip_longest(pieces, _pieces(forward), fillvalue=[])
    tasks = [each for own, other_own in turns for each in (*own, *other_own)]
    streams = dict.fromkeys(stream for _, task in tasks if isinstance(task, Wait) for stream in task.streams)
    parts = [each for each in tasks if not isinstance(each[1], Wait)]
    parts.append((ahead, Wait("pair", streams=(*streams, EXCHANGE))))
    named = tuple(_as_forward(task) if phase is ahead else task for phase, task in parts)
    known = (*map(_other, one.value.known), *other.value.known)
    return Run(_standing_for(f"{one.value.name} and {other.value.name}", known), named, 1, parts=tuple(parts))


def _beside(task: Task) -> Task:
    """A task as it runs beside another micro_batch, for which compute goes on meanwhile."""
    return replace(task, stream=EXCHANGE) if isinstance(task, Collective) and is_exchange(task) else task


def _pieces(tasks: Sequence[Phased]) -> list[list[Phased]]:
    """Cut behind the exchanges that come first, one after another, and behind the last one: those between start as soon as they can."""
    places = [place for place, (_, task) in enumerate(tasks) if is_exchange(task)]
    if not places:
        return [[*tasks]]
    first = next(place + 1 for place in places if place + 1 not in places)
    return [[*tasks[start:stop]] for start, stop in pairwise(sorted({0, first, places[-1] + 1, len(tasks)}))]


def _with_weights(pieces: list[list[Phased]], weights: Sequence[Phased]) -> list[list[Phased]]:
    """Each task of weight gradients behind the first piece with which all that it reads is there; what dies where then follows anew.

    What an exchange brings is there behind the next piece, which hides it.
    """
    made = {
        name: min(place + is_exchange(task), len(pieces) - 1)
        for place, piece in enumerate(pieces)
        for _, task in piece
        for name in writes(task)
    }
    own: list[list[Phased]] = [[] for _ in pieces]
    place = 0
    for phase, task in weights:
        place = max([place, *(made.get(name, 0) for name in reads(task))])
        own[place].append((phase, task))
    found = [[*piece, *more] for piece, more in zip(pieces, own, strict=True)]
    every = [task for piece in found for _, task in piece]
    freed = {name for task in every for name in task.frees if isinstance(name, str)}
    bare = [replace(task, frees=tuple(each for each in task.frees if not isinstance(each, str))) for task in every]
    used = {name for task in bare for name in (*reads(task), *writes(task))}
    again = iter(with_frees(bare, used - freed, freed))
    return [[(phase, next(again)) for phase, _ in piece] for piece in found]


def _as_forward(task: Task) -> Task:
    """A task of the forward beside the backward, whose buffers have the same names."""
    frees = tuple(each + _FORWARD if isinstance(each, str) else each for each in task.frees)
    match task:
        case Compute():
            return replace(task, inputs=tuple(map(_other, task.inputs)), outputs=tuple(map(_other, task.outputs)), frees=frees)
        case Collective():
            return replace(task, source=_other(task.source), target=_other(task.target), frees=frees)
    return replace(task, frees=frees)


def _other(value: Any) -> Any:
    return replace(value, name=value.name + _FORWARD) if isinstance(value, Operand) else value


def _standing_for(name: str, known: tuple[Operand, ...]) -> Segment:
    """What a list is of where bytes are counted: these may be alive when it starts."""
    return Segment(name=name, phases={}, kept={Phase.F: known}, entering={}, leaving={}, weights=(), totals=())
