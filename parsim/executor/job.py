"""What all ranks of a run share: the workload with its prices, which drive virtual clocks, and the numbers that are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.collectives import CollectiveAlgorithm, Messages
from parsim.collectives.by_node import ByNode
from parsim.cost.causal import runs_of
from parsim.cost.choice import algorithm
from parsim.cost.cost_model import CostModel
from parsim.cost.count import operands
from parsim.cost.sizes import Sizes
from parsim.cost.workloads import workload_of
from parsim.data import Dataset
from parsim.executor.requests import CollectiveCall
from parsim.executor.shards import ShardKeeping
from parsim.executor.values import Values
from parsim.model.dims import FREE, SEQUENCE
from parsim.model.gates import gate
from parsim.model.op import Dims
from parsim.model.spec import JOINTS, ModelSpec
from parsim.parallel.dimensions import EXPERT, OUTSIDE, axes_of, rules
from parsim.parallel.group import Group
from parsim.parallel.mesh import Mesh
from parsim.parallel.plan import Plan
from parsim.parallel.sharding import Rules, Sharding, reshard
from parsim.scenario.types import Training
from parsim.step.loads import loads_of
from parsim.step.ring import TURNS
from parsim.step.step import Segment, Step
from parsim.step.task import Compute, Operand, Task
from parsim_kernels import Machine

Copy = tuple[str, Segment]  # a copy of a segment by its name
OF_BATCH: Final = ("per_", "balance_coefficient")  # how words begin for shares of a batch


class Named(Struct, frozen=True):
    """A task with its buffers; one of a pass bears the same names on all ranks that hold the copy."""

    task: Task
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    frees: tuple[str, ...]
    inputs: tuple[str, ...] = ()  # of the kernel of a pass
    outputs: tuple[str, ...] = ()


class RunRequest(Struct, frozen=True):
    """What every rank is told: what is trained how and for how many steps, and whether virtual clocks are kept."""

    spec: ModelSpec
    model: CostModel
    plan: Plan
    dtype_bytes: Mapping[str, int]
    seed: int
    num_steps: int
    training: Training
    data: Dataset | None = None
    evaluate_every: int = 0
    precision: str = "float64"  # of the numbers that are computed with
    clocks: bool = True  # costs a message a member in every collective
    factors: tuple[tuple[float, ...], ...] = ()  # by rank and step, again after the last: how many times as long kernels take; (): as long
    sleeps: bool = False  # whether processes that are slow sleep as long as they compute too fast
    rounds_as: Plan | None = None  # one rank that scales each tensor in the parts in which the ranks of this plan would hold it
    keeping: ShardKeeping | None = None  # of checkpoints; None: there are none

    @property
    def training_alone(self) -> RunRequest:
        """The same without checkpoints, which change no number."""
        return replace(self, keeping=None)

    def job(self) -> Job:
        """The job, built anew by each worker."""
        return Job(self)


class _Cut(NamedTuple):
    """How another plan cuts tensors."""

    sizes: Sizes
    rules: Rules
    mesh: Mesh

    @property
    def order_at_experts(self) -> tuple[int, ...]:
        """The ranks of a stage in the order in which their tokens lie at experts, where these came over one axis after another.

        Megatron Core gathers over `etp` behind the all-to-all, too: core/transformer/moe/token_dispatcher.py, MoEAlltoAllTokenDispatcher.
        """
        on = tuple(axis for axis in axes_of(EXPERT) if self.mesh.degrees.get(axis, 1) > 1)
        moves = reshard(Sharding(("X", "G"), ((), on)), Sharding.of(("X", "G"), self.rules))
        return self.mesh.order_at_experts([move.axis for move in moves if move.axis in on])


def _mesh(sizes: Sizes) -> Mesh:
    return Mesh({axis: int(degree[0]) for axis, degree in sizes.degrees.items()}, sizes.orders[0])


class Job:
    """One plan, ready to run."""

    def __init__(self, asked: RunRequest) -> None:
        self.asked = asked
        self.spec, self.model, self.training = asked.spec, asked.model, asked.training
        self.workload = workload_of(asked.spec, asked.model, asked.plan, asked.dtype_bytes)
        self.step, self.sizes = self.workload.step, self.workload.sizes
        batch = asked.model.batch
        trained = batch.trained if batch.packing else ()
        self.values = Values(asked.spec, asked.seed, asked.precision, asked.data, batch.global_batch, trained)
        self._algorithms: dict[tuple[str, Group, int, int], CollectiveAlgorithm] = {}  # by what is asked
        self.named: dict[tuple[object, ...], Named] = {}  # tasks of passes by task, copies and micro_batch
        self._cut: _Cut | None = None
        if asked.rounds_as:
            other = workload_of(asked.spec, asked.model, asked.rounds_as, asked.dtype_bytes)
            self._cut = _Cut(other.sizes, rules(other.step.structure.dimensions), _mesh(other.sizes))
        self.mesh = _mesh(self.sizes)

    @property
    def num_ranks(self) -> int:
        """Ranks of the whole mesh."""
        return self.asked.plan.num_devices

    @property
    def num_apart(self) -> int:
        """Replicas that train apart; 1 where they sum gradients."""
        apart = self.step.structure.apart
        return int(self.sizes.num_ranks(apart.group)[0]) if apart else 1

    def syncs(self, step: int) -> bool:
        """Whether a step, counted from 0, is the last of its period."""
        return (step + 1) % self.asked.plan.local_steps == 0

    def step_at(self, step: int) -> Step:
        """The Step of this number."""
        return self.step if self.step.quiet is None or self.syncs(step) else self.step.quiet

    @property
    def num_buffers(self) -> int:
        """Memories that a machine needs: a rank's each, and behind them their hosts', where anything lies there."""
        return self.num_ranks * (2 if self.step.structure.uses_host else 1)

    def copies(self, stage: int) -> tuple[Copy, ...]:
        """Copies of segments on a virtual stage in forward order, each with its name; layers are numbered over the whole model."""
        ends = {self.workload.layout[0][0], *JOINTS, self.workload.layout[-1][0]}
        begin = stage // self.workload.shape.stages_a_copy * self.workload.shape.stages_a_copy
        number = sum(self.workload.layers[begin:stage])
        found: list[Copy] = []
        for name, copies in self.workload.parts(stage):
            for _ in range(int(copies)):
                found.append((name if name in ends else f"layer{number}", self.step.segments[name]))
                number += name not in ends
        return tuple(found)

    def members(self, rank: int, group: Group) -> tuple[int, ...]:
        """The ranks of a rank's group, in order."""
        found = self.mesh.members(rank, group, self._homes(rank, group))
        if not group.copies:
            return found
        first = found.index(rank) // (num_copies := int(self.sizes.kv_copies[0])) * num_copies
        return found[first : first + num_copies]

    def _homes(self, rank: int, group: Group) -> tuple[int, ...]:
        """The places along the pipeline of a group that not all of them belong to; none of any other."""
        if group.mirrors:
            own = self.mesh.coordinates(rank)["pp"]
            return tuple(sorted((own, self.workload.num_ranks - 1 - own)))
        places = range(self.workload.num_ranks) if group.homes else ()
        return tuple(each for each in places if set(group.homes) & self.workload.copies_on(each).keys())

    def algorithm(self, call: CollectiveCall, machine: Machine, number: int) -> Messages:
        """What a collective runs by, for the elements that the buffers of rank `number`, whose call it is, really hold."""
        if exchange := call.how.get("exchange"):
            return ByNode(exchange)
        count = sum(machine.get(number, name).size for name in call.names)
        if call.operation == "all_gather" and not call.shards:
            count *= len(call.members)
        asked, node = (call.operation, call.group, count * call.itemsize), self.workload.node_of(self.mesh.coordinates(number)["pp"])
        if (key := (*asked, node)) not in self._algorithms:
            self._algorithms[key] = algorithm(*asked, self.sizes, self.model.on(node))
        return self._algorithms[key]

    def extent(self, dim: str) -> int:
        """Extent of a whole dim."""
        return int(self.sizes.dims[dim][0])

    def itemsize(self, dtype: str) -> int:
        """Bytes that an element of this role is charged at."""
        return self.sizes.itemsize_bytes[dtype]

    def tiles(self, sharding: Sharding, sizes: Sizes) -> dict[str, object]:
        """What a kernel is told that scales parts of a tensor by themselves: those of each dim; experts have each their own.

        Where the ranks of another plan hold what lies apart on this one, `orders` says in which order it would lie there.
        """
        told: dict[str, object] = {"tiles": tuple(self._tiles_of(dim, sharding, sizes) for dim in sharding.dims)}
        return told | ({"orders": tuple(map(self._order_there, sharding.dims))} if self._cut else {})

    def _order_there(self, dim: str) -> tuple[int, ...]:
        """The places of a dim, those of one rank of the other plan after those of another; none where they lie so here."""
        assert self._cut is not None
        there, (batch, parts) = self._cut.sizes, (self._parts_there(each, ("B", "T")) for each in "BT")
        chunks = there.layouts[there.layout[0]]
        if dim in SEQUENCE and chunks:
            return tuple(place for start, stop in there.runs(Sharding.of((dim,), {}), dim) for place in range(start, stop))
        ranks = self._cut.order_at_experts
        if dim not in FREE or (parts == 1 and ranks == tuple(range(len(ranks)))):
            return ()
        each = self.extent(dim) // self.extent("B")  # runs of a sequence
        own = np.array([place for start, stop in runs_of(each, chunks, 0, each) for place in range(start, stop)]).reshape(parts, 1, -1)
        sequences = np.arange(self.extent("B")).reshape(batch, 1, -1, 1)
        around = prod(self._cut.mesh.degrees[axis] for axis in self._cut.rules.get("G", ()) if axis in axes_of(OUTSIDE))
        return tuple((sequences * each + own).reshape(around, len(ranks), -1)[:, [*ranks]].ravel().tolist())

    def _tiles_of(self, dim: str, sharding: Sharding, sizes: Sizes) -> int | tuple[int, ...]:
        """How many equal parts, or the extents of parts that are not."""
        if dim in "EX":
            own = Sharding(("E",), (sharding.axes[sharding.dims.index(dim)],))
            count, start = int(sizes.local(own, "E")[0]), int(sizes.start(own, "E")[0])
            return count if dim == "E" else self.spec.expert_loads(self.model.batch.sequence_length, sharding.loads)[start : start + count]
        return self._parts_there(dim, sharding.dims) if self._cut else 1

    def _parts_there(self, dim: str, dims: Dims) -> int:
        """Parts of a dim on the ranks of the other plan; of heads as many as differ, where ranks share kv heads."""
        assert self._cut is not None
        return max(1, self.extent(dim) // int(self._cut.sizes.local(Sharding.of(dims, self._cut.rules), dim)[0]))

    def attributes(self, task: Compute, sizes: Sizes) -> dict[str, object]:
        """A kernel's attributes with numbers for the words that depend on sizes or on the rank whose they are."""
        if task.kernel in ("absmax", "quantise"):
            return {**task.attributes, **self.tiles(operands(task)[0].sharding, sizes)}
        found: dict[str, object] = {name: self._attribute(task, value, sizes) for name, value in task.attributes.items()}
        if str(task.attributes.get("scale", "")).startswith(OF_BATCH) and task.kernel.endswith("_grad"):
            found["scale"] *= self.num_apart  # type: ignore[operator]  # a replica that trains apart has the mean over its own sequences
        terms = [" ".join(operand.dims) for operand in task.inputs if isinstance(operand, Operand)]
        (*_, result) = (operand for operand in task.outputs[:1] if isinstance(operand, Operand))
        found["expr"] = f"{', '.join(terms)} -> {' '.join(result.dims)}"
        return found

    def _attribute(self, task: Compute, value: float | str, sizes: Sizes) -> object:
        """One attribute: a number, or a word such as `offset:V` with its number; `offset:S` of several runs of a sequence with these."""
        if not isinstance(value, str):
            return value
        plain, loads = loads_of(value)
        word, _, dim = plain.partition(":")
        batch = self.model.batch
        match word:
            case "gate":
                return gate(dim)
            case "extent":
                return prod(map(self.extent, dim.split()))
            case "rsqrt":
                return float(self.extent(dim) ** -0.5)
            case "sqrt":
                return float(self.extent(dim) ** 0.5)
            case "dropout":
                return self.spec.dropout
            case "per_token":
                return 1.0 / (batch.num_tokens - batch.global_batch * self.spec.image_tokens)
            case "per_later_token":
                return self.spec.later_loss_weight / (batch.global_batch * batch.sequence_length)
            case "documents":
                return batch.documents
            case "per_text":
                return 1.0 / batch.global_batch
            case "unpadded":
                return self.spec.extents[dim]
            case "run":
                return self.spec.run_length(batch.sequence_length)
            case "tokens":
                return self.spec.slots(batch.sequence_length, loads).tokens
            case "relative_distance":
                return int(self.spec.relative_distance)  # type: ignore[attr-defined]
            case (
                "gate_scale"
                | "embedding_scale"
                | "layer_scale"
                | "attn_logit_softcapping"
                | "final_logit_softcapping"
                | "logit_scale"
                | "residual_scale"
            ):
                return float(getattr(self.spec, word))
            case "balance_coefficient":
                return float(getattr(self.spec, word)) / (batch.global_batch * batch.sequence_length)
            case "chosen":
                return self.spec.slots_chosen(batch.sequence_length, loads)
        seen = (*task.inputs, *task.outputs)
        sharding = next(operand.sharding for operand in seen if isinstance(operand, Operand) and dim in operand.dims)
        local, start = (int(count(sharding, dim)[0]) for count in (sizes.local, sizes.start))
        if word == "loads":
            return self.spec.expert_loads(batch.sequence_length, loads)[start : start + local]
        if word == "slopes":
            queries = int(sizes.local(sharding, "R")[0])
            return self.spec.slopes[start * queries : (start + local) * queries]
        assert word in ("local", "offset"), value
        if word == "local":
            return local
        runs = sizes.runs(sharding, dim, turns=int(task.attributes.get(TURNS, 0)) if dim == "Z" else 0)
        return runs[0][0] if len(runs) == 1 else runs
