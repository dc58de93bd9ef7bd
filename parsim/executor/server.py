"""A parameter server: the weights of its shard, end to end, with the states of their optimizer, and the updates that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

import numpy as np

from parsim.asynchrony.protocol import Terms
from parsim.asynchrony.service import shares_of
from parsim.executor.calls import told_of_update
from parsim.executor.job import Job
from parsim.model.dims import COMPUTE, GRADIENT, MASTER
from parsim.parallel.optimizer import OPTIMIZERS
from parsim_kernels import Ledger, Machine
from parsim_kernels.signature import Array

_WEIGHTS: Final = "weights"
_PULLED: Final = "pulled weights"
_SUM: Final = "sum of gradients"


def bounds(num_elements: int, num_servers: int) -> list[slice]:
    """Which elements of weights that lie end to end each server has.

    >>> [(each.start, each.stop) for each in bounds(10, 3)]
    [(0, 4), (4, 7), (7, 10)]
    """
    ends = [0, *accumulate(shares_of(num_elements, num_servers))]
    return [slice(*each) for each in pairwise(ends)]


class Server:
    """The memory of one server: weights as they are updated, and apart from them as they are pulled where that is narrower; a gradient of
    each worker, and the sum of those of an update that takes several."""

    def __init__(self, job: Job, terms: Terms, weights: Array) -> None:
        """`weights`: those of its shard before the first update."""
        self.job, self.terms, self.machine, self.num_updates = job, terms, Machine(1), 0
        optimizer, updated, pulled = OPTIMIZERS[job.step.structure.optimizer], job.itemsize(MASTER), job.itemsize(COMPUTE)
        states = optimizer.state_sizes(updated)
        self._kernel, self._states = optimizer.kernel, (_WEIGHTS, *(name for name, _ in states))
        self._pulled = _WEIGHTS if updated == pulled else _PULLED
        held = {_WEIGHTS: updated, **dict(states)} | ({} if updated == pulled else {_PULLED: pulled})
        held |= {_gradient(worker): job.itemsize(GRADIENT) for worker in range(terms.num_workers)}
        held |= {_SUM: job.itemsize(GRADIENT)} if terms.is_synchronous else {}
        for name, itemsize in held.items():
            self.machine.hold(0, name, weights.copy() if name in (_WEIGHTS, _PULLED) else np.zeros_like(weights), itemsize)
        self.machine.reset_peak()

    @property
    def ledger(self) -> Ledger:
        """What it counted."""
        return self.machine.ledgers[0]

    @property
    def weights(self) -> Array:
        """As they are pulled after the last update: the buffer itself."""
        return self.machine.get(0, self._pulled)

    def keep(self, worker: int, gradient: Array) -> None:
        """The gradient of a worker, until an update takes it."""
        self.machine.get(0, _gradient(worker))[...] = gradient

    def update(self, workers: Sequence[int]) -> None:
        """One step of the optimizer by the mean of the gradients of some workers, each a part of the mean over all of them.

        The optimizer counts in the ledger; adding gradients and scaling their sum counts nowhere, as in predictions.
        """
        gradients = [self.machine.get(0, _gradient(worker)) for worker in workers]
        name = _SUM if self.terms.is_synchronous else _gradient(workers[0])
        mean = self.machine.get(0, name)
        if self.terms.is_synchronous:
            mean[...] = gradients[0]
            for gradient in gradients[1:]:
                mean += gradient
        mean *= self.terms.num_workers / len(workers)
        self.num_updates += 1
        told = {**told_of_update(self.job.training), "step": self.num_updates}
        self.machine.compute(0, self._kernel, [*self._states, name], self._states, [], told, in_place=True)
        if self._pulled != _WEIGHTS:
            self.machine.compute(0, "cast", [_WEIGHTS], [_PULLED], [], {}, overwrite=True)


def _gradient(worker: int) -> str:
    return f"gradient of worker {worker}"
