"""FLOPs, HBM bytes and sent bytes of one task, as integers: what the kernels must agree with, and what timing prices."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np
from msgspec.structs import replace

from parsim.collectives.by_node import BETWEEN
from parsim.cost.buckets import Held, elements, num_bytes
from parsim.cost.choice import closed_forms
from parsim.cost.chunks import chunks_of, tensor_elements
from parsim.cost.cost_model import CostModel
from parsim.cost.exchange import exchanges_of
from parsim.cost.scan import scan_flops
from parsim.cost.sizes import Ints, Sizes
from parsim.model.dims import FLOAT32, GRADIENT, KEYS, MASTER, QUERIES
from parsim.model.itemsize import exact_bytes, itemsize_of
from parsim.model.op_kinds import COSTS, PART
from parsim.model.window import ALL, Window
from parsim.parallel.optimizer import OPTIMIZERS, OUTER_OPTIMIZERS
from parsim.parallel.sharding import Sharding
from parsim.step.ring import TURNS
from parsim.step.structure import Structure
from parsim.step.task import HOST, Bucket, Collective, Compute, HostCopy, Operand, Send, Task, Value


def flops(task: Task, sizes: Sizes, held: Held = None) -> Ints:
    """FLOPs of a kernel on one rank: 2 x the product of all extents for a contraction, widths x unmasked pairs for flash
    attention, else a number for each element, or for those of the last part of each row that it works on."""
    if not isinstance(task, Compute):
        return sizes.zero
    cost = COSTS[task.kernel]
    if cost.family == "gemm":  # a row meets the matrix of its own expert only
        size = [extent for dim, extent in extents(task, sizes).items() if task.kernel != "grouped_gemm" or dim != "E"]
        return 2 * math.prod(size, start=sizes.zero + 1)
    if cost.family == "attention":
        every, local = [operand.sharding for operand in operands(task)], sizes.local
        queries, keys = every[0], next(each for each in every if along(each, KEYS))
        turns, causal = int(task.attributes.get(TURNS, 0)), task.attributes.get("causal", 1)
        pairs = (
            sizes.causal_pairs(queries, keys, turns, window_of(task, sizes))
            if causal
            else local(queries, along(queries, QUERIES)) * local(keys, along(keys, KEYS))
        )
        of_keys, of_values = head_widths(task, sizes)
        return 2 * query_heads(queries, sizes) * (cost.matmuls[0] * of_keys + cost.matmuls[1] * of_values) * pairs
    if cost.family == "scan":
        return scan_flops(task, sizes)
    per_element = int(task.attributes["flops"]) if cost.told else cost.per_element
    if not per_element:
        return sizes.zero
    count = elements(task.inputs[cost.operand], sizes, held)
    if part := str(task.attributes.get(PART, "")).removeprefix("extent:"):
        row = operands(task)[cost.operand].sharding
        count = count // sizes.local(row, row.dims[-1]) * sizes.dims[part]
    return per_element * count


def counted_flops(task: Task, sizes: Sizes) -> Ints:
    """The same with the pairs of query and key that MFU counts, which do not depend on how ranks share a sequence."""
    if not isinstance(task, Compute) or COSTS[task.kernel].family != "attention":
        return flops(task, sizes)
    every, length = flops(replace(task, attributes={**task.attributes, "causal": 0}), sizes), int(sizes.dims["Z"][0])
    pairs = window_of(task, sizes).pairs(length)
    return np.array([each * pairs // length**2 for each in every.tolist()], dtype=np.int64)  # of Python's integers, which do not overflow


def window_of(task: Compute, sizes: Sizes) -> Window:
    """What the queries of attention see of the tokens around them."""
    told = task.attributes
    found = Window(int(sizes.dims["w"][0]), bool(told["chunked"]), bool(told.get("two_sided"))) if "window" in told else ALL
    return found._replace(documents=sizes.documents) if "documents" in told else found


def operands(task: Compute) -> tuple[Operand, ...]:
    """The inputs of a kernel of a pass."""
    return tuple(value for value in task.inputs if isinstance(value, Operand))


def results(task: Compute) -> tuple[Operand, ...]:
    """The outputs of a kernel of a pass."""
    return tuple(value for value in task.outputs if isinstance(value, Operand))


def head_widths(task: Compute, sizes: Sizes) -> tuple[Ints, Ints]:
    """Widths of a key and of a value in attention."""
    keys, values = [each.sharding for each in operands(task) if along(each.sharding, KEYS)][:2]
    return sizes.local(keys, keys.dims[-1]), sizes.local(values, values.dims[-1])


def along(sharding: Sharding, dims: Collection[str]) -> str:
    """Which of these dims a tensor has; "" for none."""
    return next((dim for dim in sharding.dims if dim in dims), "")


def query_heads(queries: Sharding, sizes: Sizes) -> Ints:
    """Heads of queries of all sequences on a rank."""
    heads = (dim for dim in queries.dims[:-1] if dim not in QUERIES)
    return math.prod((sizes.local(queries, dim) for dim in heads), start=sizes.zero + 1)


def extents(task: Compute, sizes: Sizes) -> dict[str, Ints]:
    """Local extent of every dim that a kernel touches."""
    where = {dim: o.sharding for o in (*operands(task), *results(task)) for dim in o.dims}
    return {dim: sizes.local(sharding, dim) for dim, sharding in where.items()}


def hbm_bytes(task: Task, sizes: Sizes, held: Held = None) -> Ints:
    """Bytes between HBM and the device: every operand once, an accumulated output twice.

    A fused op finds its first input in registers, and what it changes in place is written by the kernel that holds it.
    """
    if not isinstance(task, Compute):
        return sizes.zero
    if (bucket := bucket_of(task)) is not None:
        scales = (value for value in (*task.inputs, *task.outputs) if isinstance(value, Bucket) and value.part == "scale")
        return sum((num_bytes(each, sizes, held) for each in scales), start=elements(bucket, sizes, held) * element_bytes(task, sizes))
    skips = COSTS[task.kernel].skips
    read = [(_rows_looked_up(task, i), o.dtype) for i, o in enumerate(task.inputs) if i not in skips and not (task.fused and i == 0)]
    written = [] if task.fused and task.in_place else [(_rows_added(task, o), o.dtype) for o in task.outputs]
    total = sizes.zero
    for touched, dtype in (*read, *written, *(written if task.accumulate else ())):
        total = total + elements(touched, sizes) * sizes.itemsize_bytes[dtype]
    return total


def _rows_looked_up(task: Compute, index: int) -> Value:
    """As many elements as are read of an input: of what is looked up those that are found, of positions a row each for all sequences."""
    cost, operand = COSTS[task.kernel], task.inputs[index]
    if index in cost.picks:
        return task.outputs[0]
    if index in cost.positions:
        x = operands(task)[0]
        return replace(x, sharding=Sharding(x.dims[1:], x.sharding.axes[1:], loads=x.sharding.loads))
    return operand


def _rows_added(task: Compute, operand: Value) -> Value:
    """Adding into a table touches as many elements as the gradient of its rows has, not the table."""
    return task.inputs[1] if task.kernel == "lookup_grad" and task.accumulate else operand


def bucket_of(task: Compute) -> Bucket | None:
    """The weights that a kernel of a step's end goes through; None for a kernel of a pass."""
    return next((value for value in task.inputs if isinstance(value, Bucket)), None)


