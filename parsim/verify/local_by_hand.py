"""Replicas that train apart a second time, in plain numpy from the papers: no task, no kernel and no collective is shared.

Source: Stich 2018 (arXiv:1805.09767), algorithm 1; Douillard et al. 2023 (arXiv:2311.08105), algorithm 1; Loshchilov and Hutter 2019
(arXiv:1711.05101), algorithm 2; Sutskever et al. 2013 (ICML), Eq. 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from parsim.executor.names import own_weights_of
from parsim.executor.values import shard
from parsim.parallel.mesh import Mesh
from parsim.parallel.plan import Plan
from parsim.scenario.types import Training
from parsim.step.task import Weight
from parsim.verify.arithmetic import Arithmetic
from parsim.verify.by_hand import Forwards
from parsim.verify.servers import Verdict
from parsim_kernels.signature import Array

if TYPE_CHECKING:
    from parsim.executor.job import Job
    from parsim.executor.run import Execution

_Named = dict[str, Array]


class ExpectedPeriods(Struct, frozen=True):
    """What some steps come to: their losses, and the weights of each replica behind the last."""

    losses: tuple[float, ...]
    weights: tuple[_Named, ...]


class _Replica:
    """One that trains by itself: its weights, and the means that its own optimizer keeps."""

    def __init__(self, job: Job) -> None:
        self.run, self.given, self.is_adam = Arithmetic(job), job.training, job.step.structure.optimizer != "sgd_momentum"
        self.names = sorted(self.run.trained)
        self.first, self.second = ({name: np.zeros_like(self.run.weights[name]) for name in self.names} for _ in range(2))

    def update(self, step: int) -> None:
        """The step of this number, counted from 1, by the gradients that the run has added up."""
        given, gradients = self.given, {name: self.run.gradients[name] for name in self.names}
        length = np.sqrt(sum(float((g * g).sum()) for g in gradients.values()))
        for name, g in gradients.items():
            self.run.weights[name] = self._weight_behind(name, g * min(1.0, given.max_norm / (length + 1e-6)), step)

    def _weight_behind(self, name: str, g: Array, step: int) -> Array:
        weight, given = self.run.weights[name], self.given
        if not self.is_adam:
            self.first[name] = given.momentum * self.first[name] + g
            return np.asarray(weight - given.learning_rate * self.first[name])
        self.first[name] = given.beta1 * self.first[name] + (1 - given.beta1) * g
        self.second[name] = given.beta2 * self.second[name] + (1 - given.beta2) * g**2
        mean, square = self.first[name] / (1 - given.beta1**step), self.second[name] / (1 - given.beta2**step)
        return np.asarray(weight - given.learning_rate * (mean / (np.sqrt(square) + given.eps) + given.weight_decay * weight))


def local_by_hand(job: Job, forwards: Forwards, plan: Plan, num_apart: int, num_steps: int) -> ExpectedPeriods | None:
    """Some steps of so many replicas that train apart, each of which runs as this job of one rank; None for another family of models.

    `plan`: says when they come together.  Their micro_batches follow one another in the job's batch, one of each before the next of any.
    """
    if (forward := forwards.get(type(job.spec))) is None:
        return None
    replicas, losses = [_Replica(job) for _ in range(num_apart)], []
    count, given = job.workload.num_micro_batches // len(replicas), job.training
    anchor = {name: replicas[0].run.weights[name].copy() for name in replicas[0].names}
    velocity = {name: np.zeros_like(weight) for name, weight in anchor.items()}
    for step in range(num_steps):
        losses.append(0.0)
        for place, each in enumerate(replicas):
            each.run.loss, each.run.gradients = 0.0, {name: np.zeros_like(weight) for name, weight in each.run.weights.items()}
            for number in range(count):
                each.run.micro_batch = (step * count + number) * len(replicas) + place
                forward(each.run)(np.array(float(len(replicas))))  # the mean over its own sequences
            each.update(step + 1)
            losses[-1] += each.run.loss
        for name in anchor if (step + 1) % plan.local_steps == 0 else ():
            new = np.mean([each.run.weights[name] for each in replicas], axis=0)
            if plan.outer_optimizer == "nesterov":
                new = _after_nesterov(given, new, anchor, velocity, name)
            for each in replicas:
                each.run.weights[name] = new.copy()
    return ExpectedPeriods(tuple(losses), tuple(each.run.weights for each in replicas))


def _after_nesterov(given: Training, mean: Array, anchor: _Named, velocity: _Named, name: str) -> Array:
    """The weight behind an outer step; it is the anchor of the next."""
    moved = anchor[name] - mean
    velocity[name] = given.outer_momentum * velocity[name] + moved
    anchor[name] = anchor[name] - given.outer_learning_rate * (moved + given.outer_momentum * velocity[name])
    return anchor[name]


def apart_by_hand(executed: Execution, alone: Job, forwards: Forwards, tolerance: float) -> Iterator[Verdict]:
    """Losses and weights of replicas that have just come together, of which each runs as the job of one rank."""
    job, plan = executed.job, executed.job.asked.plan
    expected = local_by_hand(alone, forwards, plan, job.num_apart, job.asked.num_steps)
    if expected is None:
        return
    pairs = zip(executed.losses, expected.losses, strict=True)
    yield "losses, by hand", all(abs(mine - theirs) <= tolerance * abs(theirs) for mine, theirs in pairs), f"{executed.loss:.12f}"
    worst, full = 0.0, expected.weights[0]
    for rank, weights in enumerate(executed.weights):
        at = job.mesh.coordinates(rank)
        for name, weight in weights_at(job, at).items():
            own = shard(full[name if name in full else f"{weight.copy_of}/{weight.name}"], weight.sharding, job.sizes.at(at))
            if weights[name].shape != own.shape or (plan.zero_stage > 2 and own.size == 1):
                own = own_part(own, weight, job.mesh, at)
            worst = max(worst, float(np.abs(weights[name] - own).max(initial=0.0)))
    yield "weights, by hand", worst <= tolerance, f"{worst:.1e}, by the formulas"


def weights_at(job: Job, at: Mapping[str, int]) -> dict[str, Weight]:
    """The weights of the rank at these coordinates, by copy and name."""
    copies = [each for stage in job.workload.stages(at["pp"]) for each in job.copies(stage)]
    return {f"{copy}/{weight.name}": weight for copy, weight in own_weights_of(copies)}


def own_part(array: np.ndarray, weight: Weight, mesh: Mesh, at: Mapping[str, int]) -> np.ndarray:
    """One of the equal parts of a flattened array among the ranks that replicate it, the last padded with zeros."""
    num_ranks, position = prod(mesh.degrees[axis] for axis in weight.group.axes), mesh.position(at, weight.group)
    length = -(-array.size // num_ranks)
    flat = np.pad(array.reshape(-1), (0, num_ranks * length - array.size))
    return flat[position * length : (position + 1) * length]
