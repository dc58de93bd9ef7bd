"""Peak memory of each pipeline rank, with its parts, exact in issue order.

The schedule says how many micro_batches of each chunk are in flight when an action starts; the action's own liveness stands on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parsim.estimator.group import Group
from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT
from parsim.schedules import memory_states
from parsim.step.holdings import bucket_elements, gathered_elements, lasting_parts, used_elements
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
    parts, size = lasting_parts(group.step.structure.zero_stage), group.sizes.itemsize_bytes
    elements = {name: bucket_elements(group.step, group.sizes, "all", group.holding(rank), part) for name, part in parts.items()}
    stack, axes = group.market.stack, len(group.step.structure.axes)
    return RankMemory(
        elements["parameters"] * size[COMPUTE],
        elements["gradients"] * size[GRADIENT],
        elements["optimizer"] * group.step.structure.state_bytes,
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
    on_top = np.stack([passes[state.chunk, state.phase][1] for state in states])
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
    parts = group.parts(stage) if forward else group.parts(stage)[::-1]
    gathered, released, scattered = pass_buffers(group, kind)
    ahead = group.step.structure.gradient_overlap  # the next segment's parameters come while this one runs
    if ahead:
        live = live + gathered[parts[0][0].name]
        peak = np.maximum(peak, live)
    for index, (segment, copies) in enumerate(parts):
        each, own = group.passes.lives[segment.name, kind], gathered[segment.name]
        following = gathered[parts[index + 1][0].name] if index + 1 < len(parts) else group.zero
        on_top = each.peak_bytes + scattered[segment.name]
        net = each.net_bytes + own - released[segment.name]
        last = live + (copies - 1) * net + on_top + (following if ahead else own)
        first = live + np.maximum((copies - 2) * net, 0) + on_top + own
        peak = np.where(copies > 0, np.maximum(peak, last), peak)
        peak = np.where(copies > 1, np.maximum(peak, first), peak)
        live = live + copies * net + np.where((copies > 0) & ahead, following - own, 0)
    return live - (stream if sends else 0), peak


def pass_buffers(group: Group, kind: str) -> tuple[dict[str, Ints], dict[str, Ints], dict[str, Ints]]:
    """Bytes of the parameters that a segment gathers, of those that it lets go, and of its gradients before they are scattered."""
    structure, size = group.step.structure, group.sizes.itemsize_bytes
    gathered, released, scattered = {}, {}, {}
    for segment in group.step.segments:
        whole = gathered_elements(segment, structure, group.sizes) * size[COMPUTE]
        gathered[segment.name] = whole * structure.gathers(kind)
        released[segment.name] = whole * structure.releases(kind)
        scattered[segment.name] = used_elements(segment, group.sizes, "padded") * size[GRADIENT] * (structure.per_pass and kind == "B")
    return gathered, released, scattered
