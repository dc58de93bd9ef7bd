"""What a Step is made of: tasks over placed operands, segments of them, and the work that ends a step.

No sizes, no degrees, no seconds: `timing` prices a task, `estimator`, `simulator` and `executor` read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from parsim.parallel.sharding import Dims, Sharding
from parsim.step.structure import Structure


@dataclass(frozen=True, slots=True)
class Operand:
    """A buffer as one task sees it: its name, where it lies, and the role that sets the bytes of an element."""

    name: str
    sharding: Sharding
    dtype: str

    @property
    def dims(self) -> Dims:
        """Names of its dims, as the task sees them."""
        return self.sharding.dims


@dataclass(frozen=True, slots=True)
class Compute:
    """One kernel on one rank.  `accumulate` adds into the output, `in_place` overwrites the first input."""

    name: str
    kernel: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    attributes: Mapping[str, float | str]
    accumulate: bool = False
    in_place: bool = False
    fused: bool = False
    tag: str = ""
    frees: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Communicate:
    """One collective over one axis.  all_reduce works in place: `target` is then `source` with less left to reduce."""

    name: str
    operation: str
    axis: str
    source: Operand
    target: Operand
    dim: int = -1
    operator: str = "sum"
    asynchronous: bool = False  # runs on its axis's stream, beside compute that does not need its result
    tag: str = ""
    frees: tuple[str, ...] = ()


Task = Compute | Communicate


def reads(task: Task) -> tuple[str, ...]:
    """Names of the buffers a task needs alive; one that it adds into is read as well."""
    if isinstance(task, Communicate):
        return (task.source.name,)
    return tuple(o.name for o in (*task.inputs, *(task.outputs if task.accumulate else ())))


def writes(task: Task) -> tuple[str, ...]:
    """Names of the buffers that a task brings to life or changes."""
    return (task.target.name,) if isinstance(task, Communicate) else tuple(o.name for o in task.outputs)


def allocates(task: Task) -> tuple[Operand, ...]:
    """The outputs that are new buffers."""
    if isinstance(task, Communicate):
        return () if task.target.name == task.source.name else (task.target,)
    return () if task.in_place or task.accumulate else task.outputs


def freeing(task: Task, names: tuple[str, ...]) -> Task:
    """The task, after which these buffers die."""
    return replace(task, frees=names)


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter of a segment: where it and its gradient lie, and which segment owns it when it is shared."""

    name: str
    sharding: Sharding
    gradient: Sharding  # partial over the axes that a step's end reduces
    initial: str
    owner: str  # the segment's own name, or the other end's for a tied embedding


@dataclass(frozen=True, slots=True)
class Segment:
    """A block placed on the mesh: forward and backward tasks in issue order, with the buffers that live between them."""

    name: str
    forward: tuple[Task, ...]
    backward: tuple[Task, ...]
    weights: tuple[Weight, ...]
    saved: tuple[Operand, ...]  # alive from forward to backward: the activations in flight
    totals: tuple[Operand, ...]  # scalars summed over the step
    x: Operand | None  # buffer that enters forward, and whose gradient leaves backward
    y: Operand | None  # buffer that leaves forward, and whose gradient enters backward
    d_x: str = ""  # the buffer that holds the gradient of x when backward ends


@dataclass(frozen=True, slots=True)
class Finish:
    """One piece of the work that ends a step, over a bucket of weights laid end to end.

    `kernel` is an optimizer kernel, or empty where `operation` communicates.
    """

    name: str
    bucket: str  # partial_AXIS | all | tied | norm | parameters
    part: str = "whole"  # of each weight: whole, its own dp shard, or padded: the shards of all dp ranks
    kernel: str = ""
    operation: str = ""
    axis: str = ""
    on_host: bool = False  # the host's processor works, not the device
    master_only: bool = False  # only rank 0 of dp works; the others wait for its broadcast


@dataclass(frozen=True, slots=True)
class Step:
    """A training step of one structure: what every rank does to a micro_batch, and once at the end."""

    structure: Structure
    embedding: Segment
    layer: Segment
    head: Segment
    finish: tuple[Finish, ...]
    kept_layer: Segment | None = None  # a layer that is not recomputed, where only each n-th is

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All there are, in forward order."""
        return (self.embedding, self.layer, *([self.kept_layer] if self.kept_layer else []), self.head)

    def layers(self, count: int) -> list[tuple[Segment, int]]:
        """The layers of a stage in forward order, as runs of equal ones; each n-th is recomputed.

        Source: torchtitan, torchtitan/distributed/activation_checkpoint.py (`_apply_layer_sac`).
        """
        if self.kept_layer is None:
            return [(self.layer, count)] if count else []
        periods, rest = divmod(count, self.structure.recompute_every)
        each = [(self.kept_layer, self.structure.recompute_every - 1), (self.layer, 1)]
        return each * periods + ([(self.kept_layer, rest)] if rest else [])
