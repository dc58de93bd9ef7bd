"""What every Step must satisfy, whatever made it: reads exist, frees are of what lives, streams and groups are known.

Returned as sentences, an empty list for a sound Step.  Tests ask; nothing asks while a plan is priced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from parsim.parallel.dimensions import replica_axes
from parsim.schedules.phase import Phase
from parsim.step.step import Segment, Step
from parsim.step.task import COMPUTE_STREAM, HOST, RING, Bucket, Collective, Compute, HostCopy, Operand, Task, allocates, reads, writes


def faults(step: Step, phases: Sequence[Phase]) -> list[str]:
    """All that is wrong with a Step whose micro_batches run these phases in this order."""
    found = [fault for segment in step.segments.values() for fault in _segment_faults(segment, phases)]
    every = [(name, task) for name, tasks in _lists(step, phases) for task in tasks]
    return [*found, *(fault for name, task in every for fault in _task_faults(step, name, task))]


def _lists(step: Step, phases: Sequence[Phase]) -> Iterator[tuple[str, Iterable[Task]]]:
    for segment in step.segments.values():
        yield from ((f"{segment.name} {phase}", segment.phases[phase]) for phase in phases)
    yield "finish", step.finish


def _segment_faults(segment: Segment, phases: Sequence[Phase]) -> Iterator[str]:
    """Groups of weights, and buffers of one micro_batch from phase to phase: what comes to life, what dies, and what is kept."""
    lasting = {name for w in segment.weights for name in w.lasting} | {t.name for t in segment.totals}
    lasting |= {name for tasks in segment.phases.values() for task in tasks if getattr(task, "overwrite", False) for name in writes(task)}
    lasting |= {operand.name for each in segment.beside if each.use != "makes" for operand in (each.value, each.gradient) if operand}
    made = {each.gradient.name for each in segment.beside if each.use == "makes" and each.gradient}
    for weight in segment.weights:
        summed = "+".join(axis for axis in replica_axes() if axis in weight.gradient.partial)
        if weight.group.name != summed:
            yield f"{segment.name}: {weight.name} is replicated over {weight.group.name!r}, but its gradient is summed over {summed!r}"
    live: set[str] = set()
    for phase in phases:
        where = f"{segment.name} {phase}"
        live |= _name(segment.entering[phase]) | (made if phase in (Phase.B, Phase.I) else set())
        for index, task in enumerate(segment.phases[phase]):
            yield from (f"{where}: {task.name} reads {name}, which is not there" for name in set(reads(task)) - live - lasting)
            new = {value.name for value in allocates(task) if isinstance(value, Operand)} - lasting
            yield from (f"{where}: {task.name} makes {name} twice" for name in new & live)
            live |= new
            yield from (f"{where}: {task.name} frees {name}, which is not there" for name in set(_names(task)) - live)
            late = set(_names(task)) - set(reads(task)) - set(writes(task)) if index else ()  # the first frees what nobody uses
            yield from (f"{where}: {task.name} frees {name} late, which it does not use" for name in late)
            live -= set(_names(task))
        handed_on = _name(segment.leaving[phase])
        yield from (f"{where}: hands on {name}, which is not there" for name in handed_on - live)
        live -= handed_on
        kept = {operand.name for operand in segment.kept.get(phase, ())} if phase is not phases[-1] else set()
        if live != kept:
            yield f"{where}: keeps {sorted(live)}, but says {sorted(kept)}"


def _task_faults(step: Step, where: str, task: Task) -> Iterator[str]:
    if isinstance(task, Collective):
        unknown = set(task.group.axes) - set(step.structure.axes)
        yield from (f"{where}: {task.name} is over {axis}, which is off" for axis in sorted(unknown))
        known = {COMPUTE_STREAM, RING, task.group.name}
        if isinstance(task.source, Bucket) and step.structure.gradient_overlap:
            known.add(step.structure.sum_stream)
    else:
        known = {HOST} if isinstance(task, HostCopy) else {COMPUTE_STREAM, HOST} if isinstance(task, Compute) else {"", "launch"}
    if getattr(task, "stream", "") not in known:
        yield f"{where}: {task.name} runs on stream {getattr(task, 'stream', '')!r}, not on {' or '.join(sorted(known))}"
    on_host = isinstance(task, Compute) and task.stream == HOST
    if on_host and not any(isinstance(each, HostCopy) and each.to_host for each in step.finish):
        yield f"{where}: {task.name} runs on the host, to which nothing is copied"


def _name(operand: Operand | None) -> set[str]:
    return {operand.name} if operand else set()


def _names(task: Task) -> list[str]:
    return [each for each in task.frees if not isinstance(each, Bucket)]
