"""`lower`: a structure becomes a Step.  It reads switches, never degrees or sizes, so one Step serves all plans of a structure."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from parsim.model.blocks import CORE_ATTENTION
from parsim.model.dims import COMPUTE
from parsim.model.families import blocks_of
from parsim.model.op import Block, Dims
from parsim.parallel.dimensions import axes, rules
from parsim.parallel.sharding import Rules, Sharding
from parsim.step import gradient
from parsim.step.holdings import PARTIAL
from parsim.step.liveness import operands_named, saved_for, with_frees
from parsim.step.optimizer import OPTIMIZERS
from parsim.step.place import Placer
from parsim.step.recompute import chosen, full, regather, selective
from parsim.step.structure import HOST, Structure
from parsim.step.task import Finish, Operand, Segment, Step, Task, Weight

KEPT_LAYER: Final = "kept_layer"
_STREAM: Dims = ("B", "T", "D")


@functools.lru_cache(maxsize=256)
def lower(structure: Structure) -> Step:
    """The Step of a structure."""
    table = rules(structure.dimensions)
    blocks = blocks_of(structure.architecture, structure.attention, structure.fusions)
    first, middle, last = (_segment(block, structure, table) for block in blocks.values())
    weights = [weight for segment in (first, middle, last) for weight in segment.weights]
    kept = None
    if structure.recompute_every > 1:
        kept = _segment(replace(blocks[middle.name], name=KEPT_LAYER), structure, table)
    return Step(structure, first, middle, last, tuple(_finish(structure, weights)), kept)


def _segment(block: Block, structure: Structure, table: Rules) -> Segment:
    placer = Placer(table)
    x = Operand("x", Sharding.of(_STREAM, table), COMPUTE) if block.input else None
    if x:
        placer.known["x"] = x
    forward = placer.place(gradient.forward(block))
    y = placer.known[block.output] if block.output else None
    if y:
        placer.known["d_y"] = Operand("d_y", y.sharding, COMPUTE)
    calls, d_x = gradient.backward(block, structure.fusions)
    placer.overlap = structure.tensor_overlap
    backward = placer.place(calls)
    weights = tuple(_weight(block, name, initial, placer) for name, initial in block.weights.items())
    totals = tuple(placer.known[name] for name in block.totals)
    d_x = placer.known[d_x].name if d_x else ""
    backward = _recomputed(block.name, structure, forward, backward)
    return _with_lives(Segment(block.name, tuple(forward), tuple(backward), weights, (), totals, x, y, d_x))


def _recomputed(name: str, structure: Structure, forward: list[Task], backward: list[Task]) -> list[Task]:
    backward = regather(forward, backward, structure.tensor_overlap)
    if name == "layer" and structure.recompute == "selective":
        backward = selective(forward, backward, CORE_ATTENTION)
    if name == "layer" and structure.recompute_ops:
        backward = chosen(forward, backward, structure.recompute_ops)
    if name == "layer" and structure.recompute == "full":
        backward = full(forward, backward, structure.early_stop)
    return backward


def _weight(block: Block, name: str, initial: str, placer: Placer) -> Weight:
    gradient_sharding = placer.known[f"d_{name}"].sharding
    return Weight(name, placer.known[name].sharding, gradient_sharding, initial, block.shared.get(name, block.name))


def _with_lives(segment: Segment) -> Segment:
    """The segment with frees on its tasks and the list of what it saves."""
    lasting = {w.name for w in segment.weights} | {f"d_{w.name}" for w in segment.weights} | {t.name for t in segment.totals}
    entering_backward = {"d_y"} if segment.y else set()
    saved = saved_for(segment.backward, lasting | entering_backward)
    leaving = {segment.y.name} if segment.y else set()
    forward = with_frees(segment.forward, lasting | saved | leaving, {"x"} if segment.x else set())
    backward = with_frees(segment.backward, lasting | {segment.d_x}, saved | entering_backward)
    return Segment(
        segment.name,
        forward,
        backward,
        segment.weights,
        operands_named(segment.forward, saved),
        segment.totals,
        segment.x,
        segment.y,
        segment.d_x,
    )


def _finish(structure: Structure, weights: Sequence[Weight]) -> list[Finish]:
    """The end of a step: reduce gradients, clip them by their norm over all ranks, update, and share the result."""
    master, zero = structure.gradient_sync == "master", structure.zero_stage
    held = "shard" if zero >= 2 else "whole"  # of the gradients, where they are reduced
    updated = "shard" if zero else "whole"
    inside, outside = _partial_axes(structure, weights)
    work = [Finish(f"{axis}_gradients", f"{PARTIAL}{axis}", held, operation="all_reduce", axis=axis) for axis in inside]
    if "dp" in structure.axes and not structure.gradient_overlap and not structure.per_pass:
        operation = "reduce" if master else "reduce_scatter" if zero else "all_reduce"
        work.append(Finish("data_parallel_gradients", "all", "padded" if zero else "whole", operation=operation, axis="dp"))
    work += [Finish(f"{axis}_gradients", f"{PARTIAL}{axis}", updated, operation="all_reduce", axis=axis) for axis in outside]
    if structure.tied and "pp" in structure.axes:
        work.append(Finish("tied_embedding_gradients", "tied", held, operation="all_reduce", axis="pp"))
    work.append(Finish("gradient_norm", "all", updated, kernel="norm_sq", master_only=master))
    work += [
        Finish(f"gradient_norm_{axis}", "norm", operation="all_reduce", axis=axis, master_only=master)
        for axis in norm_axes(structure, weights)
    ]
    work.append(Finish("clip", "all", updated, kernel="clip", master_only=master))
    update = Finish("update", "all", updated, kernel=OPTIMIZERS[structure.optimizer].kernel, master_only=master)
    if structure.offload:
        work.append(Finish("gradients_to_host", "all", updated, operation="to_host", axis=HOST, master_only=master))
        work.append(replace(update, on_host=True))
        work.append(Finish("weights_from_host", "parameters", updated, operation="from_host", axis=HOST, master_only=master))
    else:
        work.append(update)
    if structure.master_weights and not structure.offload:
        work.append(Finish("cast_weights", "parameters", updated, kernel="cast", master_only=master))
    if master:
        work.append(Finish("share_weights", "parameters", operation="broadcast", axis="dp"))
    if zero in (1, 2):
        work.append(Finish("gather_weights", "parameters", "padded", operation="all_gather", axis="dp"))
    return work


def _partial_axes(structure: Structure, weights: Sequence[Weight]) -> tuple[list[str], list[str]]:
    """Axes other than dp over which gradients are partial sums: those nested inside dp, and those around it, where ZeRO has left shards."""
    partial = {axis for weight in weights for axis in weight.gradient.partial}
    order = axes()
    found = [axis for axis in structure.axes if axis in partial and axis != "dp"]
    outside = [axis for axis in found if order.index(axis) < order.index("dp")]
    return [axis for axis in found if axis not in outside], outside


def norm_axes(structure: Structure, weights: Sequence[Weight]) -> tuple[str, ...]:
    """Axes whose ranks hold different parts of the gradients when the step ends, so that their norm is a sum over them."""
    over = {axis for weight in weights for each in weight.sharding.axes for axis in each}
    found = [axis for axis in structure.axes if axis in over or axis == "pp" or (axis == "dp" and structure.zero_stage)]
    return tuple(sorted(found, key=("dp", *(axis for axis in found if axis not in ("dp", "pp")), "pp").index))
