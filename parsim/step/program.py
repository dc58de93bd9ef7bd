"""What a stage does in a phase: messages, parameters that come and go, the tasks of its segments, and sums of gradients beside them.

The one place that decides what is sent, gathered or summed, and when; estimate, simulate and execute walk what it returns.
Source of prefetch and of the wait at the end of a pass: Zhao et al. 2023 (arXiv:2304.11277), section 3.3.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.model.dims import GRADIENT
from parsim.parallel.group import Group
from parsim.parallel.sharding import Sharding, reshard
from parsim.schedules.phase import Phase
from parsim.step.finish import PARTS, Placed, by_group, cast_shards, finish_segment, replica_sums, sum_name, to_gather, whole_gradients
from parsim.step.recompute import tag_of
from parsim.step.stages import Copies, Parts
from parsim.step.step import Segment, Step
from parsim.step.task import (
    COMPUTE_STREAM,
    LAUNCH,
    Bucket,
    Collective,
    Compute,
    Hold,
    Launches,
    Operand,
    Receive,
    Send,
    Task,
    Wait,
    calls_of,
    calls_of_an_expert,
    experts_of,
    reads,
    runs_beside,
)

TaskList = tuple[Task, ...]
Running = tuple[Collective, ...]
# Host calls around what runs again, in which the states of random numbers are kept, set and set back.  Source: parsim fit, one number, by
# NVIDIA-NeMo/Megatron-Bridge@067f987d, skills/nemo-mbridge-perf-activation-recompute/SKILL.md: one kernel that runs again (moe_act) makes a
# step that the host bounds 0.35 ms a layer longer, five launches; NVIDIA/Megatron-LM, megatron/core/tensor_parallel/random.py.
CHECKPOINT_CALLS: Final = 4
SHARD: Final = "~shard"  # behind the name of a buffer that crosses a stage boundary in shards


class Run(Struct, frozen=True):
    """Copies of a segment that follow one another, and the tasks of each."""

    segment: Segment
    tasks: tuple[Task, ...]
    copies: Copies
    before: tuple[Collective, ...] = ()  # what the list before each has left running
    parts: tuple[tuple[Phase, Task], ...] = ()  # of a pair: the phase of each task, and the task as it names what it uses
    is_copy: bool = True  # of a segment; False for what surrounds them


class Pass(Struct, frozen=True):
    """One phase of one micro_batch on one stage."""

    prologue: tuple[Task, ...]
    runs: tuple[Run, ...]  # in the order in which they run
    epilogue: tuple[Task, ...]

    @property
    def lists(self) -> tuple[Run, ...]:
        """All its tasks in issue order: what surrounds the runs, if anything does, counts to the segment beside it."""
        first, last = self.runs[0].segment, self.runs[-1].segment
        before, after = Run(first, self.prologue, 1, is_copy=False), Run(last, self.epilogue, 1, is_copy=False)
        return tuple(run for run in (before, *self.runs, after) if run.tasks)


def pass_of(step: Step, parts: Parts, phase: Phase, *, receives: bool, sends: bool, closes: bool) -> Pass:
    """A phase of a stage.

    Args:
        step: the Step.
        parts: segments of the stage in forward order, with their copies, of which each has at least one.
        phase: which.
        receives: whether what it starts from comes from another rank.
        sends: whether what it hands on goes to another rank.
        closes: whether it completes the stage's weight gradients of the step.
    """
    order = parts if phase.step > 0 else parts[::-1]
    ahead = _gathers_ahead(step, phase)
    prologue = receive_tasks(step, order[0][0], phase) if receives else ()
    if ahead:
        prologue = (*prologue, *_gathers_of(step, order[0][0], phase, ahead=True))
    runs, before = list[Run](), tuple[Collective, ...]()
    for index, (name, copies) in enumerate(order):
        following = order[index + 1][0] if index + 1 < len(order) and ahead else ""
        own = left_running(step, name, phase, closes=closes)
        inner = section(step, name, phase, following=name if ahead else "", closes=closes)
        last = section(step, name, phase, following=following, closes=closes)
        runs += (Run(step.segments[name], *each) for each in _lists(inner, last, copies, before, own) if _some(each[1]))
        before = own
    sums = step.structure.gradient_overlap and step.structure.scatters
    epilogue: tuple[Task, ...] = (Wait("sums", streams=(step.structure.sum_stream,)),) if sums else ()
    epilogue = (*epilogue, *_release(step, order[-1][0], phase))
    return Pass(prologue, tuple(runs), (*epilogue, *(send_tasks(step, order[-1][0], phase) if sends else ())))


def _some(copies: Copies) -> bool:
    return bool(copies.any() if isinstance(copies, np.ndarray) else copies)


def _lists(inner: TaskList, last: TaskList, copies: Copies, before: Running, own: Running) -> Iterator[tuple[TaskList, Copies, Running]]:
    """The lists of copies of a segment, of which the last may differ; `before`: what runs beside the first, and `own` beside the others."""
    rest, more = copies - 1, (copies > 1) * 1
    if before is own:
        yield from ((last, copies, own),) if inner is last else ((inner, rest, own), (last, copies - rest, own))
    elif inner is last:
        yield from ((last, copies - rest, before), (last, rest, own))
    else:
        yield from ((inner, more, before), (inner, rest - more, own), (last, more, own), (last, 1 - more, before))


@functools.lru_cache(maxsize=1024)
def left_running(step: Step, name: str, phase: Phase, *, closes: bool) -> Running:
    """The collectives that a copy of a segment leaves running beside what comes next."""
    tasks = section(step, name, phase, closes=closes)
    end = max(place for place, task in enumerate(tasks) if isinstance(task, Wait))  # of the segment's own tasks
    return tuple(filter(runs_beside, tasks[end:]))


@functools.lru_cache(maxsize=256)
def receive_tasks(step: Step, first: str, phase: Phase) -> tuple[Task, ...]:
    """What brings boundary tensors to the first segment that a stage runs: a message, and the gathering of what comes in shards."""
    entering = step.segments[first].entering[phase]
    assert entering is not None
    every = (entering, *_at_boundary(step, first, phase, below=phase.step > 0))
    wires = tuple(_on_wire(step, wanted) for wanted in every)
    tasks: list[Task] = [Receive("receive", wires)]
    for wire, wanted in zip(wires, every, strict=True):
        for move in reshard(wire.sharding, wanted.sharding) if wire is not wanted else ():
            tasks.append(Collective("gather", move.operation, Group((move.axis,)), wire, wanted, move.dim, frees=(wire.name,)))
    return tuple(tasks)


@functools.lru_cache(maxsize=1024)
def send_tasks(step: Step, last: str, phase: Phase) -> tuple[Task, ...]:
    """What takes the result of a stage's last segment to the next stage, with what passes by, or with its gradient."""
    source = step.segments[last].leaving[phase]
    assert source is not None
    every = (source, *_at_boundary(step, last, phase, below=phase.step < 0))
    frees = tuple(each.name for each in (every if phase.step < 0 else (source,)))  # what passes by stays for the stage's backward
    return (Send("send", every, tuple(_on_wire(step, each) for each in every), send_stream(phase), frees=frees),)


