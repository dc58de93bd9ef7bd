"""Bytes that a device sends, summed over the messages of every collective that runs, one by one.

Slow where groups are large: `parsim verify` asks it of small plans, the estimator's closed forms must agree.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from parsim.collectives import CollectiveAlgorithm, chunk_elements, num_chunks
from parsim.cost.buckets import Held, elements, num_bytes
from parsim.cost.choice import algorithm
from parsim.cost.count import payload
from parsim.cost.workload import Workload
from parsim.parallel.group import Group
from parsim.simulator.program import Program, one
from parsim.step.task import HOST, Collective, HostCopy, Send, Task


def sent_bytes(workload: Workload, at: Mapping[str, int]) -> dict[str, int]:
    """Bytes that the device at these coordinates sends in a step, by axis or group of axes, and to its host."""
    here, program = replace(workload, sizes=workload.sizes.at(at)), Program(workload)
    sent = Counter(dict.fromkeys(workload.step.structure.links, 0))
    for each, count in zip(program.passes, program.counts[at["pp"]].tolist(), strict=True):
        for task in (*each.prologue, *each.epilogue) if count else ():
            sent[_link(task)] += count * _bytes(program, here, task, at)
        for run in each.runs if count else ():
            for task in run.tasks:
                sent[_link(task)] += count * one(run.copies) * _bytes(program, here, task, at)
    held = program.held[at["pp"]]
    for task in workload.step.finish:
        sent[_link(task)] += _bytes(program, here, task, at, held)
    return {link: count for link, count in sent.items() if link}


def _link(task: Task) -> str:
    """What a task's bytes are filed under; "" where it sends none."""
    match task:
        case Collective():
            return task.group.name
        case Send():
            return "pp"
        case HostCopy():
            return HOST
    return ""


def _bytes(program: Program, workload: Workload, task: Task, at: Mapping[str, int], held: Held = None) -> int:
    alone, members = getattr(task, "alone", None), program.members.get(id(task), ())
    if (alone and any(at[axis] for axis in alone.axes)) or (members and at["pp"] not in members):
        return 0
    match task:
        case Send():
            return one(num_bytes(task.sent, workload.sizes))
        case HostCopy() if task.to_host:
            return one(num_bytes(task.bucket, workload.sizes, held))
        case Collective() if task.operation != "slice":
            count, itemsize = one(elements(payload(task), workload.sizes, held)), workload.sizes.itemsize_bytes[task.source.dtype]
            chosen = algorithm(task.operation, task.group, count * itemsize, workload.sizes, workload.model)
            position = members.index(at["pp"]) if members else _position(task.group, at, workload)
            return _messages(chosen, task.operation, one(workload.sizes.num_ranks(task.group)), count)[position] * itemsize
    return 0


def _position(group: Group, at: Mapping[str, int], workload: Workload) -> int:
    """Where a device stands in a group, whose last axis is the fastest."""
    return functools.reduce(lambda found, axis: found * one(workload.sizes.degrees[axis]) + at[axis], group.axes, 0)


@functools.lru_cache(maxsize=4096)
def _messages(algorithm: CollectiveAlgorithm, operation: str, num_ranks: int, elements: int) -> tuple[int, ...]:
    """Elements that each rank sends: one collective, message by message; the last count is a switch's."""
    sent = [0] * (num_ranks + 1)
    chunks = num_chunks(operation, num_ranks)
    for transfer in algorithm.transfers(operation, num_ranks, "sum"):
        sent[transfer.src] += int(chunk_elements(transfer.chunk, chunks, elements))
    return tuple(sent)
