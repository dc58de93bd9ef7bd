"""Peak memory of each pipeline rank, with its parts, exact in issue order.

The schedule says how many micro_batches of each chunk are between two phases when an action starts; the action's own lives stand on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parsim import schedules
from parsim.cost.buckets import lasting_parts, weight_elements
from parsim.cost.count import state_bytes
from parsim.cost.sizes import Ints
from parsim.estimator.passes import Stages
from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT
from parsim.step.task import Part


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes of the pipeline ranks at their peaks, [rank, plan].

    `framework` and all but the scalars of `buffers` are as the stack states; the rest is counted.
    """

    parameters: Ints
    gradients: Ints
    optimizer: Ints
    activations: Ints  # of micro_batches in flight
    transients: Ints  # of the action at the peak, beyond what is in flight
    buffers: Ints  # scalars, communicators, workspaces
    framework: Ints  # with what its allocator holds and nobody uses

    def parts(self) -> dict[str, Ints]:
        """All parts by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def of_plan(self, index: int) -> tuple[dict[str, int], ...]:
        """The parts of one plan, by pipeline rank."""
        parts = {name: ranks[:, index].tolist() for name, ranks in self.parts().items()}
        return tuple(dict(zip(parts, ranks, strict=True)) for ranks in zip(*parts.values(), strict=True))

    @property
    def total(self) -> Ints:
        """The peaks."""
        return np.asarray(np.sum(list(self.parts().values()), axis=0, dtype=np.int64))


def rank_memory(stages: Stages) -> RankMemory:
    """Peak memory of each pipeline rank."""
    structure, stack, sizes = stages.workload.step.structure, stages.workload.model.stack, stages.workload.sizes
    elements = {role: elements_of(stages, part) for role, part in lasting_parts(structure).items()}
    in_flight, on_top = _dynamic(stages)
    return RankMemory(
        elements["parameters"] * sizes.itemsize_bytes[COMPUTE],
        elements.get("gradients", elements["parameters"] * 0) * sizes.itemsize_bytes[GRADIENT],
        elements["optimizer"] * state_bytes(structure, sizes),
        in_flight,
        on_top,
        scalar_bytes(stages) + int(stack.communicator_bytes * len(structure.axes) + stack.workspace_bytes),
        int(stack.framework_bytes) + np.asarray((in_flight + on_top) * stack.allocator_slack).astype(np.int64),
    )


def scalar_bytes(stages: Stages) -> Ints:
    """The gradient norm on every rank, and the totals of a segment (the loss) where it stands, [rank, plan]."""
    sizes, segments = stages.workload.sizes, stages.workload.step.segments.values()
    norm = sizes.zero + sizes.itemsize_bytes[FLOAT32]
    return norm + sum(stages.held[each.name] * sizes.num_bytes(total) for each in segments for total in each.totals)


def counted_peak_bytes(stages: Stages) -> Ints:
    """The peaks without the stack's overheads: what the kernels hold, to the byte, [rank, plan]."""
    memory = rank_memory(stages)
    return memory.parameters + memory.gradients + memory.optimizer + memory.activations + memory.transients + scalar_bytes(stages)


def elements_of(stages: Stages, part: Part) -> Ints:
    """Elements of the weights that each rank holds, [rank, plan]."""
    sizes, segments = stages.workload.sizes, stages.workload.step.segments.values()
    own = ((each.name, weight_elements(weight, part, sizes)) for each in segments for weight in each.own_weights)
    return np.asarray(sum(stages.held[name] * count for name, count in own))


def _dynamic(stages: Stages) -> tuple[Ints, Ints]:
    """Bytes in flight, and of the action on top, in the state where their sum is largest; of several, the one with the least in flight."""
    workload = stages.workload
    states = schedules.state_columns(workload.schedule, workload.num_ranks, workload.chunks, workload.num_micro_batches)
    order = np.lexsort((-states.phase, states.chunk, *states.in_flight.reshape(len(states.rank), -1).T[::-1], states.rank))
    rank, chunk, phase, in_flight = (each[order] for each in (states.rank, states.chunk, states.phase, states.in_flight))
    own = stages.by_rank[rank]  # stage, [state, chunk]
    kept = np.cumsum(stages.table(lambda s, p: stages.lives(s, p).net_bytes), axis=0)[:-1]  # after each phase but the last
    flying = np.einsum("sck,ksc...->s...", in_flight, kept[:, own])
    on_top = stages.table(lambda s, p: stages.lives(s, p).peak_bytes)[phase, own[np.arange(len(rank)), chunk]]
    first = np.flatnonzero(np.diff(rank, prepend=-1))
    total, place = flying + on_top, np.arange(len(rank))[:, None]
    largest = np.maximum.reduceat(total, first)[rank]
    worst = np.minimum.reduceat(np.where(total == largest, place, len(rank)), first)
    return np.take_along_axis(flying, worst, 0), np.take_along_axis(on_top, worst, 0)
