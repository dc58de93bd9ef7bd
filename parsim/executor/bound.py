"""The tasks of a pass with everything resolved that is the same in each step: names of buffers, attributes, members, prices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parsim.executor.job import Attributes
from parsim.executor.need import Meeting
from parsim.parallel.mesh import group
from parsim.step.task import Communicate, Compute, Operand, Segment, allocates, reads
from parsim_kernels import Machine

if TYPE_CHECKING:
    from parsim.executor.rank import Rank


Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a kernel on a rank's buffers."""

    kernel: str
    inputs: Names
    outputs: Names
    itemsizes: tuple[int, ...] = ()  # bytes an element of new buffers
    accumulate: bool = False
    in_place: bool = False
    overwrite: bool = False

    def run(self, machine: Machine, number: int, attributes: Attributes) -> None:
        """Do it on rank `number`."""
        machine.compute(
            number,
            self.kernel,
            self.inputs,
            self.outputs,
            self.itemsizes,
            attributes,
            accumulate=self.accumulate,
            in_place=self.in_place,
            overwrite=self.overwrite,
        )


@dataclass(frozen=True, slots=True)
class BoundCompute:
    """A kernel of a pass, its price, the buffers that it reads, and those that are let go after it."""

    task: Compute
    call: Call
    attributes: Attributes
    ps: int
    reads: Names
    frees: Names


@dataclass(frozen=True, slots=True)
class BoundMeeting:
    """A collective of a pass, and the buffers that are let go after it."""

    meeting: Meeting
    frees: Names


@dataclass(frozen=True, slots=True)
class Pass:
    """One micro_batch's way through one copy of a segment, and how long the host needs to launch it all."""

    tasks: tuple[BoundCompute | BoundMeeting, ...]
    floor_ps: int


def bind(rank: Rank, instance: str, segment: Segment, m: int, forward: bool) -> Pass:
    """The pass of a rank."""
    prices = rank.job.prices
    by_task, floor = (prices.forward, prices.forward_floor) if forward else (prices.backward, prices.backward_floor)
    tasks = segment.forward if forward else segment.backward

    def bound(index: int, task: Compute | Communicate) -> BoundCompute | BoundMeeting:
        ps, frees = int(by_task[segment.name][index][0]), full(task.frees)
        if isinstance(task, Communicate):
            return BoundMeeting(_meeting(rank, task, full, (instance, m, "F" if forward else "B", index), ps), frees)
        itemsizes = tuple(rank.job.itemsize(o.dtype) for o in task.outputs)
        call = Call(task.kernel, full(_names(task.inputs)), full(_names(task.outputs)), itemsizes, task.accumulate, task.in_place)
        return BoundCompute(task, call, rank.attributes(task), ps, full(reads(task)), frees)

    def full(names: Iterable[str]) -> Names:
        return tuple(rank.full(instance, segment, m, name) for name in names)

    return Pass(tuple(bound(index, task) for index, task in enumerate(tasks)), int(floor[segment.name][0]))


def _names(operands: tuple[Operand, ...]) -> list[str]:
    return [operand.name for operand in operands]


def _meeting(rank: Rank, task: Communicate, full: Callable[[Iterable[str]], Names], index: tuple[object, ...], ps: int) -> Meeting:
    members = group(rank.number, task.axis, rank.job.degrees)
    target = full([task.target.name])[0] if allocates(task) else None
    itemsize, stream = rank.job.itemsize(task.source.dtype), "beside" if task.asynchronous else "compute"
    key, source = (task.axis, members, *index), full([task.source.name])
    return Meeting(key, members, task.operation, task.axis, source, target, task.dim, task.operator, itemsize, ps, stream)
