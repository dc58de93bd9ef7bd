"""Bytes that a device sends, summed over the messages of every collective that runs, one by one.

Slow where groups are large: `parsim verify` asks it of small plans, the estimator's closed forms must agree.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from parsim.collectives import Collective, chunk_elements
from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT
from parsim.simulator.program import Program
from parsim.step.choice import algorithm
from parsim.step.count import payload
from parsim.step.holdings import gathered_elements, in_bucket, own_weights, part_elements, segment_elements, used_elements
from parsim.step.structure import HOST
from parsim.step.task import Communicate, Finish
from parsim.step.timing import boundary


def sent_bytes(program: Program, at: Mapping[str, int]) -> dict[str, int]:
    """Bytes that the device at these coordinates sends in a step, by axis."""
    sent = dict.fromkeys(program.step.structure.links, 0)
    structure = program.step.structure
    last = {a.stage: a for a in program.order.by_rank[at["pp"]] if a.phase == "B"}
    stream = int(program.sizes.elements(boundary(program.step).sharding)[0])
    for action in program.order.by_rank[at["pp"]]:
        for segment in program.segments(action.stage, action.phase):
            for task in segment.forward if action.phase == "F" else segment.backward:
                if isinstance(task, Communicate):
                    elements = int(program.sizes.elements(payload(task))[0])
                    sent[task.axis] += _sent(program, task.operation, task.axis, at[task.axis], elements, task.source.dtype)
            if structure.per_pass:
                if structure.gathers(action.phase):
                    elements = int(gathered_elements(segment, structure, program.sizes)[0])
                    sent["dp"] += _sent(program, "all_gather", "dp", at["dp"], elements, COMPUTE)
                if action.phase == "B":
                    elements = int(used_elements(segment, program.sizes, "padded")[0])
                    sent["dp"] += _sent(program, "reduce_scatter", "dp", at["dp"], elements, GRADIENT)
            elif structure.gradient_overlap and action == last.get(action.stage):
                operation, part = ("reduce_scatter", "padded") if structure.zero_stage else ("all_reduce", "whole")
                elements = int(segment_elements(program.step, segment, program.sizes, "all", part)[0])
                sent["dp"] += _sent(program, operation, "dp", at["dp"], elements, GRADIENT)
        parts = int(program.sizes.degrees["tp"][0]) if structure.scatter_gather else 1
        if program.sends(action.stage, action.phase):
            sent["pp"] += stream // parts * program.sizes.itemsize_bytes[COMPUTE]
        if program.receives(action.stage, action.phase) and structure.scatter_gather:
            sent["tp"] += _sent(program, "all_gather", "tp", at["tp"], stream, COMPUTE)
    for work in program.step.finish:
        if work.operation and not (work.master_only and at["dp"]):
            sent[work.axis] += _finish(program, work, at)
    return sent


def _finish(program: Program, work: Finish, at: Mapping[str, int]) -> int:
    if work.bucket == "norm":
        return _sent(program, work.operation, work.axis, at[work.axis], 1, FLOAT32)
    elements = 0
    for stage in range(at["pp"], program.num_stages, program.num_ranks):
        for segment in program.segments(stage, "F"):
            for weight in own_weights(segment, program.step.structure):
                taken = in_bucket(weight, segment, work.bucket)
                whole = program.sizes.elements(weight.sharding)
                elements += int(part_elements(whole, program.sizes.degrees["dp"], work.part)[0]) * taken
    dtype = COMPUTE if work.bucket == "parameters" else GRADIENT
    if work.axis == HOST:
        return elements * program.sizes.itemsize_bytes[dtype] if work.operation == "to_host" else 0
    if work.bucket != "tied":
        return _sent(program, work.operation, work.axis, at[work.axis], elements, dtype)
    if at["pp"] not in (0, program.num_ranks - 1):
        return 0
    return _sent(program, "all_reduce", "pp", min(at["pp"], 1), elements, dtype, num_ranks=2)


def _sent(program: Program, operation: str, axis: str, position: int, elements: int, dtype: str, num_ranks: int | None = None) -> int:
    """`num_ranks` where fewer than the whole group take part."""
    if operation == "slice":
        return 0
    itemsize, count = program.sizes.itemsize_bytes[dtype], num_ranks or int(program.sizes.degrees[axis][0])
    chosen = algorithm(operation, axis, elements * itemsize, program.sizes, program.market, num_ranks=count)
    return _messages(chosen, operation, count, elements)[position] * itemsize


@functools.lru_cache(maxsize=4096)
def _messages(algorithm: Collective, operation: str, num_ranks: int, elements: int) -> tuple[int, ...]:
    """Elements that each rank sends: one collective, message by message; the last count is a switch's."""
    sent = [0] * (num_ranks + 1)
    chunks = 1 if operation in ("reduce", "broadcast") else num_ranks
    for transfer in algorithm.transfers(operation, num_ranks, "sum"):
        sent[transfer.src] += int(chunk_elements(transfer.chunk, chunks, elements))
    return tuple(sent)
