"""Backward in two parts: what the gradient of the input needs (I), and the rest, which leads to weight gradients (W).

Both keep the order of the whole backward.  Whatever runs again for backward runs in I, so W recomputes nothing.
Source: Qi et al. 2023 (arXiv:2401.10241), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

from msgspec.structs import replace

from parsim.errors import PlanError
from parsim.step.task import Collective, Compute, Operand, Task, Value, allocates, reads, writes

_APART = "~apart"


class Halves(NamedTuple):
    """The tasks of I and of W, and the buffer that holds the input's gradient when I ends."""

    inputs: tuple[Task, ...]
    weights: tuple[Task, ...]
    d_x: str


def halves(backward: Sequence[Task], d_x: str, also: Set[str] = frozenset()) -> Halves:
    """Backward cut by dataflow; I makes what is `also` handed on.  Where it would change a buffer that W still reads, it makes a new one.

    Raises:
        PlanError: the change is a collective in place.
    """
    leads = _leading_to(backward, {d_x, *also} - {""})
    read_later: set[str] = set()  # by W, before what I changes now
    renamed: dict[str, str] = {}
    inputs: list[Task] = []
    weights: list[Task] = []
    for task, is_input in zip(backward, leads, strict=True):
        moved = _rename(task, renamed)
        if not is_input:
            weights.append(moved)
            read_later |= set(reads(moved))
            continue
        changed = set(writes(moved)) - {each.name for each in allocates(moved)}
        if changed & read_later:
            if not isinstance(moved, Compute):
                raise PlanError(f"{moved.name} changes a buffer that weight gradients read later")
            name, held = writes(task)[0], moved.outputs[0]
            renamed[name] = renamed.get(name, name) + _APART
            apart = _other(held, {held.name: renamed[name]})
            inputs.append(replace(moved, outputs=(apart, *moved.outputs[1:]), in_place=False, accumulate=False))
            if moved.accumulate:  # to what it would have added to
                inputs.append(_sum(moved, apart, held))
            continue
        inputs.append(moved)
    return Halves(tuple(inputs), tuple(weights), renamed.get(d_x, d_x))


def _sum(moved: Compute, apart: Value, held: Value) -> Compute:
    return Compute(f"{moved.name}.add", "add", (apart, held), (apart,), {}, in_place=True, tag=moved.tag, again=moved.again)


def _leading_to(backward: Sequence[Task], wanted: Set[str]) -> list[bool]:
    """Which tasks these gradients need, and which run a second time."""
    live, found = {*wanted}, []
    for task in reversed(backward):
        is_needed = bool(live & set(writes(task))) or (isinstance(task, Compute | Collective) and task.again)
        if is_needed:
            live -= {each.name for each in allocates(task)}
            live |= set(reads(task))
        found.append(is_needed)
    return found[::-1]


def _rename(task: Task, names: dict[str, str]) -> Task:
    if isinstance(task, Collective):
        return replace(task, source=_other(task.source, names), target=_other(task.target, names))
    assert isinstance(task, Compute)
    inputs, outputs = (tuple(_other(value, names) for value in side) for side in (task.inputs, task.outputs))
    return replace(task, inputs=inputs, outputs=outputs)


def _other(value: Value, names: dict[str, str]) -> Value:
    return replace(value, name=names[value.name]) if isinstance(value, Operand) and value.name in names else value
