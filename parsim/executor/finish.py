"""The end of a step on one rank: gradients summed, clipped by their norm over all ranks, and the update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from parsim.executor.bound import Call
from parsim.executor.job import Attributes
from parsim.executor.need import Meeting, Need
from parsim.executor.rank import Rank
from parsim.executor.shards import hold_flat, own_part, shard_meeting
from parsim.executor.values import Array, shard
from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT
from parsim.parallel.mesh import group
from parsim.step.holdings import Holding, in_bucket, own_weights
from parsim.step.optimizer import OPTIMIZERS
from parsim.step.structure import HOST
from parsim.step.task import Finish, Segment, Weight
from parsim.step.timing import finish_ps

_NORM = "gradient_norm"

Owned = list[tuple[str, Segment, Weight]]


def owned(rank: Rank) -> Owned:
    """The weights that have a buffer of their own on this rank, in order."""
    structure = rank.job.step.structure
    return [(i, s, w) for i, s in rank.held for w in own_weights(s, structure)]


def prepare(rank: Rank) -> None:
    """Everything that lives through a step: weights, gradients, optimizer state, totals."""
    job, machine = rank.job, rank.machine
    gradients = _gradients(rank)
    for instance, _, weight in owned(rank):
        whole = job.values.weight(_drawn_as(instance, weight), weight.name, weight.initial, [job.extent(d) for d in weight.sharding.dims])
        part = shard(whole, weight.sharding, job.degrees, rank.at)
        _hold(rank, f"{instance}/{weight.name}", part, COMPUTE, sharded_from=3)
        _hold(rank, f"{instance}/d_{weight.name}", next(gradients), GRADIENT, sharded_from=2)
        updated = own_part(rank, part) if job.step.structure.zero_stage else part
        if job.step.structure.master_weights or job.step.structure.offload:
            machine.hold(rank.updater, f"{instance}/{weight.name}.master", updated.copy(), job.itemsize(FLOAT32))
        for state, itemsize in OPTIMIZERS[job.step.structure.optimizer].states:
            machine.hold(rank.updater, f"{instance}/{weight.name}.{state}", np.zeros_like(updated), itemsize)
    for instance, segment in rank.held:
        for total in segment.totals:
            machine.hold(rank.number, f"{instance}/{total.name}", np.zeros(()), job.itemsize(FLOAT32))
    machine.hold(rank.number, _NORM, np.zeros(()), job.itemsize(FLOAT32))


def _gradients(rank: Rank) -> Iterator[Array]:
    """Zeros for the gradient of each weight, one behind the other in memory, so that a bucket of them is summed where it lies."""
    local = rank.job.sizes.local
    shapes = [[int(local(weight.sharding, dim)[0]) for dim in weight.sharding.dims] for _, _, weight in owned(rank)]
    whole, start = np.zeros(sum(math.prod(shape) for shape in shapes), rank.job.values.precision), 0
    for shape in shapes:
        yield whole[start : start + math.prod(shape)].reshape(shape)
        start += math.prod(shape)


def _hold(rank: Rank, name: str, values: Array, dtype: str, sharded_from: int) -> None:
    """Hold what lasts of a weight or gradient at the plan's ZeRO stage: the whole, the whole as a flat buffer, or the own part."""
    zero = rank.job.step.structure.zero_stage
    if zero >= sharded_from:
        rank.machine.hold(rank.number, f"{name}.shard", own_part(rank, values), rank.job.itemsize(dtype))
    elif zero:
        hold_flat(rank, name, values, dtype, shard=True)
    else:
        rank.machine.hold(rank.number, name, values, rank.job.itemsize(dtype))


def _drawn_as(instance: str, weight: Weight) -> str:
    """A tied embedding starts with the same numbers on both stages."""
    return "embedding" if weight.owner == "embedding" else instance


@dataclass(frozen=True, slots=True)
class End:
    """One piece of a step's end on a rank: kernel calls, a collective, or a way to the host or back; and its price."""

    work: Finish
    ps: int
    meeting: Meeting | None = None
    calls: tuple[tuple[int, Call, Attributes], ...] = ()  # each with the memory it runs on: the rank's or its host's


def finish(rank: Rank, before_clip: Callable[[], None]) -> Iterator[Need]:
    """The step's end, piece by piece; `before_clip` may look at the summed gradients."""
    if not rank.ends:
        rank.ends = tuple(bind_end(rank))
    rank.clock.compute = max(rank.clock.compute, rank.clock.gradients)
    now = _now(rank)
    for end in rank.ends:
        if end.meeting:
            yield end.meeting
            continue
        if end.work.kernel == "clip":
            before_clip()
        elif end.work.axis == HOST:
            _pass_host(rank, end.work)
        for number, call, attributes in end.calls:
            call.run(rank.machine, number, {**attributes, **now})
        rank.clock.compute += end.ps


def _now(rank: Rank) -> dict[str, int]:
    """What kernels are told that differs from step to step."""
    return {"step": rank.step + 1}


def bind_end(rank: Rank) -> Iterator[End]:
    """The pieces in which this rank has a part."""
    for work in rank.job.step.finish:
        if work.master_only and rank.at["dp"] > 0:
            continue
        if work.axis == HOST:
            yield End(work, _price(rank, work))
        elif work.operation:
            meeting = _meeting(rank, work)
            if meeting:
                yield End(work, meeting.ps, meeting)
        elif work.kernel:
            calls = (_KERNELS[work.kernel](rank, instance, weight) for instance, _, weight in owned(rank))
            yield End(work, _price(rank, work), calls=tuple(calls))


