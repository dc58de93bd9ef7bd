"""The notes of `parsim explain` on the work that ends a step: gradient sums, their norm, the update; and on stage boundaries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parsim import units
from parsim.cluster.network import p2p_s
from parsim.estimator.group import Group
from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT
from parsim.model.op_kinds import COSTS
from parsim.report.bounds import cite, collective_bound, elementwise_bound, host_bound, own_law_bound
from parsim.step.holdings import bucket_elements
from parsim.step.structure import HOST
from parsim.step.task import Finish
from parsim.step.timing import boundary_bytes, finish_ps, optimizer_bytes
from parsim.step.work import finish_work

Notes = Iterator[tuple[str, list[tuple[str, str]]]]
BOUNDARY = "boundary"


def finish_notes(group: Group, op: str, rank: int) -> Notes:
    """Title and lines of each piece of the step's end that `op` names, on a pipeline rank; "finish" names all."""
    if not op:
        return
    if op == BOUNDARY and "pp" in group.step.structure.axes:
        yield "stage boundary: one message", list(_boundary_lines(group))
    exact = [work for work in group.step.finish if op in (work.name, work.kernel, "finish")]
    for work in exact or [work for work in group.step.finish if work.name.startswith(op)]:
        yield f"end of the step: {work.name}", list(_finish_lines(group, work, rank))


def _finish_lines(group: Group, work: Finish, rank: int) -> Iterator[tuple[str, str]]:
    sizes, cluster = group.sizes, group.market.cluster
    elements = 1 if work.bucket == "norm" else int(bucket_elements(group.step, sizes, work.bucket, group.holding(rank), work.part)[0])
    seconds = units.parse(f"{int(finish_ps(group.step, work, sizes, group.holding(rank), group.market)[0])} ps", "s")
    who = "the first replica only" if work.master_only else "every rank"
    yield "elements", f"{elements:,} ({work.bucket}) on a rank of stage {rank}; {who}"
    if work.kernel:
        yield "kernel", work.kernel
        yield "FLOPs", units.format(COSTS[work.kernel].per_element * elements, "FLOP")
        yield "time", units.format(seconds, "s")
        traffic = float(elements * optimizer_bytes(work, group.step, sizes))
        if work.on_host:
            yield from host_bound(cluster.node, traffic, over_link=False)
        elif work.kernel in cluster.node.accelerator.kernels:
            calls = finish_work(group.step, work, sizes, group.holding(rank), optimizer_bytes(work, group.step, sizes))
            yield from own_law_bound(cluster.node.accelerator, work.kernel, calls)
        else:
            yield from elementwise_bound(cluster.node.accelerator, traffic, launched=True)
        return
    itemsize = sizes.itemsize_bytes[{"norm": FLOAT32, "parameters": COMPUTE}.get(work.bucket, GRADIENT)]
    yield ("copy", work.operation.replace("_", " ")) if work.axis == HOST else ("collective", f"{work.operation} over {work.axis}")
    yield "payload", units.format(elements * itemsize, "bytes")
    yield "time", units.format(seconds, "s")
    if work.axis == HOST:
        yield from host_bound(cluster.node, elements * itemsize, over_link=True)
        return
    num_ranks, stride = (int(each[0]) for each in sizes.group(work.axis))
    if work.bucket == "tied":  # the first and the last stage only
        num_ranks, stride = 2, stride * (num_ranks - 1)
    yield from collective_bound(group.market, work.operation, elements, itemsize, num_ranks, stride)


def _boundary_lines(group: Group) -> Iterator[tuple[str, str]]:
    cluster, sizes = group.market.cluster, group.sizes
    num_ranks, stride = sizes.group("pp")
    sent = int(boundary_bytes(group.step, sizes)[0])
    seconds = p2p_s(cluster, sent, int(stride[0]), num_ranks=int(num_ranks[0]))
    inside = int(stride[0]) * int(num_ranks[0]) <= cluster.node.devices_per_node
    fabric = cluster.fabric
    yield "sent", f"{units.format(sent, 'bytes')} by a rank to its neighbour {int(stride[0])} devices away"
    yield "time", units.format(float(np.ravel(seconds)[0]), "s")
    if inside or fabric is None:
        yield "bound by", f"node link ({cluster.node.link.name}) [{cite(cluster.node, 'p2p_efficiency') or cluster.node.link.source}]"
    else:
        yield "bound by", f"NIC ({fabric.nic.name}) [{cite(fabric, 'p2p_efficiency')}]"
