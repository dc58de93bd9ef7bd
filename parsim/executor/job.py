"""What all ranks of a run share: the Step, the mesh, the prices that drive virtual clocks, and the numbers that are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from parsim.collectives import Collective
from parsim.data import Dataset
from parsim.executor.need import Meeting
from parsim.executor.values import Array, Values
from parsim.model.spec import ModelSpec
from parsim.parallel import mesh
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.parallel.stages import layers_of
from parsim.scenario.types import Training
from parsim.step.choice import algorithm
from parsim.step.lower import lower
from parsim.step.sizes import Sizes, sizes_of
from parsim.step.structure import Structure
from parsim.step.task import Compute, Step
from parsim.step.timing import Market, Prices, price
from parsim_kernels import Machine

Attributes = dict[str, float | int | str]


@dataclass(slots=True)
class Job:
    """One plan, ready to run."""

    model: ModelSpec
    plan: Plan
    market: Market
    step: Step
    sizes: Sizes
    prices: Prices
    degrees: dict[str, int]
    layers: tuple[int, ...]
    num_micro_batches: int
    values: Values
    training: Training
    dtype_bytes: Mapping[str, int]
    _algorithms: dict[tuple[str, str, int, int], Collective] = field(init=False, default_factory=dict)  # by what is asked

    @classmethod
    def of(
        cls,
        model: ModelSpec,
        market: Market,
        plan: Plan,
        dtype_bytes: Mapping[str, int],
        seed: int,
        *,
        training: Training,
        data: Dataset | None = None,
        precision: str = "float64",
    ) -> Job:
        """The job of a plan; `precision` is that of the numbers it computes with."""
        step = lower(Structure.of(model, market.batch, plan, market.stack))
        sizes = sizes_of(model, market.batch, [plan], market.stack, dtype_bytes)
        degrees = {axis: int(degree[0]) for axis, degree in sizes.degrees.items()}
        layers = layers_of(plan, model.num_layers, market.stack.layer_split)
        count = plan.num_micro_batches(market.batch)
        values = Values(model, seed, precision, data, market.batch.global_batch)
        return cls(model, plan, market, step, sizes, price(step, sizes, market), degrees, layers, count, values, training, dtype_bytes)

    @property
    def batch(self) -> Batch:
        """What is trained on."""
        return self.market.batch

    @property
    def stack(self) -> Stack:
        """The software stack."""
        return self.market.stack

    @property
    def num_ranks(self) -> int:
        """Ranks of the whole mesh."""
        return self.plan.num_devices

    @property
    def num_stages(self) -> int:
        """Virtual stages."""
        return self.plan.num_stages

    @property
    def num_buffers(self) -> int:
        """Memories that a machine needs: a rank's each, and behind them their hosts', where the optimizer is off the device."""
        return self.num_ranks * (2 if self.step.structure.offload else 1)

    def algorithm(self, need: Meeting, machine: Machine, number: int) -> Collective:
        """What a collective runs by, for the elements that the buffers of rank `number`, whose need it is, really hold."""
        elements = sum(machine.get(number, name).size for name in need.names)
        if need.operation == "all_gather" and not need.shards:
            elements *= len(need.members)
        asked = need.operation, need.axis, elements * need.itemsize, len(need.members)
        if asked not in self._algorithms:
            operation, axis, payload_bytes, num_ranks = asked
            self._algorithms[asked] = algorithm(operation, axis, payload_bytes, self.sizes, self.market, num_ranks=num_ranks)
        return self._algorithms[asked]

    def extent(self, dim: str) -> int:
        """Extent of a whole dim."""
        return int(self.sizes.dims[dim][0])

    def itemsize(self, dtype: str) -> int:
        """Bytes that an element of this role is charged at."""
        return self.sizes.itemsize_bytes[dtype]

    def rank_at(self, at: dict[str, int]) -> int:
        """The rank at these coordinates."""
        return mesh.rank_at(at, self.degrees)

    def part(self, whole: Array, position: int) -> Array:
        """A view of one tensor-parallel rank's part of a boundary tensor, cut along its sequence."""
        length = whole.shape[1] // self.degrees["tp"]
        return whole[:, position * length : (position + 1) * length]

    def attributes(self, task: Compute, at: Mapping[str, int]) -> Attributes:
        """A kernel's attributes with numbers for the words that depend on sizes or on the rank."""
        found: Attributes = {name: self.attribute(task, value, at) for name, value in task.attributes.items()}
        terms = [" ".join(o.dims) for o in task.inputs]
        found["expr"] = f"{', '.join(terms)} -> {' '.join(task.outputs[0].dims)}"
        return found

    def attribute(self, task: Compute, value: float | str, at: Mapping[str, int]) -> float | int:
        """One attribute: a number, or a word such as `offset:V` with its number."""
        if not isinstance(value, str):
            return value
        word, _, dim = value.partition(":")
        if word == "rsqrt":
            return float(self.extent(dim) ** -0.5)
        if word == "dropout":
            return self.model.dropout
        if word == "per_token":
            return 1.0 / (self.batch.global_batch * self.batch.sequence_length)
        if word == "per_text":
            return 1.0 / self.batch.global_batch
        if word == "local":
            operand = next(o for o in (*task.inputs, *task.outputs) if dim in o.dims)
            return int(self.sizes.local(operand.sharding, dim)[0])
        assert word == "offset", value
        return self.offset(task, dim, at)

    def offset(self, task: Compute, dim: str, at: Mapping[str, int]) -> int:
        """The first index of a sharded dim that this rank holds."""
        operand = next(o for o in (*task.inputs, *task.outputs) if dim in o.dims)
        start, extent = 0, self.extent(dim)
        for axis in operand.sharding.axes[operand.dims.index(dim)]:
            extent //= self.degrees[axis]
            start += at[axis] * extent
        return start