def _price(rank: Rank, work: Finish) -> int:
    held = [segment.name for _, segment in rank.held]
    holding = Holding({segment.name: np.array([held.count(segment.name)]) for segment in rank.job.step.segments})
    return int(finish_ps(rank.job.step, work, rank.job.sizes, holding, rank.job.market)[0])


def _meeting(rank: Rank, work: Finish) -> Meeting | None:
    """The collective of a piece; None where this rank has nothing to give."""
    members = group(rank.number, work.axis, rank.job.degrees)
    bucket = [(i, w) for i, s, w in owned(rank) if in_bucket(w, s, work.bucket)]
    names = tuple(f"{i}/{w.name}" if work.bucket == "parameters" else f"{i}/d_{w.name}" for i, w in bucket)
    dtype = {"parameters": COMPUTE, "norm": FLOAT32}.get(work.bucket, GRADIENT)
    if work.bucket == "norm":
        names = (_NORM,)
    if work.bucket == "tied":
        members = (members[0], members[-1])
        if rank.number not in members:
            return None
    key, itemsize = (work.name, members), rank.job.itemsize(dtype)
    if work.part == "padded":
        return shard_meeting(rank, list(names), work.operation, (work.name,), _price(rank, work), overlap=False, add=False)
    if not names:
        return None
    names = tuple(f"{name}.shard" for name in names) if work.part == "shard" else names
    return Meeting(key, members, work.operation, work.axis, names, None, -1, "sum", itemsize, _price(rank, work), "compute")


def _pass_host(rank: Rank, work: Finish) -> None:
    """Gradients to the host, or the weights that it has updated back over those of the device."""
    machine, to_host = rank.machine, work.operation == "to_host"
    for instance, _, weight in owned(rank):
        name = f"{instance}/{weight.name}"
        if to_host:
            gradient, itemsize = _updated(rank, f"{instance}/d_{weight.name}"), rank.job.itemsize(GRADIENT)
            machine.send(rank.number, rank.updater, gradient, f"{name}.gradient", HOST, itemsize)
            machine.receive(rank.updater, f"{name}.gradient", itemsize)
        else:
            machine.send(rank.updater, rank.number, f"{name}.master", name, HOST, rank.job.itemsize(COMPUTE))
            machine.receive_over(rank.number, name, _updated(rank, name))
            machine.free(rank.updater, f"{name}.gradient")


def _updated(rank: Rank, name: str) -> str:
    """The buffer that the optimizer works on: the own part with ZeRO, else the whole."""
    return f"{name}.shard" if rank.job.step.structure.zero_stage else name


_Bound = tuple[int, Call, Attributes]


def _add_norm(rank: Rank, instance: str, weight: Weight) -> _Bound:
    """Each element of a gradient counts once: on the first of the ranks that hold the same, and not for the tied copy."""
    sharded = {"pp", "dp", *(axis for axes in weight.sharding.axes for axis in axes)}
    is_copy = weight.owner != instance and weight.owner == "embedding"
    summed = {work.axis for work in rank.job.step.finish if work.bucket == "norm"}
    scale = 0.0 if is_copy or any(rank.at[axis] for axis in summed - sharded) else 1.0
    gradient = _updated(rank, f"{instance}/d_{weight.name}")
    return rank.number, Call("norm_sq", (gradient,), (_NORM,), accumulate=True), {"scale": scale}


def _clip(rank: Rank, instance: str, weight: Weight) -> _Bound:
    gradient = _updated(rank, f"{instance}/d_{weight.name}")
    return rank.number, Call("clip", (gradient, _NORM), (gradient,), in_place=True), {"max_norm": rank.job.training.max_norm}


def _update(rank: Rank, instance: str, weight: Weight) -> _Bound:
    structure, name = rank.job.step.structure, f"{instance}/{weight.name}"
    optimizer, given = OPTIMIZERS[structure.optimizer], rank.job.training
    target = f"{name}.master" if structure.master_weights or structure.offload else _updated(rank, name)
    states = (target, *(f"{name}.{state}" for state, _ in optimizer.states))
    inputs = (*states, f"{name}.gradient" if structure.offload else _updated(rank, f"{instance}/d_{weight.name}"))
    decays = {"beta1": given.beta1, "beta2": given.beta2, "weight_decay": given.weight_decay, "momentum": given.momentum}
    settings: Attributes = {"lr": given.learning_rate, "eps": given.eps, **decays}  # a kernel takes what it knows
    return rank.updater, Call(optimizer.kernel, inputs, states, in_place=True), settings


def _cast(rank: Rank, instance: str, weight: Weight) -> _Bound:
    """The new weights replace the old; numpy has no narrower type, so the numbers stay."""
    name = f"{instance}/{weight.name}"
    return rank.number, Call("cast", (f"{name}.master",), (_updated(rank, name),), overwrite=True), {}


_KERNELS: Final = {"norm_sq": _add_norm, "clip": _clip, "adam": _update, "sgd_momentum": _update, "cast": _cast}
