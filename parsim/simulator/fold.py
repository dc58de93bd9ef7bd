"""The items of streams, and an action folded to one span: what nobody else can hold up runs ahead in plain integers, as if from 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from parsim.step.task import COMPUTE_STREAM, Compute, Hold, Launches, Send, Task, Wait, reads, writes


class StreamItem(NamedTuple):
    """What a stream does at a time: one task, or several kernels that follow one another on the compute stream."""

    task: Task  # the first
    stream: str
    ps: int
    after: tuple[str, ...]  # the buffers made on other streams that it waits for
    makes: tuple[str, ...]  # the buffers that others may wait for


class Beside(NamedTuple):
    """What an action leaves running on another stream."""

    stream: str
    ready_ps: int  # when it can start, but for what is before it on its stream, from the start of the action
    ps: int


class FoldedAction(NamedTuple):
    """One action: picoseconds of its compute from the arrival of its message on, and what it leaves running."""

    ps: int
    beside: tuple[Beside, ...]
    message: Beside | None  # the last that it does


def items(tasks: Iterable[Task], ps_of: Callable[[Task], int]) -> Iterator[StreamItem]:
    """A task an item, in issue order; what takes no time and waits for nothing is left out."""
    beside: set[str] = set()
    for task in tasks:
        stream, ps = getattr(task, "stream", COMPUTE_STREAM), ps_of(task)  # what only waits is compute's
        if isinstance(task, Hold) or (isinstance(task, Launches) and not ps):
            continue
        after = tuple(
            name for name in reads(task) if name in beside or isinstance(task, Wait)
        )  # which waits for what other lists made, too
        makes = writes(task) if stream != COMPUTE_STREAM else ()
        beside |= set(makes)
        yield StreamItem(task, stream, ps, after, makes)


def fold_kernels(each: Iterable[StreamItem]) -> tuple[StreamItem, ...]:
    """The same, a run of kernels that wait for nobody in between as one item."""
    found: list[StreamItem] = []
    follows = False  # whether the item before is a kernel, which nobody else can hold up
    for item in each:
        is_kernel = item.stream == COMPUTE_STREAM and isinstance(item.task, Compute)
        if follows and is_kernel and not item.after:
            found[-1] = found[-1]._replace(ps=found[-1].ps + item.ps)
        else:
            found.append(item)
        follows = is_kernel
    return tuple(found)


def fold(items: Iterable[StreamItem]) -> FoldedAction:
    """The items of an action, walked once.

    A pass waits for nothing that an earlier one left running: what is beside it then changes no time of its own.
    """
    now, message = 0, None
    ends: dict[str, int] = {}
    ready: dict[str, int] = {}
    left: dict[str, list[Beside]] = {}
    for task, stream, ps, after, makes in items:
        start = max((now, *(ready[name] for name in after if name in ready)))
        if isinstance(task, Send):
            message = Beside(stream, start, ps)
        elif stream != COMPUTE_STREAM:
            left.setdefault(stream, []).append(Beside(stream, start, ps))
            ends[stream] = max(start, ends.get(stream, 0)) + ps
            ready.update(dict.fromkeys(makes, ends[stream]))
        elif isinstance(task, Wait):
            now = max((start, *(ends.get(each, 0) for each in task.streams)))
            left = {each: running for each, running in left.items() if each not in task.streams}
        else:
            now = start + ps
    return FoldedAction(now, tuple(each for running in left.values() for each in running), message)
