"""Loss and accuracy of weights that a run has told: put together from the ranks' parts, and run forward on one rank without dropout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from parsim.cost.cost_model import CostModel
from parsim.data import Dataset
from parsim.executor.clock import Clock
from parsim.executor.job import Job
from parsim.executor.lockstep import Mail
from parsim.executor.names import own_weights_of
from parsim.executor.rank import Rank
from parsim.executor.requests import Request
from parsim.executor.values import region
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Plan
from parsim.step.task import Compute
from parsim_kernels import Machine
from parsim_kernels.signature import Array

LOSS_GRADIENTS: Final = ("cross_entropy_grad", "nll_loss_grad")  # kernels that read probabilities and labels
_Region = tuple[tuple[int, int], ...]  # first index and end along each dim
_MOST_ROWS = 512  # sequences that are measured by: of more, the first


class Score(Struct, frozen=True):
    """Of some sequences: the mean loss, and the share of labels that the largest logit names.

    `exact`: the share of sequences all of whose labels it names, None where they have one each; of a decoder those that greedy decoding
    writes word for word, since each token then is told the right ones before it.
    """

    loss: float
    accuracy: float
    exact: float | None


def whole_weights(job: Job, by_rank: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Every weight by instance and name, from the parts that each rank holds after an update; the mean of replicas that train apart."""
    pieces: dict[str, dict[_Region, dict[int, Array]]] = {}
    for number, held in enumerate(_means(job, by_rank)):
        at = job.mesh.coordinates(number)
        weights = {f"{instance}/{weight.name}": weight for instance, weight in own_weights_of(_rank(job, number).copies)}
        for name, part in held.items():
            place, position = region(weights[name].sharding, job.sizes.at(at)), job.mesh.position(at, weights[name].group)
            pieces.setdefault(name, {}).setdefault(place, {})[position] = part
    whole: dict[str, Array] = {}
    for name, parts in pieces.items():
        shape = [max(place[i][1] for place in parts) for i in range(len(next(iter(parts))))]
        array: NDArray[np.float64] = np.empty(shape, job.values.precision)
        whole[name] = array
        for place, shards in parts.items():
            target = array[tuple(slice(*each) for each in place)]
            joined = shards[0] if shards[0].shape == target.shape else np.concatenate([shards[i] for i in sorted(shards)])
            target[...] = joined.reshape(-1)[: target.size].reshape(target.shape)  # ZeRO 3 leaves flat, padded parts
    return whole


def _means(job: Job, by_rank: Sequence[Mapping[str, Array]]) -> Iterator[Mapping[str, Array]]:
    """The same of what ranks that train apart hold; as it is where they have come together."""
    apart = job.step.structure.apart
    for number, held in enumerate(by_rank):
        others = [by_rank[each] for each in job.members(number, apart.group)] if apart else [held]
        yield {name: own + np.mean([each[name] - own for each in others], axis=0) for name, own in held.items()} if apart else held


def _without_dropout(spec: ModelSpec) -> ModelSpec:
    return replace(spec, dropout=0.0, tuning=replace(spec.tuning, lora_dropout=0.0))


def evaluate(job: Job, weights: Mapping[str, Array], rows: Mapping[str, Array]) -> Score:
    """The score of whole weights on sequences, by the names that blocks draw."""
    rows = {name: values[:_MOST_ROWS] for name, values in rows.items()}
    count = len(next(iter(rows.values())))
    batch = replace(job.model.batch, global_batch=count)
    vocabulary = job.extent("V") if "V" in job.sizes.dims else 1
    stack = replace(job.model.stack, vocab_multiple=vocabulary, loss_chunks=1)  # padded alike, and all logits at once
    asked, spec, data = job.asked, _without_dropout(job.spec), Dataset("", "", rows, rows)
    model = CostModel(job.model.cluster, stack, batch)
    plan = Plan(micro_batch=count, optimizer_in_backward=True)  # so that no narrow weights last: each pass makes its own
    alone = Job(replace(asked, spec=spec, model=model, plan=plan, data=data))
    rank = _rank(alone, 0)
    rank.store.prepare()
    for instance, weight in own_weights_of(rank.copies):
        if (name := f"{instance}/{weight.name}") in weights and not weight.packed:  # else it is as it was drawn
            rank.machine.get(0, name)[...] = weights[name]
    assert not list(_forward(rank)), "one rank waits for nobody"
    head = alone.step.segments[alone.workload.layout[-1][0]]
    loss = next(t for tasks in head.phases.values() for t in tasks if isinstance(t, Compute) and t.kernel in LOSS_GRADIENTS)
    softmax, labels = (rank.machine.get(0, f"{head.name}/0/{operand.name}") for operand in loss.inputs)
    hits, told = (each.reshape(count, -1) for each in (np.argmax(softmax, axis=-1) == labels, labels >= 0))  # none of an image is
    exact = float(np.mean((hits | ~told).all(axis=1))) if hits.shape[1] > 1 else None
    return Score(float(rank.loss() or 0.0), float(np.mean(hits[told])), exact)


def _forward(rank: Rank) -> Iterator[Request]:
    yield from rank.action(0, rank.job.workload.phases[0], 0, closes=False)


def _rank(job: Job, number: int) -> Rank:
    return Rank(number, job, Machine(job.num_buffers), Clock(), Mail())
