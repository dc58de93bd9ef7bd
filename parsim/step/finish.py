"""The end of a step as tasks over buckets: gradients are summed, clipped by their norm over all ranks, weights updated and shared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT
from parsim.parallel.dimensions import axes, replica_axes
from parsim.parallel.group import Group
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.parallel.sharding import Sharding
from parsim.step.step import Segment
from parsim.step.structure import Structure
from parsim.step.task import HOST, Bucket, Collective, Compute, HostCopy, Operand, Part, Task, Wait, Weight

NORM = Operand("gradient_norm", Sharding((), ()), FLOAT32)
Placed = tuple[str, Weight]  # its segment, and a weight


def finish(structure: Structure, segments: Sequence[Segment]) -> Iterator[Task]:
    """The tasks of a step's end, in order."""
    every = tuple((segment.name, weight) for segment in segments for weight in segment.own_weights)
    stage = structure.zero_stage
    held: Part = "shard" if stage >= 2 else "whole"  # of the gradients, where they are reduced
    updated: Part = "shard" if stage else "whole"
    alone = structure.master
    inside, outside = _partial_axes(structure, every)
    if structure.replica_stream:
        yield Wait("gradient_sums", streams=(structure.replica_stream,))
    yield from (_sum(f"{axis}_gradients", Group((axis,)), _partial(every, axis), held) for axis in inside)
    if structure.replicas.axes and not structure.sums_in_passes:
        yield _replica_sum(structure, every)
    yield from (_sum(f"{axis}_gradients", Group((axis,)), _partial(every, axis), updated) for axis in outside)
    copies = {weight.name for _, weight in every if weight.copy_of}
    tied = tuple((name, weight) for name, weight in every if weight.name in copies)
    if tied:
        yield _sum("tied_embedding_gradients", Group(("pp",), tuple(name for name, _ in tied)), tied, held)
    gradients = Bucket("gradients", updated, GRADIENT, every)
    yield Compute("gradient_norm", "norm_sq", (gradients,), (NORM,), {}, accumulate=True, alone=alone)
    for axis in _norm_axes(structure, every):
        yield Collective(f"gradient_norm_{axis}", "all_reduce", Group((axis,)), NORM, NORM, fresh=False, alone=alone)
    yield Compute("clip", "clip", (gradients, NORM), (gradients,), {}, in_place=True, alone=alone)
    yield from _update(structure, every, gradients)
    if alone:
        weights = Bucket("parameters", "whole", COMPUTE, every)
        yield Collective("share_weights", "broadcast", alone, weights, weights, fresh=False)
    if stage in (1, 2):
        shards, whole = (Bucket("parameters", part, COMPUTE, every) for part in ("shard", "padded"))
        yield Collective("gather_weights", "all_gather", structure.replicas, shards, whole, fresh=False)


def replica_sum(structure: Structure, name: str, weights: tuple[Placed, ...], *, add: bool, stream: str) -> Collective:
    """The sum of gradients over the ranks that replicate their weights; with ZeRO each rank keeps its part of it."""
    whole = Bucket("gradients", "padded" if structure.zero_stage else "whole", GRADIENT, weights)
    operation, target = "all_reduce", whole
    if structure.zero_stage:
        operation, target = "reduce_scatter", Bucket("gradients", "shard", GRADIENT, weights)
    return Collective(name, operation, structure.replicas, whole, target, fresh=False, accumulate=add, stream=stream)


def _replica_sum(structure: Structure, every: tuple[Placed, ...]) -> Collective:
    if structure.master:
        whole = Bucket("gradients", "whole", GRADIENT, every)
        return Collective("data_parallel_gradients", "reduce", structure.replicas, whole, whole, fresh=False)
    return replica_sum(structure, "data_parallel_gradients", every, add=False, stream="compute")


def _update(structure: Structure, every: tuple[Placed, ...], gradients: Bucket) -> Iterator[Task]:
    """The optimizer, on the device or its host, and the new weights in the type that is computed with."""
    alone, part = structure.master, gradients.part
    states, weights = Bucket("states", part, FLOAT32, every), Bucket("parameters", part, COMPUTE, every)
    kernel, named = OPTIMIZERS[structure.optimizer].kernel, {"optimizer": structure.optimizer}
    if structure.offload:
        yield HostCopy("gradients_to_host", gradients, to_host=True, alone=alone)
        yield Compute("update", kernel, (states, gradients), (states,), named, in_place=True, alone=alone, stream=HOST)
        yield HostCopy("weights_from_host", weights, to_host=False, alone=alone)
        yield Wait("host", streams=(HOST,))
        return
    yield Compute("update", kernel, (states, gradients), (states,), named, in_place=True, alone=alone)
    if structure.master_weights:
        yield Compute("cast_weights", "cast", (states,), (weights,), {}, alone=alone)


def _sum(name: str, group: Group, weights: tuple[Placed, ...], part: Part) -> Collective:
    bucket = Bucket("gradients", part, GRADIENT, weights)
    return Collective(name, "all_reduce", group, bucket, bucket, fresh=False)


def _partial(weights: Iterable[Placed], axis: str) -> tuple[Placed, ...]:
    return tuple((name, weight) for name, weight in weights if axis in weight.gradient.partial)


def _partial_axes(structure: Structure, every: Sequence[Placed]) -> tuple[list[str], list[str]]:
    """Other axes over which gradients are partial sums: those nested inside the replicas, and those around, where ZeRO has left shards."""
    partial = {axis for _, weight in every for axis in weight.gradient.partial}
    order, data = axes(), replica_axes()
    found = [axis for axis in structure.axes if axis in partial and axis not in data]
    outside = [axis for axis in found if order.index(axis) < min(map(order.index, data))]
    return [axis for axis in found if axis not in outside], outside


def _norm_axes(structure: Structure, every: Sequence[Placed]) -> tuple[str, ...]:
    """Axes whose ranks hold different parts of the gradients when the step ends, so that their norm is a sum over them."""
    data = structure.replicas.axes if structure.zero_stage else ()
    over = {axis for _, weight in every for each in weight.sharding.axes for axis in each}
    inner = [axis for axis in structure.axes if axis in over and axis not in data]
    return (*data, *inner, *(axis for axis in structure.axes if axis == "pp"))
