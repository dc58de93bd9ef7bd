"""The high-water mark of a rank: its whole step walked in issue order, allocation by allocation."""

from __future__ import annotations

from collections.abc import Sequence

from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT
from parsim.simulator.program import Program
from parsim.step.holdings import own_weights
from parsim.step.task import Segment, Task, allocates
from parsim.step.timing import boundary


def peak_bytes(program: Program, rank: int) -> int:
    """Most bytes alive at once on a rank, without the stack's overheads."""
    live = _lasting(program, rank)
    peak = live
    curves = {(s.name, k): _curve(program, s, k) for s in program.step.segments for k in "FB"}
    stream = int(program.sizes.num_bytes(boundary(program.step))[0])
    shard = stream // int(program.sizes.degrees["tp"][0]) if program.step.structure.scatter_gather else 0
    for stage, kind, _ in program.order.by_rank[rank]:
        if program.receives(stage, kind):
            live += stream
            peak = max(peak, live + shard)
        for segment in program.segments(stage, kind):
            net, highest = curves[segment.name, kind]
            peak = max(peak, live + highest)
            live += net
        if program.sends(stage, kind):
            live -= stream
    return peak


def _curve(program: Program, segment: Segment, kind: str) -> tuple[int, int]:
    """Net and highest bytes of one pass, counted from its start."""
    size = program.sizes.num_bytes
    held = {o.name: int(size(o)[0]) for o in segment.saved} if kind == "B" else {}
    if segment.x and kind == "F":
        held["x"] = int(size(segment.x)[0])
    if segment.y and kind == "B":
        held["d_y"] = int(size(segment.y)[0])
    tasks: Sequence[Task] = segment.forward if kind == "F" else segment.backward
    start = live = highest = sum(held.values())
    for task in tasks:
        for operand in allocates(task):
            held[operand.name] = int(size(operand)[0])
            live += held[operand.name]
        highest = max(highest, live)
        live -= sum(held.pop(name) for name in task.frees)
    return live - start, highest - start


def _lasting(program: Program, rank: int) -> int:
    """Weights, gradients, optimizer state and scalars."""
    size = program.sizes.itemsize_bytes
    states = 3 if program.step.structure.master_weights else 2
    each = size[COMPUTE] + size[GRADIENT] + states * size[FLOAT32]
    total = size[FLOAT32]
    for stage in range(rank, program.num_stages, program.num_ranks):
        for segment in program.segments(stage, "F"):
            weights = own_weights(segment, program.step.structure)
            total += sum(each * int(program.sizes.elements(w.sharding)[0]) for w in weights)
            total += sum(int(program.sizes.num_bytes(t)[0]) for t in segment.totals)
    return total