def _at_boundary(step: Step, name: str, phase: Phase, *, below: bool) -> tuple[Operand, ...]:
    """What passes the boundary of a stage before this segment (`below`) or behind it beside the stream, or going back its gradient."""
    uses = ("reads", "follows") if below else ("makes", "reads")
    passing = (each for each in step.segments[name].beside if each.use in uses)
    return tuple(operand for each in passing if (operand := each.value if phase.step > 0 else each.gradient))


def _release(step: Step, first: str, phase: Phase) -> tuple[Task, ...]:
    """What forgets what came to a stage to pass by, behind the last phase that reads it: weight gradients do."""
    passing = _at_boundary(step, first, Phase.F, below=True) if phase.accumulates else ()
    return (Hold("release_passing", frees=tuple(each.name for each in passing)),) if passing else ()


def send_stream(phase: Phase) -> str:
    """The stream of the messages of a phase: one for each direction."""
    return f"send_{Phase.F if phase.step > 0 else Phase.B}"


def _on_wire(step: Step, operand: Operand) -> Operand:
    """A boundary tensor as a rank sends it: whole, or its part of a width that the tensor-parallel ranks all hold.

    Megatron-LM cuts the flattened tensor, whatever its sequence (core/tensor_parallel/utils.py, split_tensor_into_1d_equal_chunks).
    """
    if not step.structure.boundary_axes or "D" not in operand.dims:
        return operand
    axes = tuple(step.structure.boundary_axes if dim == "D" else own for dim, own in zip(operand.dims, operand.sharding.axes, strict=True))
    return Operand(operand.name + SHARD, Sharding(operand.dims, axes), operand.dtype)


def _gathers_ahead(step: Step, phase: Phase) -> bool:
    """Whether the parameters of the next segment are gathered while one runs."""
    return step.structure.gradient_overlap and _gathers(step, phase)


def _gathers(step: Step, phase: Phase) -> bool:
    return step.structure.zero_stage >= 3 and (step.structure.reshard or phase is Phase.F)


def _releases(step: Step, phase: Phase) -> bool:
    """Whether gathered parameters are let go after this phase of their segment."""
    return step.structure.zero_stage >= 3 and (step.structure.reshard or phase is not Phase.F)