def state_bytes(structure: Structure, sizes: Sizes) -> int:
    """Bytes an element of the optimizer's states, with the master copy, that lie on the device."""
    updated = sizes.itemsize_bytes[MASTER]
    master = updated if structure.master_weights else 0
    if structure.offload or structure.is_served:
        return 0
    outer = updated * len(OUTER_OPTIMIZERS[structure.apart.outer_optimizer].states) if structure.apart else 0
    return master if structure.paged else master + OPTIMIZERS[structure.optimizer].state_bytes(updated) + outer


def host_state_bytes(structure: Structure, sizes: Sizes) -> int:
    """Bytes an element of the optimizer's states that lie on the host, with the weights that it updates where it does."""
    updated = sizes.itemsize_bytes[MASTER]
    states = OPTIMIZERS[structure.optimizer].state_bytes(updated) if structure.uses_host else 0
    return states + (updated if structure.offload else 0)


def host_gradient_bytes(structure: Structure, sizes: Sizes) -> int:
    """Bytes an element of the gradients that the host keeps."""
    return sum(sizes.itemsize_bytes[role] for role in structure.host_gradients)


def element_bytes(task: Compute, sizes: Sizes) -> int:
    """HBM bytes an element that a kernel of a step's end moves."""
    size = sizes.itemsize_bytes
    if "optimizer" in task.attributes:
        return OPTIMIZERS[str(task.attributes["optimizer"])].moved_bytes(size[MASTER], size[task.inputs[1].dtype])
    if "outer_optimizer" in task.attributes:
        return OUTER_OPTIMIZERS[str(task.attributes["outer_optimizer"])].moved_per_element * size[MASTER]
    moved = {"norm_sq": size[GRADIENT], "clip": 2 * size[GRADIENT], "steer": 3 * size[FLOAT32]}
    if task.kernel in moved:
        return moved[task.kernel]
    source, target = task.inputs[0], task.outputs[0]
    read = size[MASTER if source.name == "states" else source.dtype]
    if isinstance(target, Bucket) and target.part == "scale":
        return read
    return itemsize_of(exact_bytes(read) + int(task.attributes.get("layouts", 1)) * exact_bytes(size[target.dtype]))


