"""Loss and accuracy of weights that a run has told: put together from the ranks' parts, and run forward on one rank without dropout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from parsim.data import Dataset
from parsim.executor.clock import Clock
from parsim.executor.finish import owned, prepare
from parsim.executor.job import Job
from parsim.executor.lockstep import Mail
from parsim.executor.need import Need
from parsim.executor.rank import Rank
from parsim.executor.values import Array
from parsim.parallel.mesh import coordinates
from parsim.parallel.plan import Batch, Plan
from parsim.step.task import Compute
from parsim.step.timing import Market
from parsim_kernels import Machine

_Region = tuple[tuple[int, int], ...]  # first index and end along each dim
_MOST_ROWS = 512  # sequences that are measured by: of more, the first


@dataclass(frozen=True, slots=True)
class Score:
    """Of some sequences: the mean loss, and the share of labels that the largest logit names."""

    loss: float
    accuracy: float


def whole_weights(job: Job, by_rank: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Every weight by instance and name, from the parts that each rank holds after an update."""
    shardings = {(s.name, w.name): w.sharding for s in job.step.segments for w in s.weights}
    instances = {instance: segment for number in range(job.num_ranks) for instance, segment in _rank(job, number).held}
    pieces: dict[str, dict[_Region, dict[int, Array]]] = {}
    for number, held in enumerate(by_rank):
        at = coordinates(number, job.degrees)
        for name, part in held.items():
            instance, weight = name.split("/")
            sharding = shardings[instances[instance].name, weight]
            place: list[tuple[int, int]] = []
            for dim, axes in zip(sharding.dims, sharding.axes, strict=True):
                start, extent = 0, job.extent(dim)
                for axis in axes:
                    extent //= job.degrees[axis]
                    start += at[axis] * extent
                place.append((start, start + extent))
            pieces.setdefault(name, {}).setdefault(tuple(place), {})[at["dp"]] = part
    whole: dict[str, Array] = {}
    for name, parts in pieces.items():
        shape = [max(region[i][1] for region in parts) for i in range(len(next(iter(parts))))]
        array: NDArray[np.float64] = np.empty(shape, job.values.precision)
        whole[name] = array
        for region, over_dp in parts.items():
            target = array[tuple(slice(*each) for each in region)]
            joined = over_dp[0] if over_dp[0].shape == target.shape else np.concatenate([over_dp[i] for i in sorted(over_dp)])
            target[...] = joined.reshape(-1)[: target.size].reshape(target.shape)  # ZeRO 3 leaves flat, padded parts
    return whole


def evaluate(job: Job, weights: Mapping[str, Array], rows: Mapping[str, Array]) -> Score:
    """The score of whole weights on sequences, by the names that blocks draw."""
    rows = {name: values[:_MOST_ROWS] for name, values in rows.items()}
    count = len(next(iter(rows.values())))
    batch = Batch(count, job.batch.sequence_length, job.batch.dtype)
    stack = replace(job.stack, vocab_multiple=max(job.extent("V"), 1))  # the same padded vocabulary
    alone = Job.of(
        replace(job.model, dropout=0.0),
        Market(job.market.cluster, stack, batch),
        Plan(micro_batch=count),
        job.dtype_bytes,
        job.values.seed,
        training=job.training,
        data=Dataset("", "", rows, rows),
        precision=job.values.precision,
    )
    rank = _rank(alone, 0)
    prepare(rank)
    for instance, _, weight in owned(rank):
        rank.machine.get(0, f"{instance}/{weight.name}")[...] = weights[f"{instance}/{weight.name}"]
    assert not list(_forward(rank)), "one rank waits for nobody"
    loss = next(t for t in alone.step.head.backward if isinstance(t, Compute) and t.kernel == "cross_entropy_grad")
    softmax, labels = (rank.machine.get(0, f"head/0/{operand.name}") for operand in loss.inputs)
    hits = np.argmax(softmax, axis=-1) == labels
    return Score(float(rank.machine.get(0, "head/loss")), float(np.mean(hits)))


def _forward(rank: Rank) -> Iterator[Need]:
    carried = ""
    for instance, segment in rank.instances(0):
        carried = yield from rank.segment(instance, segment, 0, True, carried)


def _rank(job: Job, number: int) -> Rank:
    return Rank(number, job, Machine(job.num_buffers), Clock(), Mail())
