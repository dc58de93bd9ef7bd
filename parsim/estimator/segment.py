"""One pass through a segment: how long on its streams, how many bytes it keeps and needs at most, FLOPs and bytes sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parsim.step import count
from parsim.step.sizes import Ints, Sizes
from parsim.step.task import Communicate, Compute, Operand, Task, allocates, reads
from parsim.step.timing import Market


@dataclass(frozen=True, slots=True)
class Span:
    """Time of a segment's pass: its makespan, and what the compute stream did in it or waited for."""

    total_ps: Ints
    compute_ps: Ints
    host_ps: Ints  # waiting for kernel launches
    exposed_ps: Mapping[str, Ints]  # waiting for collectives, by axis


def span(tasks: Sequence[Task], prices: Sequence[Ints], floor_ps: Ints) -> Span:
    """The longest path through a segment: compute in order on one stream, collectives beside it where they are asynchronous.

    A collective starts when all compute issued before it has ended, as NCCL's stream waits for the current one.
    """
    zero = np.zeros_like(floor_ps)
    compute, beside, busy = zero, zero, zero
    ready: dict[str, tuple[Ints, str]] = {}
    exposed: dict[str, Ints] = {}
    last = ""  # axis of the last collective beside
    for task, price in zip(tasks, prices, strict=True):
        start = compute
        for name in reads(task):
            when, axis = ready.get(name, (zero, ""))
            later = np.maximum(start, when)
            if axis and (isinstance(task, Compute) or not task.asynchronous):
                exposed[axis] = exposed.get(axis, zero) + later - start
            start = later
        if isinstance(task, Compute):
            compute, busy = start + price, busy + price
        elif task.asynchronous:
            beside, last = np.maximum(start, beside) + price, task.axis
            ready[task.target.name] = (beside, last)
        else:
            compute = start + price
            exposed[task.axis] = exposed.get(task.axis, zero) + price
    ends = np.maximum(compute, beside)
    if last:
        exposed[last] = exposed.get(last, zero) + ends - compute
    host = np.maximum(floor_ps - ends, 0)
    return Span(ends + host, busy, host, exposed)


@dataclass(frozen=True, slots=True)
class Lives:
    """Memory of a segment's pass, relative to what is alive when it starts."""

    net_bytes: Ints
    peak_bytes: Ints


def lives(tasks: Sequence[Task], entering: Sequence[Operand], sizes: Sizes) -> Lives:
    """Live bytes folded in issue order, as a caching allocator sees a stream: outputs come before inputs go."""
    held = {operand.name: sizes.num_bytes(operand) for operand in entering}
    live = np.zeros(sizes.num_plans, dtype=np.int64)
    peak = live
    for task in tasks:
        for operand in allocates(task):
            held[operand.name] = sizes.num_bytes(operand)
            live = live + held[operand.name]
        peak = np.maximum(peak, live)
        for name in task.frees:
            live = live - held.pop(name)
    return Lives(live, peak)


def flops(tasks: Sequence[Task], sizes: Sizes) -> Ints:
    """FLOPs of one pass on one rank."""
    zero = np.zeros(sizes.num_plans, dtype=np.int64)
    return sum((count.flops(t, sizes) for t in tasks if isinstance(t, Compute)), start=zero)


def hbm_bytes(tasks: Sequence[Task], sizes: Sizes) -> Ints:
    """Bytes between HBM and the device in one pass on one rank."""
    zero = np.zeros(sizes.num_plans, dtype=np.int64)
    return sum((count.hbm_bytes(t, sizes) for t in tasks if isinstance(t, Compute)), start=zero)


def sent_bytes(tasks: Sequence[Task], sizes: Sizes, market: Market, axis: str, position: int) -> Ints:
    """Bytes that the rank at `position` along `axis` sends over it in one pass."""
    zero = np.zeros(sizes.num_plans, dtype=np.int64)
    sent = (count.sent_bytes(t, sizes, market, position) for t in tasks if isinstance(t, Communicate) and t.axis == axis)
    return sum(sent, start=zero)
