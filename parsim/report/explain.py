"""Why a task takes as long as it does: expression, shapes on a rank, counts, what bounds it, and where each constant is from.

Also what a reported figure means.  The prices themselves are made in parsim.step.timing; the sentences on laws in bounds.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parsim import units
from parsim.errors import ParsimError, did_you_mean
from parsim.estimator.estimate import estimate, group_of
from parsim.estimator.group import Group
from parsim.estimator.result import Estimate
from parsim.report import definitions
from parsim.report.bounds import collective_bound, kernel_bound
from parsim.report.console import percent
from parsim.report.ending import finish_notes
from parsim.report.sharing import Shared
from parsim.scenario import Scenario
from parsim.step.count import flops, hbm_bytes, payload, sent_bytes
from parsim.step.sizes import Sizes
from parsim.step.task import Communicate, Compute, Operand, Task
from parsim.step.timing import communicate_price, compute_s

PASSES = ("forward", "backward")


@dataclass(frozen=True, slots=True)
class Note:
    """What there is to say on one task or figure: pairs of label and text."""

    title: str
    lines: tuple[tuple[str, str], ...]


def explain(scenario: Scenario, plan: str, op: str) -> list[Note]:
    """The notes on every task of a plan that `op` names: a task, all that start with it, a pass, a segment, or a reported figure.

    Raises:
        ScenarioError: the scenario has no such plan.
        ParsimError: the plan has nothing of that name; the nearest is named.
    """
    chosen = scenario.plan(plan)
    if op in definitions.names():
        return _figures(estimate(scenario, plan), op, scenario)
    group, shared = group_of(scenario, chosen), Shared(scenario, chosen)
    found = _matching(group, op)
    if found:
        return [_task_note(group, *each, shared) for each in found]
    ending = [_ending_note(title, lines, shared) for title, lines in finish_notes(group, op, estimate(scenario, plan).critical_rank)]
    if not ending:
        raise _unknown(group, plan, op)
    return ending


Placed = tuple[str, str, Task]  # segment, pass, task


def _tasks(group: Group) -> Iterator[Placed]:
    for segment in group.step.segments:
        for direction, tasks in zip(PASSES, (segment.forward, segment.backward), strict=True):
            yield from ((segment.name, direction, task) for task in tasks)


def _matching(group: Group, op: str) -> list[Placed]:
    """The tasks meant: by exact name with what is derived of them, else by pass or segment, kernel or operation, or prefix."""
    tasks = list(_tasks(group)) if op else []
    exact = [each for each in tasks if op == each[2].name or each[2].name.startswith(f"{op}.")]
    place = [each for each in tasks if op in (each[0], each[1], f"{each[0]}.{each[1]}")]
    kind = [each for each in tasks if op == (each[2].kernel if isinstance(each[2], Compute) else each[2].operation)]
    prefix = [each for each in tasks if each[2].name.startswith(op)]
    return exact or place or kind or prefix


def _unknown(group: Group, plan: str, op: str) -> ParsimError:
    tasks = list(_tasks(group))
    ops = tuple(dict.fromkeys(task.name.partition(".")[0] for _, _, task in tasks))
    ending = tuple(work.name for work in group.step.finish)
    known = (*PASSES, *(s.name for s in group.step.segments), *ops, *(task.name for _, _, task in tasks), *ending, *definitions.names())
    remedy = f"Tasks: {', '.join((*ops, *ending))}.  Figures: {', '.join(definitions.names())}."
    return ParsimError(f"nothing is called '{op}'{did_you_mean(op, known)}", f"plan '{plan}'", remedy)


def _task_note(group: Group, segment: str, direction: str, task: Task, shared: Shared) -> Note:
    again = direction == "backward" and any(
        task.name == other.name for name, way, other in _tasks(group) if (name, way) == (segment, "forward")
    )
    title = f"{segment} {direction}: {task.name}" + (" (computed again)" if again else "")
    if isinstance(task, Compute):
        return Note(title, tuple(_compute_lines(group, task)))
    lost = (("lost to others", shared.note(task.name)),) if task.operation != "slice" else ()
    return Note(title, (*_communicate_lines(group, task), *lost))


def _ending_note(title: str, lines: list[tuple[str, str]], shared: Shared) -> Note:
    name = "send" if ("sent" in dict(lines)) else title.rpartition(": ")[2]
    lost = [("lost to others", shared.note(name))] if {"sent", "collective"} & set(dict(lines)) else []
    return Note(title, (*lines, *lost))


def _compute_lines(group: Group, task: Compute) -> Iterator[tuple[str, str]]:
    sizes, market = group.sizes, group.market
    yield (
        "kernel",
        task.kernel + (", adds into its output" if task.accumulate else "") + (", fused into the one before" if task.fused else ""),
    )
    yield "expression", _expression(task.inputs, task.outputs)
    yield "on a rank", _shapes(task.inputs, task.outputs, sizes)
    partial = [f"{o.name} over {axis} ({how})" for o in task.outputs for axis, how in o.sharding.partial.items()]
    if partial:
        yield "partial", "; ".join(partial)
    yield "FLOPs", units.format(int(flops(task, sizes)[0]), "FLOP")
    yield "HBM", units.format(int(hbm_bytes(task, sizes)[0]), "bytes")
    yield "time", units.format(float(compute_s(task, sizes, market)[0]), "s")  # type: ignore[index]
    yield from kernel_bound(task, sizes, market)


def _communicate_lines(group: Group, task: Communicate) -> Iterator[tuple[str, str]]:
    sizes, market = group.sizes, group.market
    num_ranks, stride = (int(each[0]) for each in sizes.group(task.axis))
    operator = f" ({task.operator})" if "reduce" in task.operation else ""  # the others only move what is there
    yield "collective", f"{task.operation} over {task.axis}{operator}" + (", beside compute" if task.asynchronous else "")
    yield "expression", _expression((task.source,), (task.target,))
    yield "on a rank", _shapes((task.source,), (task.target,), sizes)
    itemsize = sizes.itemsize_bytes[task.source.dtype]
    elements = sizes.elements(payload(task))
    yield "payload", units.format(int(elements[0]) * itemsize, "bytes")
    yield "sent", f"{units.format(int(sent_bytes(task, sizes, market, 0)[0]), 'bytes')} by a rank"
    yield "time", units.format(float(communicate_price(task, sizes, market).seconds[0]), "s")
    if task.operation != "slice":
        yield from collective_bound(market, task.operation, int(elements[0]), itemsize, num_ranks, stride)


def _expression(inputs: Sequence[Operand], outputs: Sequence[Operand]) -> str:
    """'B S D, D F/tp -> B S F/tp': each dim with the axes that shard it."""
    return " -> ".join(", ".join(_dims(operand) for operand in side) for side in (inputs, outputs)).lstrip()


def _dims(operand: Operand) -> str:
    named = zip(operand.dims, operand.sharding.axes, strict=True)
    return " ".join("/".join((dim, *axes)) for dim, axes in named) or "scalar"


def _shapes(inputs: Sequence[Operand], outputs: Sequence[Operand], sizes: Sizes) -> str:
    def shape(operand: Operand) -> str:
        extents = " x ".join(str(int(sizes.local(operand.sharding, dim)[0])) for dim in operand.dims)
        return f"{operand.name} [{extents}]"

    return " -> ".join(", ".join(shape(operand) for operand in side) for side in (inputs, outputs)).lstrip()


def _figures(found: Estimate, name: str, scenario: Scenario) -> list[Note]:
    """The definition and value of a figure; "optimizer" is one of time and one of memory."""
    notes = []
    if name in definitions.METRICS:
        notes.append(Note(name, (("means", definitions.METRICS[name]), ("value", _value(found, name, scenario)))))
    if name in definitions.BREAKDOWN:
        seconds = found.breakdown_s.get(name, 0.0)
        value = f"{units.format(seconds, 's')}, {percent(seconds / found.step_s)} of the step, on stage {found.critical_rank}"
        notes.append(Note(f"{name}, share of the step", (("means", definitions.BREAKDOWN[name]), ("value", value))))
    if name in definitions.MEMORY:
        sizes = ", ".join(units.format(parts[name], "GiB") for parts in found.memory_bytes)
        notes.append(Note(f"{name}, part of the memory", (("means", definitions.MEMORY[name]), ("by stage", sizes))))
    return notes


def _value(found: Estimate, name: str, scenario: Scenario) -> str:
    if name == "fits":
        return "yes" if found.fits else "no"
    if name == "step_error":
        measured = scenario.measured.get(found.name)
        return percent(found.step_s / measured.step_s - 1, signed=True) if measured and measured.step_s else "nothing measured is stated"
    value = getattr(found, name)
    if name.endswith("mfu") or name.startswith("mfu") or name == "hfu":
        return percent(value)
    unit = {"step_s": "s", "peak_bytes": "GiB", "capacity_bytes": "GiB"}.get(name, "token/s")
    return units.format(value, unit)
