"""Seconds of every task, rounded once to integer picoseconds and shared by estimate and simulate.

Sharing among symmetric groups (all data-parallel groups of a node on its NICs) is part of the price: see `cluster.collective_s`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parsim.cluster.cluster import Cluster
from parsim.cluster.efficiency import alignment, attention_s, elementwise_s, gemm_s
from parsim.cluster.price import Price, p2p_price, private_price
from parsim.cluster.scalars import Scalar, picoseconds
from parsim.collectives.placed import group_price
from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT
from parsim.model.op_kinds import COSTS
from parsim.parallel.plan import Batch, Stack
from parsim.step.count import extents, flops, hbm_bytes, payload
from parsim.step.holdings import Holding, bucket_elements, gathered_elements, segment_elements, used_elements
from parsim.step.optimizer import OPTIMIZERS
from parsim.step.sizes import Ints, Sizes
from parsim.step.structure import HOST
from parsim.step.task import Communicate, Compute, Finish, Operand, Segment, Step, Task
from parsim.step.work import Work, finish_work, law_name, work_of

_FLASH_BLOCK = 128  # rows of a block of the flash attention kernels whose law the catalog holds: Dao 2023, section 3.3

# Weight-gradient GEMMs that accumulate in float32 take 3 to 5 % longer than plain ones; the law of a plain one would charge their
# longer output as if nothing hid it.  Source: GEMM tables of SimuMax (A100, B200), layouts with and without accumulation.
ACCUMULATION_FACTOR = 1.04


@dataclass(frozen=True, slots=True)
class Market:
    """What a price depends on beside the plan: hardware, software stack, dtype of the matmuls."""

    cluster: Cluster
    stack: Stack
    batch: Batch

    @property
    def sustained(self) -> float:
        """Share of the isolated kernels' rate that training sustains: the stack's, or the accelerator's default."""
        accelerator = self.cluster.node.accelerator
        return self.stack.sustained_factor.get(accelerator.name, accelerator.sustained_factor)


@dataclass(frozen=True, slots=True)
class Prices:
    """Picoseconds of every task of a Step, one value per plan."""

    forward: Mapping[str, tuple[Ints, ...]]  # by segment, task by task
    backward: Mapping[str, tuple[Ints, ...]]
    forward_floor: Mapping[str, Ints]  # host time of a segment's kernel launches: its pass takes no less
    backward_floor: Mapping[str, Ints]
    reduce: Mapping[str, Ints]  # of a segment's gradients over dp
    gather_weights: Mapping[str, Ints]  # of a segment's parameters over dp (ZeRO 3)
    send: Ints  # one stage boundary
    gather: Ints  # of a boundary tensor that came in shards


def price(step: Step, sizes: Sizes, market: Market) -> Prices:
    """Picoseconds of all that a micro_batch needs."""
    forward = {s.name: tuple(task_ps(t, sizes, market) for t in s.forward) for s in step.segments}
    backward = {s.name: tuple(task_ps(t, sizes, market) for t in s.backward) for s in step.segments}
    return Prices(
        forward,
        backward,
        {s.name: _floor_ps(s.forward, sizes, market) for s in step.segments},
        {s.name: _floor_ps(s.backward, sizes, market) for s in step.segments},
        {s.name: reduce_ps(step, s, sizes, market) for s in step.segments},
        {s.name: gather_weights_ps(step, s, sizes, market) for s in step.segments},
        *boundary_ps(step, sizes, market),
    )


def task_ps(task: Task, sizes: Sizes, market: Market) -> Ints:
    """Picoseconds of one task that has its resources to itself."""
    return picoseconds(compute_s(task, sizes, market)) if isinstance(task, Compute) else communicate_price(task, sizes, market).ps


