"""Prices a second time: the seconds of each task of a step from its extents and the figures of one made-up machine, written out.

Nothing of `parsim.cost` but the extents is used, and nothing of `parsim.cluster` but the row below: 4 devices a node, 4 nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from msgspec.structs import replace

from parsim.cluster.accelerator import Accelerator, AttentionLaw, ElementwiseLaw, Law
from parsim.cluster.cluster import Cluster, Fabric, Node
from parsim.cluster.link import CollectiveLaw, Link
from parsim.cost.sizes import Sizes
from parsim.cost.workload import Workload
from parsim.estimator.estimate import stages_of
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario import Scenario
from parsim.step.task import HOST, Bucket, Collective, Compute, HostCopy, Launches, Operand, Send, Task, Value
from support import STACK, STACKS, scenario

_ATTENTION = AttentionLaw(((64, 0.5),), 3e-6, 0.25, memory_efficiency=0.75, backward_rate=0.7)
_DEVICE = Accelerator("made up", {"bf16": 4e12}, 1e11, 10**12, 8, Law(0.5, 0.8, 2e-6, 2.0), _ATTENTION, ElementwiseLaw(0.9, 1e-6))
_LINK, _HOST_LINK, _NIC = Link("link", 4e9, 5e-6), Link("host link", 2e9, 6e-6), Link("nic", 1e9, 9e-6)
_NODE = Node("made up", _DEVICE, 4, _LINK, CollectiveLaw(7e-6, 8e-7, 3e9, 3e9, 1e-9), _HOST_LINK, 4, "switched_node")
_NODE = replace(_NODE, p2p_efficiency=0.8, host_memory_bytes_per_s=8e10)
_FABRIC = Fabric(
    "made up", _NIC, 4, "rail_optimised_fat_tree", 0.9, 1.1e-5, 1.2e-5, 1.3e-5, 2e-9, 1.4e-5, 0.7, p2p_ramp_s_per_sqrt_byte=3e-9
)
MACHINE = Cluster(_NODE, 4, _FABRIC)
# Every extent of a matrix is a multiple of 64, on two tensor-parallel ranks as well.
MODEL = TransformerSpec(
    name="toy",
    num_layers=2,
    hidden_size=256,
    ffn_hidden_size=512,
    num_heads=4,
    num_kv_heads=4,
    head_dim=64,
    vocab_size=512,
    max_positions=64,
    tied_embedding=False,
)
BATCH = Batch(8, 64, "bf16")
LAUNCH_S = 1e-5
EAGER = replace(STACK, host_launch_s=LAUNCH_S)
FLASH, UNFUSED = replace(EAGER, attention="flash"), replace(EAGER, attention="unfused")
FUSED = replace(EAGER, scatter_gather=True, fusions=STACKS[1].fusions)
CASES = {
    "alone": (FLASH, Plan(micro_batch=8)),
    "unfused": (UNFUSED, Plan(micro_batch=8)),
    "tp": (FUSED, Plan(1, 2, sequence_parallel=True, micro_batch=8)),
    "tp-over-nodes": (FLASH, Plan(1, 4, 2, micro_batch=8)),
    "dp-over-nodes": (EAGER, Plan(4, 2, 2, micro_batch=2)),
    "zero1": (FLASH, Plan(2, zero_stage=1, micro_batch=4)),
    "zero3-over-nodes": (FLASH, Plan(8, zero_stage=3)),
    "pp": (FLASH, Plan(1, 1, 2, micro_batch=8)),
    "offload": (FLASH, Plan(offload_optimizer=True, micro_batch=8)),
    "8 bits": (FLASH, Plan(optimizer="adamw_8bit", micro_batch=8)),
    "paged": (FLASH, Plan(optimizer="paged_adamw_8bit", micro_batch=8)),
    "at once": (FLASH, Plan(optimizer_in_backward=True, micro_batch=8)),
    "momentum": (FLASH, Plan(optimizer="sgd_momentum", micro_batch=8)),
}

_BYTES = {"compute": 2, "gradient": 4, "float32": 4, "mask": 1, "index": 8, "states of paged_adamw_8bit": 2}
_UPDATE_BYTES = {
    "adamw": 2 * (4 + 4 + 4) + 4,
    "adamw_8bit": 2 * (4 + 1 + 1) + 4,
    "paged_adamw_8bit": 2 * 4 + 4,  # its states pass the link
    "sgd_momentum": 2 * (4 + 4) + 4,
}  # states both ways, gradient
_END_BYTES = {"norm_sq": 4, "clip": 2 * 4, "cast": 4 + 2}
_SHAPES = {"lookup_grad": 2, "position_grad": 1}  # inputs of which only the shape is seen
_LOOKED_UP = {"lookup": 1, "pick": 0, "first": 0, "take": 0}  # inputs of which as much is read as found


def seconds(task: Task, workload: Workload, held: dict[str, int] | None = None) -> float:
    """Of one task; `held`: copies of each segment that a bucket of the step's end reaches over."""
    sizes = workload.sizes
    match task:
        case Launches():
            return task.count * LAUNCH_S
        case Compute():
            return _kernel_s(task, sizes, held)
        case Collective() if task.operation != "slice":
            whole = task.target if task.operation == "all_gather" else task.source
            return _collective_s(task.operation, _elements(whole, sizes, held), _BYTES[task.source.dtype], *_group(task, sizes))
        case Send():
            degrees = {axis: int(degree[0]) for axis, degree in sizes.degrees.items()}
            apart = degrees["tp"] * degrees["dp"]  # the pipeline is the slowest axis
            payload = sum(_elements(each, sizes) for each in task.sent) * 2
            if apart * degrees["pp"] <= 4:
                return 5e-6 + payload / (0.8 * 4e9)
            share = min(4 / min(apart, 4), 1)  # of a NIC; a whole node sends by 4
            return 1.4e-5 + payload / (share * 0.7 * 1e9) + 3e-9 * math.sqrt(payload)
        case HostCopy():
            return 6e-6 + _elements(task.bucket, sizes, held) * _BYTES[task.bucket.dtype] / 2e9
    return 0.0


