"""What pools of CUDA graphs keep from kernels that no graph replays, and the other way round.

A graph has a pool of its own, which keeps the most that its kernels ever held at once for as long as the graph lives; those of all layers
share one.  So what captured kernels need on top of kept activations, and what others do, lie side by side: they take no turns in the same
blocks.  Of a graph of a whole step (full_iteration) that is an approximation: embedding and head are captured, too.  A step that is one
graph only where nothing splits it (unsplit) has one pool either way, of the graph or of what no graph replays.

Source: PyTorch, c10/cuda/CUDACachingAllocator.cpp (the note on private pools: "it does reserve its high-water mark of used memory away
from the default pools"); NVIDIA/TransformerEngine@d0067d0d, transformer_engine/pytorch/graph.py (_make_graphed_callables: all captures
share a pool, and give their outputs back to it); NVIDIA/Megatron-LM@d98e8a64, megatron/core/transformer/cuda_graphs.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from parsim.cost.buckets import num_bytes
from parsim.cost.shape import StageKind
from parsim.cost.sizes import Ints, Sizes
from parsim.estimator.passes import Members, Stages
from parsim.model.dims import SLOTS
from parsim.parallel.plan import ALL, AROUND_EXPERTS, OTHER
from parsim.step.program import Run
from parsim.step.task import Bucket, Operand, Value, allocates

_Captures = Callable[[Run, Value], bool]
_ENDS: Final = ("embedding", "head")  # which stay outside the graphs of layers


class _OnTop(NamedTuple):
    """The most beyond what stays, one value a plan: of captured values, of others, and of both together."""

    captured: Ints
    eager: Ints
    together: Ints


def pool_bytes(stages: Stages) -> Ints:
    """What both pools hold beyond one that they would share, [class, plan]; 0 without graphs, or where PyTorch's allocator is not used."""
    model, known = stages.workload.model, dict[tuple[_Captures, int], _OnTop]()
    captured = [_rule_of(each.replayed) for each in model.on_each]
    if model.stack.allocator == OTHER or not any(captured):
        return np.zeros((stages.num_classes, len(stages.workload.rows)), dtype=np.int64)

    def own(kind: StageKind, members: Members) -> Ints:
        most, captures = _OnTop(*(members.plans * 0 for _ in range(3))), captured[kind.node]
        if captures is None:
            return most.together
        for phase in stages.workload.phases:
            for run in stages.pass_of(kind, phase).lists:
                if (captures, id(run.tasks)) not in known:
                    known[captures, id(run.tasks)] = _on_top(run, stages.measures.prices.sizes, captures)
                there = np.asarray(run.copies) > 0
                found = (np.where(there, each[stages.rows_of(kind)], 0) for each in known[captures, id(run.tasks)])
                most = _OnTop(*(np.maximum(before, now) for before, now in zip(most, found, strict=True)))
        return most.captured + most.eager - np.maximum(most.together, np.maximum(most.captured, most.eager))

    return stages.spread(own)


def _rule_of(replayed: str) -> _Captures | None:
    """Which values lie in the pool of graphs beside another pool; None: there is one pool."""
    if replayed == ALL:
        return _captures_all
    return _captures_around_experts if replayed == AROUND_EXPERTS else None


def _captures_all(run: Run, value: Value) -> bool:
    return run.segment.name not in _ENDS


def _captures_around_experts(run: Run, value: Value) -> bool:
    """Not what experts have of the tokens that come to them."""
    return _captures_all(run, value) and not (isinstance(value, Operand) and not set(SLOTS).isdisjoint(value.dims))


def _on_top(run: Run, sizes: Sizes, captures: _Captures) -> _OnTop:
    """Folded as Measures.lives is, apart for either pool, less what a list leaves behind."""
    held: dict[str, Value] = {operand.name: operand for operand in run.segment.known}
    live, most = ([sizes.zero] * 3 for _ in range(2))
    for task in run.tasks:
        for value in allocates(task):
            held[value.name] = value
            live = _sum_of(live, num_bytes(value, sizes), place=not captures(run, value))
        most = [np.maximum(*each) for each in zip(most, live, strict=True)]
        for freed in task.frees:
            value = freed if isinstance(freed, Bucket) else held[freed]
            live = _sum_of(live, -num_bytes(value, sizes), place=not captures(run, value))
    return _OnTop(*(top - np.maximum(left, 0) for top, left in zip(most, live, strict=True)))


def _sum_of(live: list[Ints], num: Ints, *, place: bool) -> list[Ints]:
    return [each + num if index in (int(place), 2) else each for index, each in enumerate(live)]
