"""When buffers die: each task frees what it is the last to use.  A buffer that backward reads before making it is saved."""

from __future__ import annotations

from collections.abc import Sequence, Set

from parsim.step.task import Compute, Operand, Task, free_after, reads, writes


def saved_for(backward: Sequence[Task], not_saved: Set[str]) -> set[str]:
    """Buffers that must be alive when backward starts, without weights, gradients and totals."""
    made: set[str] = set()
    needed: set[str] = set()
    for task in backward:
        needed |= set(reads(task)) - made
        made |= set(writes(task))
    return needed - not_saved


def with_frees(tasks: Sequence[Task], keep: Set[str], entering: Set[str]) -> tuple[Task, ...]:
    """The tasks, each free_after the buffers whose last use it is; `entering` ones that nobody uses die with the first task."""
    last: dict[str, int] = dict.fromkeys(sorted(entering), 0)
    for index, task in enumerate(tasks):
        for name in (*reads(task), *writes(task)):
            last[name] = index
    dying: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in keep:
            dying.setdefault(index, []).append(name)
    return tuple(free_after(task, tuple(dying[index])) if index in dying else task for index, task in enumerate(tasks))


def operands_named(tasks: Sequence[Task], names: Set[str]) -> tuple[Operand, ...]:
    """The operands of these names as they were made, in order of first appearance; each once."""
    found: dict[str, Operand] = {}
    for task in tasks:
        seen = (*task.inputs, *task.outputs) if isinstance(task, Compute) else (task.source, task.target)  # type: ignore[union-attr]
        for operand in seen:
            if isinstance(operand, Operand) and operand.name in names:
                found.setdefault(operand.name, operand)
    return tuple(found.values())
