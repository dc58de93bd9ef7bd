"""The end of a step on one rank: gradients summed, clipped by their norm over all ranks, and the update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

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
    return [(i, s, w) for i, s in rank.held() for w in own_weights(s, structure)]


def prepare(rank: Rank) -> None:
    """Everything that lives through a step: weights, gradients, optimizer state, totals."""
    job, machine = rank.job, rank.machine
    for instance, _, weight in owned(rank):
        whole = job.values.weight(_drawn_as(instance, weight), weight.name, weight.initial, [job.extent(d) for d in weight.sharding.dims])
        part = shard(whole, weight.sharding, job.degrees, rank.at)
        _hold(rank, f"{instance}/{weight.name}", part, COMPUTE, sharded_from=3)
        _hold(rank, f"{instance}/d_{weight.name}", np.zeros_like(part), GRADIENT, sharded_from=2)
        updated = own_part(rank, part) if job.step.structure.zero_stage else part
        if job.step.structure.master_weights or job.step.structure.offload:
            machine.hold(rank.updater, f"{instance}/{weight.name}.master", updated.copy(), job.itemsize(FLOAT32))
        for state, itemsize in OPTIMIZERS[job.step.structure.optimizer].states:
            machine.hold(rank.updater, f"{instance}/{weight.name}.{state}", np.zeros_like(updated), itemsize)
    for instance, segment in rank.held():
        for total in segment.totals:
            machine.hold(rank.number, f"{instance}/{total.name}", np.zeros(()), job.itemsize(FLOAT32))
    machine.hold(rank.number, _NORM, np.zeros(()), job.itemsize(FLOAT32))


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


def finish(rank: Rank, before_clip: Callable[[], None]) -> Iterator[Need]:
    """The step's end, piece by piece; `before_clip` may look at the summed gradients."""
    rank.clock.compute = max(rank.clock.compute, rank.clock.gradients)
    for work in rank.job.step.finish:
        waits = work.master_only and rank.at["dp"] > 0
        if work.kernel == "clip" and not waits:
            before_clip()
        if work.axis == HOST and not waits:
            _pass_host(rank, work)
        elif work.operation and not waits:
            yield from _meet(rank, work)
        elif work.kernel and not waits:
            _compute(rank, work)


def _price(rank: Rank, work: Finish) -> int:
    held = [segment.name for _, segment in rank.held()]
    holding = Holding({segment.name: np.array([held.count(segment.name)]) for segment in rank.job.step.segments})
    return int(finish_ps(rank.job.step, work, rank.job.sizes, holding, rank.job.market)[0])


def _meet(rank: Rank, work: Finish) -> Iterator[Need]:
    members = group(rank.number, work.axis, rank.job.degrees)
    bucket = [(i, w) for i, s, w in owned(rank) if in_bucket(w, s, work.bucket)]
    names = tuple(f"{i}/{w.name}" if work.bucket == "parameters" else f"{i}/d_{w.name}" for i, w in bucket)
    dtype = {"parameters": COMPUTE, "norm": FLOAT32}.get(work.bucket, GRADIENT)
    if work.bucket == "norm":
        names = (_NORM,)
    if work.bucket == "tied":
        members = (members[0], members[-1])
        if rank.number not in members:
            return
    key, itemsize = (work.name, members), rank.job.itemsize(dtype)
    if work.part == "padded":
        ps = _price(rank, work)
        yield shard_meeting(rank, list(names), work.operation, (work.name,), ps, overlap=False, add=False)
    elif names:
        names = tuple(f"{name}.shard" for name in names) if work.part == "shard" else names
        yield Meeting(key, members, work.operation, work.axis, names, None, -1, "sum", itemsize, _price(rank, work), "compute")


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
    rank.clock.compute += _price(rank, work)


def _compute(rank: Rank, work: Finish) -> None:
    for instance, _, weight in owned(rank):
        _KERNELS[work.kernel](rank, instance, weight)
    rank.clock.compute += _price(rank, work)


def _updated(rank: Rank, name: str) -> str:
    """The buffer that the optimizer works on: the own part with ZeRO, else the whole."""
    return f"{name}.shard" if rank.job.step.structure.zero_stage else name


def _add_norm(rank: Rank, instance: str, weight: Weight) -> None:
    """Each element of a gradient counts once: on the first of the ranks that hold the same, and not for the tied copy."""
    sharded = {"pp", "dp", *(axis for axes in weight.sharding.axes for axis in axes)}
    is_copy = weight.owner != instance and weight.owner == "embedding"
    summed = {work.axis for work in rank.job.step.finish if work.bucket == "norm"}
    scale = 0.0 if is_copy or any(rank.at[axis] for axis in summed - sharded) else 1.0
    gradient = _updated(rank, f"{instance}/d_{weight.name}")
    rank.machine.compute(rank.number, "norm_sq", [gradient], [_NORM], [], {"scale": scale}, accumulate=True)


def _clip(rank: Rank, instance: str, weight: Weight) -> None:
    gradient = _updated(rank, f"{instance}/d_{weight.name}")
    longest = {"max_norm": rank.job.training.max_norm}
    rank.machine.compute(rank.number, "clip", [gradient, _NORM], [gradient], [], longest, in_place=True)


def _update(rank: Rank, instance: str, weight: Weight) -> None:
    structure, name = rank.job.step.structure, f"{instance}/{weight.name}"
    optimizer = OPTIMIZERS[structure.optimizer]
    target = f"{name}.master" if structure.master_weights or structure.offload else _updated(rank, name)
    states = [target, *(f"{name}.{state}" for state, _ in optimizer.states)]
    inputs = [*states, f"{name}.gradient" if structure.offload else _updated(rank, f"{instance}/d_{weight.name}")]
    rank.machine.compute(rank.updater, optimizer.kernel, inputs, states, [], _settings(rank), in_place=True)


def _settings(rank: Rank) -> dict[str, float]:
    """What the optimizer kernels ask for; each takes what it knows."""
    given = rank.job.training
    decays = {"beta1": given.beta1, "beta2": given.beta2, "weight_decay": given.weight_decay, "momentum": given.momentum}
    return {"lr": given.learning_rate, "eps": given.eps, "step": rank.step + 1, **decays}


def _cast(rank: Rank, instance: str, weight: Weight) -> None:
    """The new weights replace the old; numpy has no narrower type, so the numbers stay."""
    name = f"{instance}/{weight.name}"
    rank.machine.compute(rank.number, "cast", [f"{name}.master"], [_updated(rank, name)], [], {}, overwrite=True)


_KERNELS: Final = {"norm_sq": _add_norm, "clip": _clip, "adam": _update, "sgd_momentum": _update, "cast": _cast}
