"""What collectives and the compute beside them cost one another: while both run, each takes longer, by as much.

From where a collective is issued until compute waits for it, the two streams take max(compute + a x beside, beside + a x compute), where
`a` is the accelerator's for the operation: nothing is free, and nothing takes longer than one after the other.  A collective meets the rest
of its list or, issued at its end, the next one; what it takes beyond that goes on for free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from msgspec import Struct

from parsim.cost.sizes import Ints
from parsim.step.task import COMPUTE_STREAM, Collective, Compute, Task, Wait, reads, runs_beside


class _Running(Struct):
    """A collective that compute has not waited for; `place`: of the one that takes longer by what it loses, if the list has one."""

    task: Collective
    place: int | None
    left: Ints  # picoseconds that no compute issued since has covered


def together_ps(
    tasks: Sequence[Task], before: Sequence[Collective], ps_of: Callable[[Task], Ints], shares: Mapping[str, float]
) -> tuple[Ints, ...]:
    """Picoseconds of each task of a list.

    Args:
        tasks: of the list, in order of issue.
        before: what earlier lists have left running; a stream that goes on with it takes longer from its next collective on.
        ps_of: the picoseconds of a task by itself.
        shares: `a` by operation.
    """
    alone = [*map(ps_of, tasks)]
    found = [*alone]
    beside = {place: task for place, task in enumerate(tasks) if runs_beside(task)}
    if not shares or not (beside or before):
        return tuple(found)
    first = {task.stream: place for place, task in reversed(beside.items())}
    running = [_Running(task, first.get(task.stream), ps_of(task)) for task in before]
    for place, task in enumerate(tasks):
        if place in beside:
            running.append(_Running(beside[place], place, found[place]))
        elif getattr(task, "stream", COMPUTE_STREAM) == COMPUTE_STREAM:
            running = _not_awaited(running, task)
            for each, both in _overlap(running, alone[place]):
                if isinstance(task, Compute) and (share := shares.get(each.task.operation)):
                    longer = np.rint(share * both).astype(np.int64)
                    for own in (place, each.place):
                        if own is not None:
                            found[own] = found[own] + longer
    return tuple(found)


def _not_awaited(running: Sequence[_Running], task: Task) -> list[_Running]:
    """What still runs when compute comes to a task: not the streams that it waits for, nor what it reads and what was before that."""
    names, ended = reads(task), set(task.streams if isinstance(task, Wait) else ())
    kept: list[_Running] = []
    for each in reversed(running):
        if each.task.target.name in names:
            ended.add(each.task.stream)
        if each.task.stream not in ended:
            kept.append(each)
    return kept[::-1]


def _overlap(running: Sequence[_Running], ps: Ints) -> Iterator[tuple[_Running, Ints]]:
    """What goes on while compute is busy for so long, one after the other on each stream, and for how long."""
    spare: dict[str, Ints] = {}
    for each in running:
        both = np.minimum(spare.get(each.task.stream, ps), each.left)
        spare[each.task.stream] = spare.get(each.task.stream, ps) - both
        each.left = each.left - both
        yield each, both