def payload(task: Collective) -> Value:
    """The larger side of a collective: what is reduced, or what has been gathered.  Messages have its dtype."""
    return task.target if task.operation == "all_gather" else task.source


def message_bytes(task: Send, sizes: Sizes) -> Ints:
    """Bytes of a message, all its tensors together."""
    return sum((num_bytes(each, sizes) for each in task.sent), start=sizes.zero)


def sent_bytes(task: Task, sizes: Sizes, model: CostModel, position: int | Ints, held: Held = None) -> Ints:
    """Bytes that a rank sends, in a collective the one at `position` of its group; to the host what goes there."""
    return sum((sent for _, sent in sent_over(task, sizes, model, position, held)), start=sizes.zero)


def sent_over(task: Task, sizes: Sizes, model: CostModel, position: int | Ints, held: Held = None) -> Iterator[tuple[str, Ints]]:
    """The same by link: a mesh axis or group, and between nodes where an exchange with experts tells them apart."""
    match task:
        case Send():
            yield "pp", message_bytes(task, sizes)
        case HostCopy():
            yield HOST, num_bytes(task.bucket, sizes, held) if task.to_host else sizes.zero
        case Collective() if task.operation == "slice":
            yield task.group.name, sizes.zero
        case Collective() if exchanges := exchanges_of(task, sizes, model):
            inside, between = (each * sizes.itemsize_bytes[payload(task).dtype] for each in exchanges.sent_elements(position))
            yield from ((task.group.name, inside), (task.group.name + BETWEEN, between))
        case Collective():
            chunks, itemsize = chunks_of(task, sizes), sizes.itemsize_bytes[payload(task).dtype]
            count = elements(payload(task), sizes, held) if chunks is None else tensor_elements(chunks, position)
            chosen = closed_forms(task.operation, task.group, count * itemsize, sizes, model)
            sent = chosen.sent_elements(task.operation, position, sizes.num_ranks(task.group), count, chunks)
            yield task.group.name, np.asarray(sent, dtype=np.int64) * itemsize
