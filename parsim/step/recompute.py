"""Recomputation: which forward tasks run again in backward, so that their results need not be kept.

Four cases of one pass.  Gathered tensors are gathered again (Korthikanti et al. 2022, section 4.2.2: only the shard is
stored).  A tagged region runs again just before its first use (selective, section 5).  `full` runs the whole segment again,
its last collective included, as checkpointing does (Narayanan et al. 2021, Eq. 3 counts it so).  `chosen` runs single ops again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from parsim.model.dims import FREE
from parsim.step.task import COMPUTE_STREAM, Collective, Compute, Operand, Task, Value, allocates, reads, writes

AGAIN = "@again"


def regather(forward: Sequence[Task], backward: Sequence[Task], beside: Sequence[str]) -> list[Task]:
    """Backward with every gathered tensor of forward gathered once more, before the GEMM that gives its gradient.

    Over an axis of `beside` the gathering runs beside that GEMM, and the weight gradients that need it wait (Megatron-LM,
    mpu/layers.py).  Tokens that experts gathered are kept (Megatron Core, transformer/moe/token_dispatcher.py).
    """
    tasks = list(backward)
    for task in forward:
        if isinstance(task, Collective) and task.operation == "all_gather" and not _is_of_tokens(task.target):
            again = replace(task, stream=task.group.name if task.group.name in beside else COMPUTE_STREAM)
            tasks = _again([again], tasks, lambda _: True, before=f"d_{task.target.name}")
    return tasks


def _is_of_tokens(value: Value) -> bool:
    return isinstance(value, Operand) and not set(FREE).isdisjoint(value.dims)


def selective(forward: Sequence[Task], backward: Sequence[Task], tag: str) -> list[Task]:
    """Backward with the tagged region run again; the region's own gradients use the second results."""
    region = [task for task in forward if tag_of(task) == tag]
    return _again(region, list(backward), lambda task: tag_of(task) == tag) if region else list(backward)


def chosen(forward: Sequence[Task], backward: Sequence[Task], names: Sequence[str]) -> list[Task]:
    """Backward with the ops of these names or tags run again, neighbours and those that share a buffer before their first use."""
    runs: list[list[Task]] = []
    run_of: dict[str, list[Task]] = {}  # by buffer
    for task, before in zip(forward, (None, *forward), strict=False):
        shared = next((run_of[name] for name in writes(task) if name in run_of), None)
        settles = isinstance(task, Collective) and shared is not None  # an all_reduce in place goes along
        if not settles and not (isinstance(task, Compute) and {task.name, task.tag} & set(names)):
            continue
        if shared is None and (not runs or runs[-1][-1] is not before):
            runs.append([])
        run = shared or runs[-1]
        run.append(task)
        run_of.update(dict.fromkeys(writes(task), run))
    tasks = list(backward)
    for run in reversed(runs):  # the later first: it may need what an earlier one makes again
        tasks = _again(run, tasks, lambda _: True)
    return tasks


def full(forward: Sequence[Task], backward: Sequence[Task], early_stop: bool) -> list[Task]:
    """The whole segment again, then its backward; with `early_stop` without the tail that backward does not need."""
    again = list(forward)
    needed = {name for task in backward for name in reads(task)}
    while early_stop and again and not needed & set(writes(again[-1])):
        again.pop()
    return [*map(_mark, again), *backward]


def _again(region: list[Task], backward: list[Task], uses_again: Callable[[Task], bool], before: str = "") -> list[Task]:
    """`region` re-issued before the first task that `uses_again` and reads a result; such tasks read the second results.

    It is issued earlier where a task before that writes `before`.
    """
    produced = {o.name for task in region for o in allocates(task)}
    users = [i for i, task in enumerate(backward) if uses_again(task) and produced & set(reads(task))]
    if not users:
        return backward
    first = next((i for i, task in enumerate(backward[: users[0]]) if before in writes(task)), users[0])
    renamed = [_rename(task, produced) if i in users else task for i, task in enumerate(backward)]
    return [*renamed[:first], *(_mark(_rename(task, produced)) for task in region), *renamed[first:]]


def tag_of(task: Task) -> str:
    """The region that a task belongs to."""
    return task.tag if isinstance(task, Compute | Collective) else ""


def _mark(task: Task) -> Task:
    assert isinstance(task, Compute | Collective)
    return replace(task, again=True)


def _rename(task: Task, names: set[str]) -> Task:
    def other(operand: Value) -> Value:
        return replace(operand, name=operand.name + AGAIN) if isinstance(operand, Operand) and operand.name in names else operand

    if isinstance(task, Collective):
        return replace(task, source=other(task.source), target=other(task.target))
    assert isinstance(task, Compute)
    return replace(task, inputs=tuple(map(other, task.inputs)), outputs=tuple(map(other, task.outputs)))
