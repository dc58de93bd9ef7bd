"""Segments that differ in how many tokens their experts have, and in nothing else: lowered once, and told apart by the loads of slots."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from parsim.model.dims import SLOTS
from parsim.step.step import Segment
from parsim.step.task import Collective, Compute, Hold, Operand, Task, Value, Weight

OF_LOADS: Final = "@"  # behind a word that depends on loads, before those of its layer
_WORDS: Final = ("loads", "chosen", "tokens")


def with_loads(segment: Segment, name: str, loads: int) -> Segment:
    """The segment under another name, of a layer whose experts have these loads; tasks without slots stay the same ones."""
    kept = {phase: tuple(_operand(each, loads) for each in own) for phase, own in segment.kept.items()}
    weights, steers = (tuple(_own_weight(each, segment.name, name) for each in own) for own in (segment.weights, segment.steers))
    phases = {phase: tuple(_task(task, loads) for task in tasks) for phase, tasks in segment.phases.items()}
    return replace(segment, name=name, phases=phases, kept=kept, weights=weights, steers=steers)


def _own_weight(weight: Weight, before: str, after: str) -> Weight:
    return replace(weight, owner=after) if weight.owner == before else weight


def _task(task: Task, loads: int) -> Task:
    changes: dict[str, Any]
    match task:
        case Compute():
            inputs, outputs = (tuple(_value(each, loads) for each in side) for side in (task.inputs, task.outputs))
            attributes = {key: _word(value, loads) for key, value in task.attributes.items()}
            changes = {"inputs": inputs, "outputs": outputs, "attributes": attributes}
        case Collective():
            changes = {"source": _value(task.source, loads), "target": _value(task.target, loads)}
        case Hold():
            changes = {"values": tuple(_value(each, loads) for each in task.values)}
        case _:
            return task
    return task if all(getattr(task, key) == value for key, value in changes.items()) else replace(task, **changes)


def _value(value: Value, loads: int) -> Value:
    return _operand(value, loads) if isinstance(value, Operand) else value


def _operand(operand: Operand, loads: int) -> Operand:
    has_slots = not set(SLOTS).isdisjoint(operand.dims)
    return replace(operand, sharding=replace(operand.sharding, loads=loads)) if has_slots else operand


def _word(value: float | str, loads: int) -> float | str:
    return f"{value}{OF_LOADS}{loads}" if isinstance(value, str) and value.partition(":")[0] in _WORDS else value


def loads_of(word: str) -> tuple[str, int]:
    """A word without its loads, and these.

    >>> loads_of("tokens@3"), loads_of("loads:E")
    (('tokens', 3), ('loads:E', 0))
    """
    plain, _, loads = word.partition(OF_LOADS)
    return plain, int(loads or 0)
