"""A worker of parameter servers: one rank that takes weights, runs the passes of some sequences, and gives their gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim.executor import program
from parsim.executor.clock import Clock
from parsim.executor.job import Job
from parsim.executor.lockstep import Mail
from parsim.executor.names import trained_weights_of
from parsim.executor.rank import Rank
from parsim_kernels import Ledger, Machine
from parsim_kernels.signature import Array


class Replica:
    """The device of one worker, whose number is that of a replica.  Weights and gradients pass end to end, as the model has them."""

    def __init__(self, job: Job, number: int) -> None:
        self.machine, self.clock = Machine(job.num_buffers), Clock()
        self.rank = Rank(number, job, self.machine, self.clock, Mail())
        self.rank.store.prepare()
        self.machine.reset_peak()
        self._is_used, weights = False, [*trained_weights_of(self.rank.copies)]
        self._weights = [f"{instance}/{weight.name}" for instance, weight in weights]
        self._gradients = [f"{instance}/d_{weight.name}" for instance, weight in weights]

    @property
    def ledger(self) -> Ledger:
        """What it counted."""
        return self.machine.ledgers[self.rank.number]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its trained weights, by name, in the order in which they lie end to end."""
        return {name: self.machine.get(self.rank.number, name).shape for name in self._weights}

    def longer_ps(self, factor: float) -> int:
        """How much longer a gradient takes where kernels take so many times as long, once one has been computed."""
        return self.rank.longer_ps(factor)

    def weights(self) -> Array:
        """A copy of those that it computes with."""
        return self._end_to_end(self._weights)

    def take(self, weights: Array) -> None:
        """Compute with these weights from now on."""
        start = 0
        for name in self._weights:
            buffer = self.machine.get(self.rank.number, name)
            buffer[...] = weights[start : start + buffer.size].reshape(buffer.shape)
            start += buffer.size
        assert not list(self.rank.finish(lambda _: None)), "a worker waits for nobody"  # which makes of weights what lasts narrow

    def gradient(self, ticket: int) -> tuple[float, Array]:
        """Loss and gradient of one part of a batch, as they go into the mean over the whole batch.

        With n replicas, ticket t has the sequences that replica t mod n has in step t // n of synchronous training.
        """
        rank = self.rank
        rank.step, place = divmod(ticket, rank.job.num_ranks)
        rank.at.update(rank.job.mesh.coordinates(place))  # what is drawn follows from it, and nothing else of a replica
        if self._is_used:
            rank.store.clear()
        self._is_used = True
        assert not list(program.passes(rank)), "a worker waits for nobody"
        return float(rank.loss() or 0.0), self._end_to_end(self._gradients)

    def _end_to_end(self, names: Sequence[str]) -> Array:
        return np.concatenate([self.machine.get(self.rank.number, name).reshape(-1) for name in names])
