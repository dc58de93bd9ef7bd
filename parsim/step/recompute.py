"""Recomputation: which forward tasks run again in backward, so that their results need not be kept.

Three cases.  A region of a layer is checkpointed: it runs again as a whole, its collectives too, just before its own gradients, and what it
hands on stays (selective recomputation, Korthikanti et al. 2022, section 5).  Single ops run again before the first use of what they make,
which is let go too; gathered tensors are gathered again in the same way (section 4.2.2: only the shard is stored).  `full` runs the whole
segment again, its last collective included, as checkpointing does (Narayanan et al. 2021, Eq. 3 counts it so).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeGuard

from msgspec.structs import replace

from parsim.model.dims import FREE
from parsim.step.task import COMPUTE_STREAM, Collective, Compute, Operand, Task, Value, allocates, reads, writes

AGAIN: Final = "@again"
CASTS: Final = "quantise"  # a kernel, by whose name all casts to narrow numbers run again


def checkpoint(forward: Sequence[Task], backward: Sequence[Task], tag: str, *, keeps: bool) -> list[Task]:
    """Backward with the tagged region run again; the region's own gradients use the second results.

    It gathers for itself: the gradients gather once more (Megatron Core: a checkpointed module runs its forward, which stores the shard),
    unless the stack `keeps` what is gathered.
    """
    region = [task for task in forward if tag_of(task) == tag]
    gathered = {task.target.name for task in region if not keeps and _regathers(task)}
    return _again([_rename(task, gathered, AGAIN) for task in region], list(backward), of=tag)


def before_use(
    forward: Sequence[Task], backward: Sequence[Task], names: Sequence[str], beside: Sequence[str], *, keeps: bool
) -> list[Task]:
    """Backward with the ops of these names or tags run again, and every gathered tensor of forward gathered again, before their first use.

    Not the latter where the stack `keeps` them.  One name, `quantise`, is of all casts.

    Over an axis of `beside` a gathering runs beside the GEMM that gives the gradient of what it brings, and the weight gradients that need
    it wait (Megatron-LM, mpu/layers.py).
    """
    tasks = list(backward)
    for run in reversed(_runs(forward, names, keeps=keeps)):  # the later first: it may need what an earlier one makes again
        first = run[0]
        if _regathers(first):
            stream = first.group.name if first.group.name in beside else COMPUTE_STREAM
            tasks = _again([replace(first, stream=stream)], tasks, before=f"d_{first.target.name}")
        else:
            tasks = _again(run, tasks)
    return tasks


def full(forward: Sequence[Task], backward: Sequence[Task], early_stop: bool) -> list[Task]:
    """The whole segment again, then its backward; with `early_stop` without the tail that backward does not need."""
    if not backward:
        return []
    again = list(forward)
    needed = {name for task in backward for name in reads(task)}
    while early_stop and again and not needed & set(writes(again[-1])):
        again.pop()
    return [*map(_mark, again), *backward]


def _runs(forward: Sequence[Task], names: Sequence[str], *, keeps: bool) -> list[list[Task]]:
    """What runs again together, in the order in which it ends: neighbours, all that writes one buffer, and each gathering by itself."""
    chosen = _chosen(forward, names)
    runs: list[list[int]] = []
    run_of: dict[str, list[int]] = {}  # by buffer
    for place in chosen:
        run = next((run_of[name] for name in writes(forward[place]) if name in run_of), None)
        if run is None:
            if not runs or runs[-1][-1] != place - 1:
                runs.append([])
            run = runs[-1]
        run.append(place)
        run_of.update(dict.fromkeys(writes(forward[place]), run))
    alone = [[place] for place, task in enumerate(forward) if not keeps and _regathers(task)]
    return [[forward[place] for place in run] for run in sorted((*runs, *alone), key=lambda run: run[-1])]


def _chosen(forward: Sequence[Task], names: Sequence[str]) -> list[int]:
    """Places of the ops of these names or tags, of all that writes their buffers, and of what makes the source of such a collective.

    The largest element that a cast goes by is kept.
    Source: pytorch/torchtitan, torchtitan/distributed/activation_checkpoint.py (_get_default_save_ops): aten.max, and no cast.
    """
    casts, every = {CASTS}.intersection(names), [(place, task) for place, task in enumerate(forward) if isinstance(task, Compute)]
    found = {place for place, task in every if {task.name, task.tag} & set(names) or task.kernel in casts}
    while True:
        tasks = [forward[place] for place in found]
        buffers = {name for task in tasks for name in (*writes(task), *([task.source.name] if isinstance(task, Collective) else []))}
        more = {place for place, task in enumerate(forward) if buffers & set(writes(task)) and not _regathers(task)}
        if more <= found:
            return sorted(found)
        found |= more


def _regathers(task: Task) -> TypeGuard[Collective]:
    """Whether backward gathers it again.

    Tokens that experts gathered are kept (Megatron Core, transformer/moe/token_dispatcher.py), and the ranks of adapters.
    """
    if not isinstance(task, Collective) or task.operation != "all_gather":
        return False
    return not isinstance(task.target, Operand) or {*FREE, "b"}.isdisjoint(task.target.dims)


def _again(region: list[Task], backward: list[Task], of: str = "", before: str = "") -> list[Task]:
    """`region` re-issued before the first task that reads a result of it; such tasks read the second results.

    Only tasks tagged `of` count, where it is given; the region is issued earlier where a task before that writes `before`.
    """
    produced = {o.name for task in region for o in allocates(task)}
    users = [i for i, task in enumerate(backward) if of in ("", tag_of(task)) and produced & set(reads(task))]
    if not users:
        return backward
    suffix, taken = AGAIN, {name for task in backward for name in writes(task)}
    while any(name + suffix in taken for name in produced):  # of what runs a third time
        suffix += AGAIN
    first = next((i for i, task in enumerate(backward[: users[0]]) if before in writes(task)), users[0])
    renamed = [_rename(task, produced, suffix) if i in users else task for i, task in enumerate(backward)]
    return [*renamed[:first], *(_mark(_rename(task, produced, suffix)) for task in region), *renamed[first:]]


def tag_of(task: Task) -> str:
    """The region that a task belongs to."""
    return task.tag if isinstance(task, Compute | Collective) else ""


def _mark(task: Task) -> Task:
    assert isinstance(task, Compute | Collective)
    return replace(task, again=True)


def _rename(task: Task, names: set[str], suffix: str) -> Task:
    def other(operand: Value) -> Value:
        return replace(operand, name=operand.name + suffix) if isinstance(operand, Operand) and operand.name in names else operand

    if isinstance(task, Collective):
        return replace(task, source=other(task.source), target=other(task.target))
    assert isinstance(task, Compute)
    return replace(task, inputs=tuple(map(other, task.inputs)), outputs=tuple(map(other, task.outputs)))
