"""The high-water mark of a rank: its whole step walked in issue order, allocation by allocation."""

from __future__ import annotations

from collections.abc import Sequence

from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT
from parsim.simulator.program import Program
from parsim.step.holdings import gathered_elements, lasting_parts, own_weights, part_elements, used_elements
from parsim.step.task import Segment, Task, allocates
from parsim.step.timing import boundary


def peak_bytes(program: Program, rank: int) -> int:
    """Most bytes alive at once on a rank, without the stack's overheads."""
    live = _lasting(program, rank)
    peak = live
    curves = {(s.name, k): _curve(program, s, k) for s in program.step.segments for k in "FB"}
    stream = int(program.sizes.num_bytes(boundary(program.step))[0])
    shard = stream // int(program.sizes.degrees["tp"][0]) if program.step.structure.scatter_gather else 0
    gathered, scattered = _pass_buffers(program)
    structure = program.step.structure
    ahead = program.step.structure.gradient_overlap
    for stage, kind, _ in program.order.by_rank[rank]:
        if program.receives(stage, kind):
            live += stream
            peak = max(peak, live + shard)
        segments, gathers = program.segments(stage, kind), structure.gathers(kind)
        if ahead and gathers:
            live += gathered[segments[0].name]
        for index, segment in enumerate(segments):
            net, highest = curves[segment.name, kind]
            if gathers and ahead and index + 1 < len(segments):
                live += gathered[segments[index + 1].name]
            live += gathered[segment.name] if gathers and not ahead else 0
            passing = scattered[segment.name] if kind == "B" else 0
            peak = max(peak, live + passing + highest)
            live += net - (gathered[segment.name] if structure.releases(kind) else 0)
        if program.sends(stage, kind):
            live -= stream
    return peak


def _pass_buffers(program: Program) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of a segment's gathered parameters and of its gradients before they are scattered."""
    size, structure = program.sizes.itemsize_bytes, program.step.structure
    segments, sizes = program.step.segments, program.sizes
    gathered = {s.name: int(gathered_elements(s, structure, sizes)[0]) * size[COMPUTE] for s in segments}
    return gathered, {s.name: int(used_elements(s, sizes, "padded")[0]) * size[GRADIENT] * structure.per_pass for s in segments}


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
    states = program.step.structure.state_bytes
    parts = lasting_parts(program.step.structure.zero_stage)
    each = {parts["parameters"]: 0, parts["gradients"]: 0, parts["optimizer"]: 0}
    for part, itemsize in zip(parts.values(), (size[COMPUTE], size[GRADIENT], states), strict=True):
        each[part] += itemsize
    total = size[FLOAT32]
    for stage in range(rank, program.num_stages, program.num_ranks):
        for segment in program.segments(stage, "F"):
            weights = own_weights(segment, program.step.structure)
            for weight in weights:
                whole, ranks = program.sizes.elements(weight.sharding), program.sizes.degrees["dp"]
                total += sum(itemsize * int(part_elements(whole, ranks, part)[0]) for part, itemsize in each.items())
            total += sum(int(program.sizes.num_bytes(t)[0]) for t in segment.totals)
    return total
