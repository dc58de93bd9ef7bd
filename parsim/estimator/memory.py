"""Peak memory of each pipeline rank, with its parts, exact in issue order.

The schedule says how many micro_batches of each chunk are in flight when an action starts; the action's own liveness stands on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parsim.estimator.group import Group
from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT
from parsim.schedules import memory_states
from parsim.step.holdings import bucket_elements
from parsim.step.sizes import Ints
from parsim.step.timing import boundary


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes of one pipeline rank at its peak, by part.  `framework` is the stack's stated overhead; the rest is counted."""

    parameters: Ints
    gradients: Ints
    optimizer: Ints
    activations: Ints  # of micro_batches in flight
    transients: Ints  # of the action at the peak, beyond what is in flight
    buffers: Ints  # scalars and communicators
    framework: Ints

    def parts(self) -> dict[str, Ints]:
        """All parts by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def total(self) -> Ints:
        """The peak."""
        return np.asarray(np.sum(list(self.parts().values()), axis=0, dtype=np.int64))


def rank_memory(group: Group, rank: int) -> RankMemory:
    """Peak memory of one pipeline rank."""
    in_flight, transients = _dynamic(group, rank)
    elements = bucket_elements(group.step, group.sizes, "all", group.holding(rank))
    size = group.sizes.itemsize_bytes
    copies = 3 if group.step.structure.master_weights else 2  # Adam's two moments, and the weights in float32
    stack, axes = group.market.stack, len(group.step.structure.axes)
    return RankMemory(
        elements * size[COMPUTE],
        elements * size[GRADIENT],
        elements * copies * size[FLOAT32],
        in_flight,
        transients,
        scalar_bytes(group, rank) + int(stack.communicator_bytes * axes),
        group.zero + int(stack.framework_bytes),
    )


def scalar_bytes(group: Group, rank: int) -> Ints:
    """The gradient norm on every rank, and the totals of a segment (the loss) where it stands."""
    held = group.holding(rank)
    bytes_ = group.zero + group.sizes.itemsize_bytes[FLOAT32]
    for segment in group.step.segments:
        for total in segment.totals:
            bytes_ = bytes_ + held.of(segment) * group.sizes.num_bytes(total)
    return bytes_


def counted_peak_bytes(group: Group, rank: int) -> Ints:
    """The peak without the stack's overheads: what the kernels hold, to the byte."""
    memory = rank_memory(group, rank)
    counted = memory.parameters + memory.gradients + memory.optimizer + memory.activations + memory.transients
    return counted + scalar_bytes(group, rank)


def _dynamic(group: Group, rank: int) -> tuple[Ints, Ints]:
    """Bytes in flight, and of the action on top, in the state where their sum is largest."""
    states = memory_states(group.schedule, group.num_ranks, group.chunks, group.num_micro_batches)[rank]
    passes = {(c, k): action_lives(group, c * group.num_ranks + rank, k) for c in range(group.chunks) for k in "FB"}
    kept = np.stack([passes[c, "F"][0] for c in range(group.chunks)])  # [chunk, plan]
    flying = np.array([state.in_flight for state in states], dtype=np.int64) @ kept  # [state, plan]
    on_top = np.stack([passes[state.chunk, state.kind][1] for state in states])
    worst = np.argmax(flying + on_top, axis=0)
    plans = np.arange(group.sizes.num_plans)
    return flying[worst, plans], on_top[worst, plans]


def action_lives(group: Group, stage: int, kind: str) -> tuple[Ints, Ints]:
    """Net and peak bytes of one action, relative to its start: receive, the segments in order, send and let go."""
    stream = group.sizes.num_bytes(boundary(group.step))
    forward = kind == "F"
    receives = stage > 0 if forward else stage < group.num_stages - 1
    sends = stage < group.num_stages - 1 if forward else stage > 0
    live, peak = group.zero, group.zero
    if receives:
        live = live + stream
        shard = stream // group.sizes.degrees["tp"] if group.step.structure.scatter_gather else 0
        peak = live + shard
    parts = group.parts(stage)
    for segment, copies in parts if forward else reversed(parts):
        each = group.passes.lives[segment.name, kind]
        highest = live + np.maximum((copies - 1) * each.net_bytes, 0) + each.peak_bytes
        peak = np.where(copies > 0, np.maximum(peak, highest), peak)
        live = live + copies * each.net_bytes
    return live - (stream if sends else 0), peak
