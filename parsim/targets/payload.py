"""The numbers that an exported program trains on: the weights and data that `parsim execute` draws, whole, in its own names and layout.

A program that reads them has the losses of `parsim execute --precision float32`.  What is too large is left to the program itself.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from msgspec import Struct

from parsim.cost.cost_model import CostModel
from parsim.data import load
from parsim.executor.job import Job, RunRequest
from parsim.executor.names import own_weights_of
from parsim.model.dims import HEADS, MASK
from parsim.model.families import blocks_of
from parsim.model.op import Op
from parsim.model.parameters import num_parameters
from parsim.parallel.plan import Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsim.model.spec import ModelSpec
    from parsim.scenario import Scenario

    Arrays: TypeAlias = Mapping[str, NDArray[Any]]

MOST_WEIGHTS: Final = 20_000_000  # 80 MB in float32
MOST_ELEMENTS: Final = 20_000_000  # of data
STEPS: Final = 20  # of a scenario without a data set
FLOAT: Final = "float32"
_VOCABULARY: Final = ("V", "W")


class Payload(Struct, frozen=True):
    """Weights before the first step, and the sequences of each step.

    Weights are named by copy of a block and weight, as `layer0/q.weight`, tables as `embedding/word.weight`; a vocabulary has no padding,
    a weight that is tied to another stands once.  Data are named as blocks draw them: `tokens`, `labels`, `features`, `row_labels`, ...
    """

    weights: Arrays  # e.g. layer0/q.weight [D, K, R, C], layer0/up.weight [D, F], head/label.weight [Y, D]: in what a GEMM reads first
    train: Arrays  # sequences to train on: tokens [num_train, S], features [num_train, S, I]
    validation: Arrays  # those held back; empty without a data set
    rows: NDArray[
        Any
    ]  # [num_steps, global_batch]: which of `train` make the batch of a step, in the order in which micro_batches take them


def weights_fit(scenario: Scenario) -> bool:
    """Whether the weights are few enough to be written to a file."""
    return num_parameters(scenario.model) <= MOST_WEIGHTS


def data_fit(scenario: Scenario) -> bool:
    """Whether the sequences are: those of a data set always are, drawn ones where the steps have few elements."""
    dims, batch = scenario.model.extents, scenario.batch
    width = sum(dims.get(op.expr.split()[-1], 1) for op in _inputs(scenario.model))
    return scenario.data is not None or STEPS * batch.global_batch * batch.sequence_length * width <= MOST_ELEMENTS


def weights_of(scenario: Scenario) -> Arrays:
    """The weights of a run, by name."""
    job, found = _job(scenario), {}
    for instance, weight in own_weights_of(job.copies(0)):
        if weight.copy_of:
            continue
        dims = weight.sharding.dims
        shape = [scenario.model.extents[dim] if dim in HEADS else job.extent(dim) for dim in dims]
        whole = job.values.weight(instance, weight.name, weight.initial, shape)
        found[f"{instance}/{weight.name}"] = whole[tuple(slice(_extent(dim, job)) for dim in dims)]
    return found


def payload_of(scenario: Scenario) -> Payload:
    """All that a run takes in."""
    job, model, batch = _job(scenario), scenario.model, scenario.batch
    weights = weights_of(scenario)
    inputs = {op.outputs[0]: op for op in _inputs(model)}
    if scenario.data is not None:
        data = load(scenario.data.name, scenario.data.validation_split, scenario.seed, model, batch.sequence_length, batch.source)
        train, held = ({name: _narrow(each[name]) for name in inputs} for each in (data.train, data.validation))
        num_steps = data.num_steps(scenario.training.epochs, batch.global_batch)
        return Payload(weights, train, held, np.array([data.rows(step, batch.global_batch, scenario.seed) for step in range(num_steps)]))
    blocks, drawn = blocks_of(model.architecture), dict[str, "NDArray[Any]"]()
    for instance, segment in job.copies(0):
        for name, op in inputs.items():
            if op in blocks[segment.name].ops:
                shape = [job.extent(dim) for dim in op.expr.split("->")[1].split()]
                drawn[name] = _narrow(np.concatenate([job.values.draw(instance, name, step, shape) for step in range(STEPS)]))
    return Payload(weights, drawn, {}, np.arange(STEPS * batch.global_batch).reshape(STEPS, -1))


def npz(arrays: Arrays) -> bytes:
    """A file of numpy that holds the arrays; the same arrays give the same bytes.

    >>> np.load(io.BytesIO(npz({"layer0/up.bias": np.zeros(2)})))["layer0/up.bias"].tolist()
    [0.0, 0.0]
    """
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _job(scenario: Scenario) -> Job:
    """One rank that takes a step as one micro_batch."""
    model = CostModel(scenario.cluster, scenario.stack, scenario.batch)
    plan = Plan(micro_batch=scenario.batch.global_batch)
    others = {"seed": scenario.seed, "num_steps": STEPS, "training": scenario.training, "precision": FLOAT}
    return RunRequest(scenario.model, model, plan, dict(scenario.itemsize_bytes), **others).job()  # type: ignore[arg-type]


def _inputs(model: ModelSpec) -> list[Op]:
    """What blocks draw, less masks."""
    ops = (op for block in blocks_of(model.architecture).values() for op in block.ops)
    return [op for op in ops if op.kind == "draw" and MASK not in op.dtypes]


def _extent(dim: str, job: Job) -> int | None:
    return job.spec.extents[dim] if dim in _VOCABULARY else None


def _narrow(found: NDArray[Any]) -> NDArray[Any]:
    return found.astype(np.int32 if found.dtype.kind in "iu" else FLOAT)
