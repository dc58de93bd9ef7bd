"""What there is to say on one task, whatever list it stands in: of a segment, around one, between stages, or at the end of a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from parsim import units
from parsim.cluster import Accelerator
from parsim.cluster.ports import nic_port
from parsim.cluster.price import Price, binding_link_of, load_of
from parsim.cost.buckets import Held, elements
from parsim.cost.chunks import chunks_of
from parsim.cost.cost_model import CostModel
from parsim.cost.count import flops, hbm_bytes, message_bytes, operands, payload, results, sent_bytes
from parsim.cost.exchange import exchanges_of
from parsim.cost.reach import site_latency_ps, stages_that_leave_sites
from parsim.cost.sizes import Sizes
from parsim.cost.timing import send_price, task_price
from parsim.cost.workload import Workload
from parsim.parallel.recomputation import FLASH_AGAIN
from parsim.report.bounds import Lines, cite, collective_bound, kernel_bound, message_bound
from parsim.step.task import Bucket, Collective, Compute, HostCopy, Operand, Send, Task, Value, runs_beside
from parsim.units import PS_PER_S


class NotedTask(Struct, frozen=True):
    """A task and where it stands."""

    where: str  # 'layer forward'
    task: Task
    names: tuple[str, ...] = ()  # that mean it beside its own
    rank: int | None = None  # of the step's end: the pipeline rank whose buckets it goes through
    rank_holds: Held = None
    node: int | None = None  # the kind of node, where the cluster has several


def task_lines(workload: Workload, noted: NotedTask) -> Lines:
    """Pairs of label and text on a task: what it does, on how much, how long, and what bounds it."""
    task, held, model = noted.task, noted.rank_holds, workload.model if noted.node is None else workload.model.on(noted.node)
    price = task_price(task, workload.sizes, model, held)
    match task:
        case Compute():
            yield from _kernel_lines(workload, model, noted, task, price)
        case Collective():
            yield from _collective_lines(workload, model, noted, task, price)
        case Send():
            sent, stride = int(message_bytes(task, workload.sizes)[0]), int(price.stride[0])
            yield "sent", f"{units.format(sent, 'bytes')} by a rank to its neighbour {_devices(stride)} away"
            yield "time", _time(price)
            yield from message_bound(price)
            yield "load", _load(price)
            yield from _to_other_sites(workload, model, task)
        case HostCopy():
            count = int(elements(task.bucket, workload.sizes, held)[0])
            moved = count * workload.sizes.itemsize_bytes[task.bucket.dtype]
            yield "elements", _elements(count, task.bucket, noted)
            yield "copy", "to host" if task.to_host else "from host"
            yield "payload", units.format(moved, "bytes")
            yield "time", _time(price)
            link = model.cluster.node.host_link
            yield "bound by", f"host link: {units.format(link.bandwidth_bytes_per_s, 'bytes/s')} [{link.source}]"


def _to_other_sites(workload: Workload, model: CostModel, task: Send) -> Lines:
    """The same of stages that hand their results to another site."""
    leave = stages_that_leave_sites(model.cluster, workload.shape, workload.phases, workload.sizes)
    if stages := np.flatnonzero(leave.any(axis=(0, 2))).tolist():
        price = send_price(task, workload.sizes, model, between_sites=True)
        way = units.format(site_latency_ps(model.cluster) / PS_PER_S, "s")
        yield "to sites", f"{_time(price)} from stage {' and '.join(map(str, stages))}, then {way} on its way, while others follow it"
        yield from message_bound(price)


def _kernel_lines(workload: Workload, model: CostModel, noted: NotedTask, task: Compute, price: Price) -> Lines:
    sizes, held = workload.sizes, noted.rank_holds
    adds, fused = ", adds into its output" if task.accumulate else "", ", fused into the one before" if task.fused else ""
    buckets = [value for value in task.inputs if isinstance(value, Bucket)]
    if buckets:
        yield "elements", _elements(int(elements(buckets[-1], sizes, held)[0]), buckets[-1], noted)
        yield "kernel", task.kernel
    else:
        yield "kernel", f"{task.kernel}{adds}{fused}"
        yield "expression", _expression(operands(task), results(task))
        yield "on a rank", _shapes(operands(task), results(task), sizes)
    partial = [f"{o.name} over {axis} ({how})" for o in results(task) for axis, how in o.sharding.partial.items()]
    if partial:
        yield "partial", "; ".join(partial)
    if task.again and task.kernel == "flash_attention" and task.tag in workload.step.structure.checkpointed:
        yield "in vain", FLASH_AGAIN
    yield "FLOPs", units.format(int(flops(task, sizes, held)[0]), "FLOP")
    yield "HBM", units.format(int(hbm_bytes(task, sizes, held)[0]), "bytes")
    yield "time", _time(price)
    yield from kernel_bound(task, sizes, model, held)


def _collective_lines(workload: Workload, model: CostModel, noted: NotedTask, task: Collective, price: Price) -> Lines:
    sizes, held = workload.sizes, noted.rank_holds
    num_ranks, stride = int(price.num_ranks[0]), int(price.stride[0])
    count, itemsize = int(elements(payload(task), sizes, held)[0]), sizes.itemsize_bytes[payload(task).dtype]
    operator = f" ({task.operator})" if "reduce" in task.operation else ""  # the others only move what is there
    beside = ", beside compute" if runs_beside(task) else ""
    yield "collective", f"{task.operation} over {task.group.name}{operator}{beside}"
    if isinstance(task.source, Operand) and isinstance(task.target, Operand):
        yield "expression", _expression((task.source,), (task.target,))
        yield "on a rank", _shapes((task.source,), (task.target,), sizes)
    else:
        yield "elements", _elements(count, payload(task), noted)
    if task.operation == "slice":
        yield "time", f"{_time(price)}: a rank keeps a part of what it has"
        return
    yield "group", f"{num_ranks} ranks along {task.group.name}, {_devices(stride)} apart"
    yield "link", binding_link_of(price) or "none: the rank is alone in its group"
    yield "payload", units.format(count * itemsize, "bytes")
    yield "sent", f"{units.format(int(sent_bytes(task, sizes, model, sizes.position(task.group, {}), held)[0]), 'bytes')} by a rank"
    yield "time", _time(price)
    if exchanges := exchanges_of(task, sizes, model):
        inside, between = (units.format(int(each[0]) * itemsize, "bytes") for each in exchanges.busiest())
        yield "busiest", f"{inside} to ranks of its node, {between} to other nodes at the same time ({model.stack.dispatch})"
    else:
        yield from collective_bound(model, price, count, itemsize, chunks_of(task, sizes))
    yield "load", _load(price)
    if beside:
        yield "beside", _beside(model.cluster.node.accelerator, task.operation)


def _beside(device: Accelerator, operation: str) -> str:
    share = device.beside.get(operation, 0.0)
    costs = f"kernels take {share:.3g} of its time longer meanwhile, and it as much of theirs" if share else "it costs kernels nothing"
    return f"{costs} [{cite(device, 'beside')}]"


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _time(price: Price) -> str:
    return units.format(float(price.seconds[0]), "s")


def _load(price: Price) -> str:
    """What a rank sends a second while bytes flow: what sharing with others starts from."""
    load, node = load_of(price), price.cluster.node
    rates = [(float(load.port_bytes_per_s[0]), node.link.name)]
    if price.cluster.site_link:
        rates.append((float(load.site_bytes_per_s[0]), price.cluster.site_link.name))
    if price.cluster.fabric:
        rates.append((float(load.nic_bytes_per_s[0]), nic_port(node, price.cluster.fabric).name))
    return ", ".join(f"{units.format(rate, 'bytes/s')} through {link}" for rate, link in rates if rate) or "no link"


def _elements(count: int, value: Value, noted: NotedTask) -> str:
    what = f"{value.role}, {value.part}" if isinstance(value, Bucket) else value.name
    alone = getattr(noted.task, "alone", None)
    who = f"; the first of {alone.name} only" if alone else "; every rank"
    return f"{count:,} ({what}) on a rank" + (f" of stage {noted.rank}{who}" if noted.rank is not None else "")


def _expression(inputs: Sequence[Operand], outputs: Sequence[Operand]) -> str:
    """'B S D, D F/tp -> B S F/tp': each dim with the axes that shard it."""
    return " -> ".join(", ".join(_dims(operand) for operand in side) for side in (inputs, outputs)).lstrip()


def _dims(operand: Operand) -> str:
    named = zip(operand.dims, operand.sharding.axes, strict=True)
    return " ".join("/".join((dim, *axes)) for dim, axes in named) or "scalar"


def _shapes(inputs: Sequence[Operand], outputs: Sequence[Operand], sizes: Sizes) -> str:
    def shape(operand: Operand) -> str:
        extents = " x ".join(str(int(sizes.local(operand.sharding, dim)[0])) for dim in operand.dims)
        return f"{operand.name} [{extents}]"

    return " -> ".join(", ".join(shape(operand) for operand in side) for side in (inputs, outputs)).lstrip()
