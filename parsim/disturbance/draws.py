"""From a section `disturbance` to the factors of a pipeline in some steps.  A cause has the same numbers alone as with others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec import Struct

from parsim.cluster.scalars import Floats, Ints
from parsim.cost.factors import Factors
from parsim.cost.slowest import draw_slowest
from parsim.disturbance.documents import Documents
from parsim.disturbance.pipelines import Pipelines
from parsim.scenario.disturbance import STEP, Disturbance, Jitter

_KERNELS, _LINKS, _STRAGGLERS, _DOCUMENTS = range(4)  # streams of numbers


class Draws(Struct, frozen=True, eq=False):
    """What is drawn of one plan."""

    disturbance: Disturbance
    pipelines: Pipelines
    documents: Documents | None
    rank: Ints  # of each action, and then of each end of a step
    num_micro_batches: int  # of a pipeline
    micro_batch: int
    devices_per_node: int

    def factors(self, pipeline: int, part: int, num_samples: int) -> Factors:
        """Those of one pipeline, in one part of the samples."""

        def rng(stream: int, *more: int) -> np.random.Generator:
            return np.random.default_rng([self.disturbance.seed, stream, pipeline, part, *more])

        more = less = None
        if self.documents is not None and self.disturbance.imbalance:
            shape = self.num_micro_batches, self.micro_batch, num_samples
            more, less = self.documents.draw(rng(_DOCUMENTS), self.pipelines.replicas, shape)
        kernels, links = self._kernels(pipeline, num_samples, rng), None
        if (jitter := self.disturbance.links) is not None:
            _, num_ranks, width = self.pipelines.devices.shape
            links = self._slowest(jitter, rng(_LINKS), num_samples, np.full((num_ranks, 1), width))
        return Factors(num_samples, kernels, links, more, less)

    def _kernels(self, pipeline: int, num_samples: int, rng: Callable[..., np.random.Generator]) -> Floats | None:
        """Of the slowest device of each rank, [action + rank, sample]."""
        disturbance, devices = self.disturbance, self.pipelines.devices[pipeline]
        lasting = np.vectorize(lambda device: disturbance.device_factor(device, self.devices_per_node))(devices)
        jitter, often = disturbance.kernels, disturbance.stragglers
        if jitter is None and often is None:
            return None if (lasting == 1.0).all() else lasting.max(axis=1)[self.rank, None]
        found = np.zeros((1, 1))
        for number, factor in enumerate(np.unique(lasting).tolist()):
            count = (lasting == factor).sum(axis=1)[:, None]  # devices of each rank
            if often is not None:
                slow = rng(_STRAGGLERS, number).binomial(count, often.probability, (len(count), num_samples))
                slowed = self._slowest(jitter, rng(_KERNELS, number, 1), num_samples, slow)
                found, count = np.maximum(found, factor * often.factor * slowed), count - slow
            usual = self._slowest(jitter, rng(_KERNELS, number), num_samples, count)
            found = np.maximum(found, factor * usual) if found.any() else factor * usual
        return found

    def _slowest(self, jitter: Jitter | None, rng: np.random.Generator, num_samples: int, count: Ints) -> Floats:
        """The largest of so many draws, [action + rank, sample]; `count`: of each rank and sample."""
        if jitter is None:
            return (count > 0).astype(np.float64)[self.rank]
        rank = np.arange(len(count)) if jitter.per == STEP else self.rank
        alike = (count == count.flat[0]).all()  # one number is faster than a number each
        found = draw_slowest(jitter, rng, (len(rank), num_samples), int(count.flat[0]) if alike else count[rank])
        return found[self.rank] if jitter.per == STEP else found


def num_drawn(disturbance: Disturbance, pipelines: Pipelines, num_rows: int) -> int:
    """How many factors are drawn: of each device, pass and step."""
    jitters = [each for each in (disturbance.kernels, disturbance.links) if each is not None and each.cv]
    count, ranks, width = map(int, pipelines.devices.shape)
    rows = [ranks, *(ranks if jitter.per == STEP else num_rows for jitter in jitters)]
    return count * width * disturbance.samples * sum(rows)