def _kernel_s(task: Compute, sizes: Sizes, held: dict[str, int] | None) -> float:
    bucket = next((value for value in task.inputs if isinstance(value, Bucket)), None)
    if bucket is not None:
        each = _UPDATE_BYTES[str(task.attributes["optimizer"])] if "optimizer" in task.attributes else _END_BYTES[task.kernel]
        moved = each * _elements(bucket, sizes, held)
        return moved / (8e10 / 4) if task.stream == HOST else 1e-6 + moved / (0.9 * 1e11)
    extent = {dim: int(sizes.local(value.sharding, dim)[0]) for value in (*task.inputs, *task.outputs) for dim in value.dims}  # type: ignore[union-attr]
    if task.kernel == "einsum":
        to_gradient = task.accumulate and task.outputs[0].dtype == "gradient"
        moved = sum(2 * _elements(value, sizes) for value in (*task.inputs, *task.outputs)) if to_gradient else _moved(task, sizes)
        return (2e-6 + _tiled_s(task, extent, moved)) * (1.04 if to_gradient else 1.0)
    if task.kernel.startswith("flash_attention"):
        is_gradient, heads, length = task.kernel.endswith("_grad"), extent["B"] * extent["A"] * extent["R"], extent["Q"]
        work = (10 if is_gradient else 4) * extent["C"] * heads * length * (length + 1) // 2
        ramp = 1 + 0.25 * 8 / (heads * max(1, length / 128))
        return 3e-6 + ramp * work / (0.5 * 4e12 * (0.7 if is_gradient else 1)) + _moved(task, sizes) / (0.75 * 1e11)
    return (0.0 if task.fused or not task.inputs else 1e-6) + _moved(task, sizes) / (0.9 * 1e11)


def _tiled_s(task: Compute, extent: dict[str, int], moved: int) -> float:
    """8 multiprocessors work tiles of the result, or parts of them along k, in waves; parts add float32 sums in memory: the fastest way."""
    left, right, out = (set(value.dims) for value in (*task.inputs, task.outputs[0]))  # type: ignore[union-attr]
    batch = left & right & out
    m, n, k, matrices = (
        math.prod(extent[dim] for dim in dims) for dims in (left & out - batch, right & out - batch, left & right - out, batch)
    )
    found = []
    for rows, columns in ((256, 128), (128, 256), (128, 128), (64, 64)):
        for parts in (1, 2, 4, 8):
            waves = math.ceil(matrices * math.ceil(m / rows) * math.ceil(n / columns) * parts / 8)
            compute_s = 2 * waves * 8 * rows * columns * (k / parts) / (0.5 * 4e12)
            sums_bytes = 2 * 4 * parts * matrices * m * n if parts > 1 else 0
            found.append(math.hypot(compute_s, (moved + sums_bytes) / (0.8 * 1e11)))
    return min(found)


