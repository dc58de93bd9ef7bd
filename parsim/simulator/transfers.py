"""Bytes that a device sends, summed over the messages of every collective that runs, one by one.

Slow where groups are large: `parsim verify` asks it of small plans, the estimator's closed forms must agree.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from parsim.collectives import CollectiveAlgorithm, chunk_elements, num_chunks
from parsim.cost.buckets import Held, elements, num_bytes
from parsim.cost.choice import algorithm
from parsim.cost.chunks import chunks_of
from parsim.cost.count import payload
from parsim.cost.exchange import exchanges_of
from parsim.cost.workload import Workload
from parsim.simulator.program import Program, one
from parsim.step.task import HOST, Collective, HostCopy, Send, Task


def sent_bytes(workload: Workload, at: Mapping[str, int]) -> dict[str, int]:
    """Bytes that the device at these coordinates sends in a step, by axis or group of axes, and to its host."""
    here, program = replace(workload, sizes=workload.sizes.at(at)), Program(workload)
    sent = Counter(dict.fromkeys(workload.step.structure.links, 0))
    for each, count in zip(program.passes, program.counts[at["pp"]].tolist(), strict=True):
        for run in each.lists if count else ():
            for task in run.tasks:
                for link, size in _sends(program, here, task, at):
                    sent[link] += count * one(run.copies) * size
    held = program.held[at["pp"]]
    for task in workload.step.finish:
        for link, size in _sends(program, here, task, at, held):
            sent[link] += size
    return dict(sent)


def _sends(program: Program, workload: Workload, task: Task, at: Mapping[str, int], held: Held = None) -> Iterator[tuple[str, int]]:
    """The link on which a task sends, and its bytes."""
    alone, members = getattr(task, "alone", None), program.members(task, at["pp"])
    if (alone and any(at[axis] for axis in alone.axes)) or (members and at["pp"] not in members):
        return
    match task:
        case Send():
            yield "pp", sum(one(num_bytes(each, workload.sizes)) for each in task.sent)
        case HostCopy() if task.to_host:
            yield HOST, one(num_bytes(task.bucket, workload.sizes, held))
        case Collective() if exchanges := exchanges_of(task, workload.sizes, workload.model):
            (kind,), position = exchanges.kinds, one(workload.sizes.position(task.group, at))
            of_item = one(exchanges.elements) * workload.sizes.itemsize_bytes[payload(task).dtype]
            for way in kind.transfers(task.operation, len(kind.exchange.slots), "sum"):
                if way.src == position:
                    yield kind.exchange.link(task.group.name, way.src, way.dst), of_item
        case Collective() if task.operation != "slice":
            count, itemsize = one(elements(payload(task), workload.sizes, held)), workload.sizes.itemsize_bytes[payload(task).dtype]
            chosen = algorithm(task.operation, task.group, count * itemsize, workload.sizes, workload.model.on(workload.node_of(at["pp"])))
            position = members.index(at["pp"]) if members else one(workload.sizes.position(task.group, at))
            table = chunks_of(task, workload.sizes)
            chunks = None if table is None else tuple(table[0].ravel().tolist())
            found = _messages(chosen, task.operation, one(workload.sizes.num_ranks(task.group)), count, chunks)
            yield task.group.name, found[position] * itemsize


@functools.lru_cache(maxsize=4096)
def _messages(
    algorithm: CollectiveAlgorithm, operation: str, num_ranks: int, elements: int, chunks: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Elements that each rank sends: one collective, message by message; the last count is a switch's.

    `chunks`: elements of each, as transfers number them; None: those of equal cuts.
    """
    sent, parts = [0] * (num_ranks + 1), num_chunks(operation, num_ranks)
    for transfer in algorithm.transfers(operation, num_ranks, "sum"):
        sent[transfer.src] += chunks[transfer.chunk] if chunks else int(chunk_elements(transfer.chunk, parts, elements))
    return tuple(sent)
