"""An action folded to one span: what nobody else can hold up runs ahead in plain integers, as if the action started at 0."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from parsim.simulator.program import StreamItem
from parsim.step.task import COMPUTE_STREAM, Send, Wait


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
