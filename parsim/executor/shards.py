"""ZeRO on a rank: flat buffers padded to equal parts, which parts it owns, and the passes that gather and scatter them.

`w` is a view of `w.flat`, and `w.shard` this rank's part: a view too, or a buffer of its own where the whole does not last.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from parsim.executor.need import Meeting, Need
from parsim.executor.values import Array
from parsim.model.dims import COMPUTE, GRADIENT
from parsim.parallel.mesh import group
from parsim.step.holdings import gathered_weights, own_weights
from parsim.step.task import Segment, Weight

if TYPE_CHECKING:
    from parsim.executor.rank import Rank


def own_part(rank: Rank, array: Array) -> Array:
    """This rank's part of a weight (its tensor-parallel shard), flattened and padded with zeros."""
    ranks, position = rank.job.degrees["dp"], rank.at["dp"]
    length = -(-array.size // ranks)
    flat: NDArray[np.float64] = np.zeros(ranks * length, array.dtype)
    flat[: array.size] = array.reshape(-1)
    return flat[position * length : (position + 1) * length].copy()


def hold_flat(rank: Rank, name: str, values: Array, dtype: str, *, shard: bool) -> None:
    """Hold a whole weight, or its gradient, as a flat padded buffer with its view, and with its shard as a view where asked."""
    ranks, position = rank.job.degrees["dp"], rank.at["dp"]
    length = -(-values.size // ranks)
    flat = np.zeros(ranks * length, values.dtype)
    flat[: values.size] = values.reshape(-1)
    itemsize = rank.job.itemsize(dtype)
    rank.machine.hold(rank.number, f"{name}.flat", flat, itemsize)
    rank.machine.hold(rank.number, name, flat[: values.size].reshape(values.shape), itemsize)
    if shard:
        rank.machine.hold(rank.number, f"{name}.shard", flat[position * length : (position + 1) * length], itemsize)


def used(rank: Rank, instance: str, segment: Segment) -> list[tuple[str, Weight]]:
    """Owner and weight of all that a segment computes with."""
    return [(rank.owner(instance, weight), weight) for weight in segment.weights]


def gathered(rank: Rank, instance: str, segment: Segment) -> list[tuple[str, Weight]]:
    """Owner and weight of all that a segment gathers for a pass."""
    return [(rank.owner(instance, weight), weight) for weight in gathered_weights(segment, rank.job.step.structure)]


def zeros_of(rank: Rank, weight: Weight) -> Array:
    """Zeros in the shape of this rank's tensor-parallel shard of a weight."""
    shape = [int(rank.job.sizes.local(weight.sharding, dim)[0]) for dim in weight.sharding.dims]
    return np.zeros(shape, rank.job.values.precision)


def sharded_action(rank: Rank, instances: list[tuple[str, Segment]], m: int, forward: bool, carried: str) -> Generator[Need, None, str]:
    """The segments of one action under ZeRO 2 or 3: gather, run, scatter; beside compute where the stack overlaps them."""
    structure = rank.job.step.structure
    kind = "F" if forward else "B"
    gathers, overlap = structure.gathers(kind), structure.gradient_overlap
    coming = 0
    if gathers and overlap:
        coming = yield from gather(rank, *instances[0], m, forward)
    for index, (instance, segment) in enumerate(instances):
        if gathers and overlap:
            rank.clock.compute = max(rank.clock.compute, coming)
            if index + 1 < len(instances):
                coming = yield from gather(rank, *instances[index + 1], m, forward)
        elif gathers:
            yield from gather(rank, instance, segment, m, forward)
        if not forward:
            for owner, weight in used(rank, instance, segment):
                hold_flat(rank, f"{owner}/d_{weight.name}", zeros_of(rank, weight), GRADIENT, shard=False)
        carried = yield from rank.segment(instance, segment, m, forward, carried)
        if not forward:
            yield meeting(rank, instance, segment, "reduce_scatter", ("scatter", instance, m))
            release(rank, [f"{owner}/d_{weight.name}" for owner, weight in used(rank, instance, segment)])
        if structure.releases(kind):
            release(rank, [f"{owner}/{weight.name}" for owner, weight in gathered(rank, instance, segment)])
    rank.clock.compute = max(rank.clock.compute, rank.clock.gradients)
    return carried


def gather(rank: Rank, instance: str, segment: Segment, m: int, forward: bool) -> Generator[Need, None, int]:
    """Bring a segment's parameters together; when they are there, on the clock."""
    weights = gathered(rank, instance, segment)
    for owner, weight in weights:
        hold_flat(rank, f"{owner}/{weight.name}", zeros_of(rank, weight), COMPUTE, shard=False)
    if weights:
        yield meeting(rank, instance, segment, "all_gather", ("gather", instance, m, forward))
    return rank.clock.gradients


def release(rank: Rank, names: list[str]) -> None:
    """Let whole flat buffers go."""
    for name in names:
        rank.machine.free(rank.number, name, f"{name}.flat")


def meeting(rank: Rank, instance: str, segment: Segment, operation: str, key: tuple[object, ...]) -> Meeting:
    """A collective of ZeRO over the flat buffers of all weights that a segment uses."""
    scatters, job = operation == "reduce_scatter", rank.job
    weights = (used if scatters else gathered)(rank, instance, segment)
    names = [f"{owner}/{'d_' if scatters else ''}{weight.name}" for owner, weight in weights]
    prices = job.prices.reduce if scatters else job.prices.gather_weights
    return shard_meeting(
        rank, names, operation, key, int(prices[segment.name][0]), overlap=job.step.structure.gradient_overlap, add=scatters
    )


def shard_meeting(rank: Rank, names: list[str], operation: str, key: tuple[object, ...], ps: int, *, overlap: bool, add: bool) -> Meeting:
    """A collective over dp between the flat buffers of these names and their shards."""
    members = group(rank.number, "dp", rank.job.degrees)
    itemsize = rank.job.itemsize(GRADIENT if operation == "reduce_scatter" else COMPUTE)
    flats, shards = tuple(f"{name}.flat" for name in names), tuple(f"{name}.shard" for name in names)
    stream = "gradients" if overlap else "compute"
    return Meeting((*key, members), members, operation, "dp", flats, None, -1, "sum", itemsize, ps, stream, shards, add)


def bucket_meeting(rank: Rank, instance: str, segment: Segment) -> Meeting:
    """The gradients of one segment, summed over dp beside what follows its last backward; each rank keeps its part with ZeRO 1."""
    job = rank.job
    names = [f"{instance}/d_{weight.name}" for weight in own_weights(segment, job.step.structure)]
    ps, key = int(job.prices.reduce[segment.name][0]), ("bucket", instance)
    if job.step.structure.zero_stage:
        return shard_meeting(rank, names, "reduce_scatter", key, ps, overlap=True, add=False)
    members = group(rank.number, "dp", job.degrees)
    itemsize = job.itemsize(GRADIENT)
    return Meeting((*key, members), members, "all_reduce", "dp", tuple(names), None, -1, "sum", itemsize, ps, "gradients")