def compute_s(task: Compute, sizes: Sizes, market: Market) -> Scalar:
    """Seconds of a kernel by its own law, or by that of its family."""
    family, accelerator = COSTS[task.kernel].family, market.cluster.node.accelerator
    if (name := law_name(task)) in accelerator.kernels:
        return _own_law_s(name, [work_of(task, sizes)], sizes, market)
    work, traffic = flops(task, sizes), hbm_bytes(task, sizes)
    if family == "gemm":
        rate = gemm_alignment(task, sizes)
        seconds = gemm_s(accelerator, work, gemm_bytes(task, sizes), market.batch.dtype, aligned=rate, sustained=market.sustained)
        return seconds * (ACCUMULATION_FACTOR if adds_to_gradient(task) else 1.0)
    if family == "attention":
        query = task.inputs[0].sharding
        heads = sizes.local(query, "B") * sizes.local(query, "K") * sizes.local(query, "R")
        blocks = heads * -(-sizes.local(query, "S") // _FLASH_BLOCK)
        width, backward = sizes.local(query, "C"), task.kernel.endswith("_grad")
        dtype, keep = market.batch.dtype, market.sustained
        return attention_s(accelerator, work, traffic, blocks, width, dtype, backward=backward, sustained=keep)
    return elementwise_s(accelerator, traffic, fused=task.fused or not task.inputs)


def _own_law_s(name: str, calls: Iterable[Work], sizes: Sizes, market: Market) -> Scalar:
    """Seconds of calls of a kernel that has a law of its own: between that of a device alone and that of a node whose devices all work."""
    accelerator, devices = market.cluster.node.accelerator, market.cluster.node.devices_per_node
    alone, busy = accelerator.kernels[name], accelerator.busy_kernels.get(name, accelerator.kernels[name])
    working = np.minimum(np.prod(list(sizes.degrees.values()), axis=0), devices)
    share = (working - 1) / max(devices - 1, 1)
    return sum(((1.0 - share) * each.seconds(alone) + share * each.seconds(busy) for each in calls), start=np.zeros(sizes.num_plans))


def adds_to_gradient(task: Compute) -> bool:
    """A weight-gradient GEMM that adds into the step's buffer: priced as a plain GEMM x 1.04, its measured cost."""
    return task.accumulate and task.outputs[0].dtype == GRADIENT


def gemm_bytes(task: Compute, sizes: Sizes) -> Ints:
    """HBM bytes at which a GEMM is priced: one that adds into a gradient as if it wrote a plain output."""
    traffic = hbm_bytes(task, sizes)
    if adds_to_gradient(task):
        longer = 2 * sizes.itemsize_bytes[GRADIENT] - sizes.itemsize_bytes[COMPUTE]  # read and written, against written once
        traffic = traffic - sizes.elements(task.outputs[0].sharding) * longer
    return traffic


def gemm_alignment(task: Compute, sizes: Sizes) -> Scalar:
    """Share of the GEMM rate left by the worst of m, n and k; a batched GEMM (attention) is not charged for its head_dim."""
    left, right, out = (set(o.dims) for o in (*task.inputs, task.outputs[0]))
    if left & right & out:
        return 1.0
    size = extents(task, sizes)
    groups = (left & out, right & out, left & right)
    shares = [alignment(np.prod([size[d] for d in sorted(group)], axis=0)) for group in groups]
    return np.asarray(np.min(np.array(shares), axis=0))


def communicate_price(task: Communicate, sizes: Sizes, market: Market) -> Price:
    """The price of a collective; a slice keeps what is there."""
    if task.operation == "slice":
        return private_price(market.cluster, np.zeros(sizes.num_plans))
    itemsize = sizes.itemsize_bytes[task.source.dtype]
    return _axis_price(task.operation, task.axis, sizes.elements(payload(task)), itemsize, sizes, market)


def _axis_price(operation: str, axis: str, elements: Ints, itemsize: int, sizes: Sizes, market: Market) -> Price:
    return _group_price(operation, elements, itemsize, *sizes.group(axis), market)


def _group_price(operation: str, elements: Ints, itemsize: int, num_ranks: Ints, stride: Ints, market: Market) -> Price:
    return group_price(
        market.cluster,
        operation,
        elements=elements,
        itemsize_bytes=itemsize,
        num_ranks=num_ranks,
        stride=stride,
        algorithm=market.stack.collectives.get(operation),
    )


def _floor_ps(tasks: Sequence[Task], sizes: Sizes, market: Market) -> Ints:
    """Host time to launch a segment's kernels and collectives; a fused op and a drawn input are part of another kernel."""
    launched = sum(1 for task in tasks if isinstance(task, Communicate) or (task.inputs and not task.fused))
    if market.cluster.node.accelerator.kernels:
        launched = 0  # laws of single kernels hold what surrounds a call
    return np.full(sizes.num_plans, int(picoseconds(market.stack.host_launch_s)) * launched, dtype=np.int64)


def reduce_ps(step: Step, segment: Segment, sizes: Sizes, market: Market) -> Ints:
    """Picoseconds to sum a segment's gradients over dp."""
    return reduce_price(step, segment, sizes, market).ps


def reduce_price(step: Step, segment: Segment, sizes: Sizes, market: Market) -> Price:
    """The price of summing a segment's gradients over dp; a segment without weights of its own reduces nothing."""
    structure, itemsize = step.structure, sizes.itemsize_bytes[GRADIENT]
    if structure.per_pass:
        elements = used_elements(segment, sizes, "padded")
    else:
        elements = segment_elements(step, segment, sizes, "all", "padded" if structure.zero_stage else "whole")
    operation = "reduce_scatter" if structure.zero_stage else "all_reduce"
    return _axis_price(operation, "dp", elements, itemsize, sizes, market).where(elements > 0)


def gather_weights_ps(step: Step, segment: Segment, sizes: Sizes, market: Market) -> Ints:
    """Picoseconds to gather a segment's parameters over dp; 0 where they are not sharded."""
    return gather_weights_price(step, segment, sizes, market).ps


def gather_weights_price(step: Step, segment: Segment, sizes: Sizes, market: Market) -> Price:
    """The price of gathering a segment's parameters over dp; nothing where they are not sharded."""
    if step.structure.zero_stage < 3:
        return private_price(market.cluster, np.zeros(sizes.num_plans))
    elements, itemsize = gathered_elements(segment, step.structure, sizes), sizes.itemsize_bytes[COMPUTE]
    return _axis_price("all_gather", "dp", elements, itemsize, sizes, market).where(elements > 0)


def boundary(step: Step) -> Operand:
    """What crosses a stage boundary, as it lies on each rank; with scatter_gather a rank sends only its 1/tp of it."""
    assert step.layer.x is not None
    return step.layer.x


def boundary_bytes(step: Step, sizes: Sizes) -> Ints:
    """Bytes that one rank sends over a stage boundary."""
    whole = sizes.num_bytes(boundary(step))
    return whole // sizes.degrees["tp"] if step.structure.scatter_gather else whole


def boundary_ps(step: Step, sizes: Sizes, market: Market) -> tuple[Ints, Ints]:
    """Picoseconds to send what crosses a stage boundary, and to gather it where it comes in shards."""
    send, gather = boundary_prices(step, sizes, market)
    return send.ps, gather.ps


def boundary_prices(step: Step, sizes: Sizes, market: Market) -> tuple[Price, Price]:
    """The prices of sending what crosses a stage boundary, and of gathering it where it comes in shards."""
    nothing = private_price(market.cluster, np.zeros(sizes.num_plans))
    if "pp" not in step.structure.axes:
        return nothing, nothing
    num_ranks, stride = sizes.group("pp")
    send = p2p_price(market.cluster, boundary_bytes(step, sizes), stride, num_ranks=num_ranks)
    if not step.structure.scatter_gather:
        return send, nothing
    elements, itemsize = sizes.elements(boundary(step).sharding), sizes.itemsize_bytes[COMPUTE]
    return send, _axis_price("all_gather", "tp", elements, itemsize, sizes, market)


def finish_ps(step: Step, work: Finish, sizes: Sizes, holding: Holding, market: Market) -> Ints:
    """Picoseconds of one piece of a step's end on a rank of this holding; a bucket is one coalesced call."""
    if work.operation:
        return finish_price(step, work, sizes, holding, market).ps
    traffic = bucket_elements(step, sizes, work.bucket, holding, work.part) * optimizer_bytes(work, step, sizes)
    if work.on_host:
        node = market.cluster.node
        return picoseconds(traffic / (node.host_memory_bytes_per_s / node.devices_per_node))
    if work.kernel in market.cluster.node.accelerator.kernels:
        calls = finish_work(step, work, sizes, holding, optimizer_bytes(work, step, sizes))
        return picoseconds(_own_law_s(work.kernel, calls, sizes, market))
    return picoseconds(elementwise_s(market.cluster.node.accelerator, traffic))


def finish_price(step: Step, work: Finish, sizes: Sizes, holding: Holding, market: Market) -> Price:
    """The price of a piece of a step's end that communicates."""
    is_scalar = work.bucket == "norm"
    elements = np.ones(sizes.num_plans, dtype=np.int64) if is_scalar else bucket_elements(step, sizes, work.bucket, holding, work.part)
    itemsize = sizes.itemsize_bytes[{"norm": FLOAT32, "parameters": COMPUTE}.get(work.bucket, GRADIENT)]
    if work.bucket == "tied":
        return _group_price("all_reduce", elements, itemsize, *_ends(sizes, market), market)
    if work.axis == HOST:
        link = market.cluster.node.host_link
        return private_price(market.cluster, link.latency_s + elements * itemsize / link.bandwidth_bytes_per_s)
    return _axis_price(work.operation, work.axis, elements, itemsize, sizes, market)


def _ends(sizes: Sizes, market: Market) -> tuple[Ints, Ints]:
    """Ranks and stride of a group of the first and the last stage only."""
    num_ranks, neighbour = sizes.group("pp")
    in_node = num_ranks * neighbour <= market.cluster.node.devices_per_node  # the whole pipeline, so both its ends
    return np.minimum(num_ranks, 2), np.where(in_node, neighbour, neighbour * np.maximum(num_ranks - 1, 1))


def optimizer_bytes(work: Finish, step: Step, sizes: Sizes) -> int:
    """HBM bytes an element of one piece of a step's end; an update reads and writes weight and states, and reads the gradient."""
    gradient, weight, compute = (sizes.itemsize_bytes[role] for role in (GRADIENT, FLOAT32, COMPUTE))
    optimizer = OPTIMIZERS[step.structure.optimizer]
    if work.kernel == optimizer.kernel:
        return 2 * (weight + optimizer.state_bytes) + gradient
    return {"norm_sq": gradient, "clip": 2 * gradient, "cast": weight + compute}[work.kernel]