def _moved(task: Compute, sizes: Sizes) -> int:
    """Bytes: inputs and outputs once, a sum into what is there twice; a fused kernel has its first input, and what it changes, at hand."""
    found = {_SHAPES.get(task.kernel): 0, _LOOKED_UP.get(task.kernel): _elements(task.outputs[0], sizes)}
    if task.kernel == "position":
        found = {1: _elements(task.inputs[0], sizes) // int(sizes.local(task.inputs[0].sharding, "B")[0])}  # type: ignore[union-attr]
    if task.fused:
        found[0] = 0
    read = sum(found.get(i, _elements(value, sizes)) * _BYTES[value.dtype] for i, value in enumerate(task.inputs))
    if task.fused and task.in_place:
        return read
    times = 2 if task.accumulate else 1
    if task.kernel == "lookup_grad" and task.accumulate:
        return read + times * _elements(task.inputs[1], sizes) * 4  # the rows of d_y, in float32
    return read + times * sum(_elements(value, sizes) * _BYTES[value.dtype] for value in task.outputs)


def _collective_s(operation: str, elements: int, itemsize: int, ranks: int, apart: int) -> float:
    """By rings: n - 1 steps a phase, of the largest of n chunks; all-reduce has two phases."""
    phases = 2 if operation == "all_reduce" else 1
    steps = phases * (ranks - 1)
    wire = steps * math.ceil(elements / ranks) * itemsize
    if ranks == 1 or (not wire and operation != "all_reduce"):
        return 0.0
    if ranks * apart <= 4:
        return 7e-6 + 8e-7 * steps + wire / 3e9 + 1e-9 * math.sqrt(wire)
    inside = max(4 // apart, 1)
    nodes = math.ceil(ranks / inside)
    latency_s = 1.2e-5 * math.log2(nodes) if operation == "all_reduce" else 1.3e-5 * (nodes - 1)
    rate = min(0.9 * inside * 1e9, 3e9) if inside > 1 else 0.9e9  # each device of the group brings its NIC; then the node binds
    ramp_s = 2e-9 * math.sqrt(wire * math.log2(nodes)) if operation == "all_reduce" else 0.0  # rings have none
    return 1.1e-5 + latency_s + wire / rate + ramp_s


def _group(task: Collective, sizes: Sizes) -> tuple[int, int]:
    """Ranks of a group, and devices between neighbours: tp is the fastest axis, then dp, then pp."""
    degrees, apart = {axis: int(degree[0]) for axis, degree in sizes.degrees.items()}, 1
    for axis in ("tp", "dp", "pp"):
        if axis in task.group.axes:
            return degrees[axis], apart
        apart *= degrees[axis]
    raise AssertionError(task.group)


def _elements(value: Value, sizes: Sizes, held: dict[str, int] | None = None) -> int:
    if isinstance(value, Operand):
        return math.prod(int(sizes.local(value.sharding, dim)[0]) for dim in value.dims)
    total = 0
    for segment, weight in value.weights:
        whole = math.prod(int(sizes.local(weight.sharding, dim)[0]) for dim in weight.sharding.dims)
        ranks = math.prod(int(sizes.degrees[axis][0]) for axis in weight.group.axes)
        part = {"whole": whole, "shard": math.ceil(whole / ranks), "padded": math.ceil(whole / ranks) * ranks}[value.part]
        total += part * (1 if held is None else held.get(segment, 0))
    return total


def tasks_of(workload: Workload) -> Iterator[Task]:
    """All tasks of the passes of a step, one micro_batch of each stage, in order; a copy of a segment after the other."""
    for phase in workload.phases:
        stages = range(workload.num_stages)
        for stage in stages if phase.step > 0 else reversed(stages):
            for run in workload.pass_of(stage, phase, closes=phase.accumulates).lists:
                for _ in range(int(run.copies)):
                    yield from run.tasks


def copies_on(workload: Workload, rank: int) -> dict[str, int]:
    """How often a pipeline rank holds each segment."""
    return {segment: int(count) for segment, count in workload.copies_on(rank).items()}


def priced(stack: Stack) -> Scenario:
    """The model on the machine, under a stack."""
    return scenario(model=MODEL, batch=BATCH, cluster=MACHINE, stack=stack)


def differences(name: str) -> list[tuple[str, float, float]]:
    """Tasks whose picoseconds are not those of the page."""
    stack, plan = CASES[name]
    workload = stages_of(priced(stack), plan).workload
    found = [(task.name, int(workload.ps(task)[0]), seconds(task, workload)) for task in tasks_of(workload)]
    for rank in range(workload.num_ranks):
        copies = copies_on(workload, rank)
        for task in workload.step.finish:
            found.append((task.name, int(workload.finish_ps(task, workload.copies_on(rank), [rank])[0]), seconds(task, workload, copies)))
    return [(task, ps, s) for task, ps, s in found if abs(ps - s * 1e12) > 1]