class Same(Struct, frozen=True, eq=False):
    """A value that equals itself only, so that caches look at none of its parts."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@functools.lru_cache(maxsize=4096)
def section(step: Step, name: str, phase: Phase, *, following: str = "", closes: bool = False) -> tuple[Task, ...]:
    """The tasks of one copy of a segment; `following`: the segment whose parameters are gathered meanwhile, "" for none.

    The same object for all Steps that share the segment, where nothing more comes before and behind its own tasks.
    """
    segment, structure = step.segments[name], step.structure
    waits = structure.waits_for_loads, structure.blocks_launches
    own = _with_surroundings(Same(segment.phases[phase]), phase, structure.fusions, waits)
    return tuple(_ahead_of(step, segment, phase, following)) + own + tuple(_behind(step, segment, phase, closes))


def _ahead_of(step: Step, segment: Segment, phase: Phase, following: str) -> Iterator[Task]:
    if _gathers_ahead(step, phase):
        yield Wait("parameters", buffers=("parameters", *(("quantised",) if step.structure.gathers_narrow else ())))
        if following:
            yield from _gathers_of(step, following, phase, ahead=True)
    elif _gathers(step, phase):
        yield from _gathers_of(step, segment.name, phase, ahead=False)
    structure = step.structure
    in_passes = phase.accumulates and (structure.scatters or not structure.gradients_last)
    if in_passes and (born := _new_gradients(step, segment)):
        yield Hold("zero_gradients", (whole_gradients(structure, born),))


def _behind(step: Step, segment: Segment, phase: Phase, closes: bool) -> Iterator[Task]:
    structure = step.structure
    if phase.accumulates and structure.scatters:
        if structure.frees_gradients and (own := tuple(_to_scatter(step, segment))):
            yield Hold("own_gradients", (Bucket("gradients", "shard", GRADIENT, own),))
        yield from _scatters(step, segment)
    if closes and phase.accumulates and structure.replica_stream:
        placed = ((segment.name, weight) for weight in segment.trained_weights)
        yield from replica_sums(structure, f"{segment.name}_gradients", placed, add=False, stream=structure.replica_stream)
    if phase.accumulates and structure.in_backward:
        yield from finish_segment(structure, segment)
    if _releases(step, phase):
        groups = _weights_to_gather(step, segment, phase if structure.reshard else Phase.F)  # what stayed has no backward, perhaps
        yield Hold("release_parameters", frees=tuple(bucket for _, each in groups for bucket in to_gather(structure, each, "padded")))


@functools.lru_cache(maxsize=4096)
def _around(launches: tuple[Launches, ...], beside: tuple[str, ...]) -> tuple[tuple[Launches, ...], Wait]:
    """What stands before and behind the tasks of a segment: the same objects for all Steps, which are priced once."""
    return launches, Wait("segment", streams=(*beside, LAUNCH))


@functools.lru_cache(maxsize=4096)
def _with_surroundings(same: Same, phase: Phase, fusions: tuple[str, ...], waits: tuple[bool, bool]) -> TaskList:
    """The tasks of a segment between what the host launches for them and the wait for what they left on other streams."""
    tasks: TaskList = same.value
    beside = dict.fromkeys(task.stream for task in tasks if runs_beside(task))
    launches, wait = _around(_launches(tasks, phase, fusions, *waits), tuple(beside))
    return *launches, *tasks, wait


def _launches(tasks: TaskList, phase: Phase, fusions: tuple[str, ...], waits_for_loads: bool, blocks: bool) -> tuple[Launches, ...]:
    """What the host launches for the tasks of a segment.

    Where it has to know how many tokens each expert has, it waits for the device, which then waits for what it launches; a backward has
    the loads from its forward, and asks for those of what runs again alone.  Where each launch blocks, the device waits for all: what of a
    kernel is the host's comes before it.
    """
    launched = sum(calls_of(task, fusions) for task in tasks) + CHECKPOINT_CALLS * _num_regions_again(tasks)
    experts, of_experts = [task for task in tasks if experts_of(task) is not None], sum(map(calls_of_an_expert, tasks))
    stream = COMPUTE_STREAM if blocks else LAUNCH
    if not experts:
        return (Launches("launches", launched, stream=stream),)
    own = experts_of(experts[0])
    if not waits_for_loads:
        return (Launches("launches", launched - len(experts), 0, of_experts, own, stream=stream),)
    between = sum(calls_of(task, fusions) for task in _between_moves(tasks) if experts_of(task) is None)
    whole = Launches("launches", launched - len(experts) - between, between, of_experts, own, stream=stream)
    if phase is Phase.F:
        return (replace(whole, asks=True, stream=COMPUTE_STREAM),)
    moved_again = _moves_again(tuple(task for task in tasks if isinstance(task, Compute | Collective) and task.again))
    if not any(experts_of(task) is not None for task in moved_again):
        return (whole,)
    asking = _of_loads(moved_again, fusions, own)
    rest = replace(whole, of_loads=whole.of_loads - asking.of_loads, of_experts=of_experts - asking.of_experts)
    return asking, rest


def _of_loads(moved: TaskList, fusions: tuple[str, ...], own: tuple[str, ...] | None) -> Launches:
    """What the host can launch no sooner than it has the loads of what moves again."""
    of_loads = sum(calls_of(task, fusions) for task in moved if experts_of(task) is None)
    return Launches("launches", 0, of_loads, sum(map(calls_of_an_expert, moved)), own, True, COMPUTE_STREAM)


def _moves_again(again: TaskList) -> TaskList:
    """Of what runs again, from what moves tokens to experts as far as it follows their loads: to the move back, or where it stops early."""
    between = _between_moves(again)
    if len(between) != 1:
        return between
    start = again.index(between[0])
    return again[start : 1 + max(place for place, task in enumerate(again) if tag_of(task) == tag_of(between[0]))]


def _num_regions_again(tasks: TaskList) -> int:
    """How often something runs again, by itself or with its neighbours."""
    again = [False, *(task.again for task in tasks if isinstance(task, Compute) and not task.fused)]
    return sum(now and not before for before, now in pairwise(again))


def _between_moves(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    """From the first to the last that moves tokens to experts or back: all whose sizes follow the loads."""
    moves = [index for index, task in enumerate(tasks) if isinstance(task, Compute) and task.kernel in ("permute", "unpermute")]
    return tasks[moves[0] : moves[-1] + 1] if moves else ()


def _is_whole(step: Step) -> bool:
    """Whether a pass goes through all segments, so that the gradient of a tied weight waits in it for its owner, to be shared out once."""
    return "pp" not in step.structure.axes


def _new_gradients(step: Step, segment: Segment) -> tuple[Placed, ...]:
    """The gradients that come to life with the backward of a segment: not those of weights that a later segment has added to.

    Under ZeRO 2 those that nobody else holds live through the step.
    """
    every = [*step.segments.values()]
    behind = every[every.index(segment) + 1 :] if _is_whole(step) else []
    added = {(weight.owner, weight.name) for each in behind for weight in each.weights}
    new = [weight for weight in segment.weights if (weight.owner, weight.name) not in added]
    return tuple((segment.name, each) for each in new if each.trained and (each.group.axes or not step.structure.gradients_last))


def _scatters(step: Step, segment: Segment) -> Iterator[Collective]:
    """The gradients that are complete behind the backward of a segment, shared out (ZeRO 2)."""
    stream = step.structure.sum_stream if step.structure.gradient_overlap else COMPUTE_STREAM
    return replica_sums(step.structure, f"{segment.name}_gradients", _to_scatter(step, segment), add=True, stream=stream)


def _to_scatter(step: Step, segment: Segment) -> Iterator[Placed]:
    """The weights whose gradients are shared out behind the backward of a segment."""
    weights = segment.own_weights if _is_whole(step) else segment.weights
    return ((segment.name, weight) for weight in weights if weight.group.axes and weight.trained)


def _gathers_of(step: Step, name: str, phase: Phase, *, ahead: bool) -> Iterator[Task]:
    """The parameters of a segment brought together (ZeRO 3); of the one that runs next, beside compute."""
    stream = step.structure.sum_stream if ahead else COMPUTE_STREAM
    for group, own in _weights_to_gather(step, step.segments[name], phase):
        for pair in zip(*(to_gather(step.structure, own, part) for part in PARTS), strict=True):
            shards, whole = (replace(each, ahead=ahead) for each in pair)
            called = sum_name(f"{name}_{whole.role}", group, step.structure)
            casts = step.structure.casts_shards and whole.role == "quantised"
            if casts:
                yield from cast_shards(step.structure, shards)
            frees = (shards,) if casts else ()
            yield Collective(called, "all_gather", group, shards, whole, stream=stream, frees=frees)


def _weights_to_gather(step: Step, segment: Segment, phase: Phase) -> tuple[tuple[Group, tuple[Placed, ...]], ...]:
    """What a phase gathers: all that the segment uses, but not again a tied weight that stayed; of W what its tasks look at, and
    nothing where there is no backward."""
    used = segment.weights if step.structure.reshard else segment.own_weights
    if phase is Phase.W or not segment.phases[phase]:
        seen = {name for task in segment.phases[phase] for name in reads(task)}
        used = tuple(weight for weight in used if seen.intersection(weight.lasting))
    return by_group((segment.name, weight) for weight in used)
