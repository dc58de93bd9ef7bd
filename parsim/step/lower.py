"""`lower`: a structure becomes a Step.  It reads switches, never degrees or sizes, so one Step serves all plans of a structure."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from parsim.model.dims import COMPUTE, LOGITS
from parsim.model.ends import ENTER_HEAD
from parsim.model.families import blocks_of
from parsim.model.op import Block, Dims
from parsim.model.spec import Architecture
from parsim.parallel.dimensions import EXPERT, replica_axes, rules, view_of
from parsim.parallel.group import Group
from parsim.parallel.precision import WIDE, Narrowing
from parsim.parallel.sharding import Sharding
from parsim.schedules.phase import Phase
from parsim.step import gradient
from parsim.step.chunked import PassesInChunks, in_chunks
from parsim.step.finish import finish
from parsim.step.liveness import operands_named, saved_for, with_frees
from parsim.step.place import Placer
from parsim.step.quantise import in_narrow, linear_weights
from parsim.step.recompute import before_use, checkpoint, full
from parsim.step.ring import with_turns
from parsim.step.split import halves
from parsim.step.step import Segment, Step
from parsim.step.structure import Structure
from parsim.step.task import Compute, Operand, Task, Weight

KEPT: Final = "kept_"  # and a layer's name: one that is not recomputed, where only each n-th is
_STREAM: Dims = ("B", "T", "D")


class _Recompute(NamedTuple):
    checkpointed: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    all: bool = False
    early_stop: bool = False


@dataclass(frozen=True, slots=True)
class _Switches:
    """What a segment reads of a structure: Steps that share it share the segment."""

    architecture: Architecture
    attention: str
    fusions: tuple[str, ...]
    rules: tuple[tuple[str, tuple[str, ...]], ...]
    expert_axes: tuple[str, ...]  # all that are on, where tokens lie in two views
    beside: tuple[str, ...]  # axes whose collectives run beside compute
    ring: int
    ends_apart: bool
    narrow_gradients: bool
    loss_chunks: int
    recompute: _Recompute
    narrows: Narrowing | None = None
    narrow_lasts: bool = False


@functools.lru_cache(maxsize=256)
def lower(structure: Structure) -> Step:
    """The Step of a structure."""
    again = _Recompute(structure.checkpointed, structure.recompute_ops, structure.recomputes_all, structure.early_stop)
    plain = _Switches(
        structure.architecture,
        structure.attention,
        structure.fusions,
        tuple((dim, over) for dim, over in rules(structure.dimensions).items() if dim != LOGITS or not structure.gather_logits),
        structure.axes if view_of(structure.axes) == EXPERT else (),
        structure.axes_beside,
        structure.ring,
        structure.ends_apart,
        structure.narrow_gradients,
        structure.loss_chunks,
        _Recompute(),
    )
    first, *layers, last = blocks_of(structure.architecture, structure.attention, structure.fusions)
    narrow = replace(plain, narrows=structure.narrows, narrow_lasts=structure.lasting_narrow is not None)
    middle = [*((name, narrow) for name in layers), *((name, plain) for name in structure.wide_layers)]
    found = [
        _segment(first, plain),
        *(_segment(name, replace(switches, recompute=again)) for name, switches in middle),
        *(_segment(KEPT + name, switches) for name, switches in middle if structure.recompute_every > 1),
        _segment(last, plain),
    ]
    segments = {segment.name: segment for segment in found}
    return Step(structure, segments, tuple(finish(structure, tuple(segments.values()))))


@functools.lru_cache(maxsize=1024)
def _segment(name: str, switches: _Switches) -> Segment:
    blocks, table = blocks_of(switches.architecture, switches.attention, switches.fusions), dict(switches.rules)
    block = replace(blocks[name.removeprefix(KEPT).removeprefix(WIDE)], name=name)
    placer = Placer(table, switches.expert_axes)
    x = Operand("x", Sharding.of(_STREAM, table), COMPUTE) if block.input else None
    if x:
        placer.known["x"] = x
    passes = _passes(block, switches)
    forward_calls, backward_calls = passes.forward, passes.backward
    linear = linear_weights(forward_calls, block.weights) if switches.narrows else {}
    if switches.narrows:
        lasting, fused = switches.narrow_lasts, "norm_gemm" in switches.fusions
        placer.know(linear)
        forward_calls, backward_calls = in_narrow(forward_calls, backward_calls, linear, switches.narrows, lasting=lasting, fused=fused)
    forward = with_turns(placer.place(forward_calls), switches.ring)
    y = placer.known[block.output] if block.output else None
    d_y = Operand("d_y", y.sharding, COMPUTE) if y else None
    if d_y:
        placer.known["d_y"] = d_y
    placer.beside = switches.beside
    backward = with_turns(placer.place(backward_calls), switches.ring)
    rows = {name: weight.rows for name, weight in linear.items()} if switches.narrow_lasts else {}
    placed = ((name, initial, placer, switches, rows.get(name, 0)) for name, initial in block.weights.items())
    weights = tuple(_weight(block, *each) for each in placed)
    totals = tuple(placer.known[total] for total in block.totals)
    d_x = replace(x, name=placer.known[passes.gradient_of_x].name) if x and passes.gradient_of_x else None
    backward = _recompute(switches.recompute, forward, backward, switches.beside)
    parts = {gradient.part_of(weight.name) for weight in weights} if switches.narrow_gradients else set()
    backward = [replace(task, overwrite=True) if isinstance(task, Compute) and task.outputs[0].name in parts else task for task in backward]
    bare = Segment(
        name=block.name,
        phases={Phase.F: tuple(forward), Phase.B: tuple(backward)},
        kept={},
        entering={Phase.F: x, Phase.B: d_y, Phase.I: d_y, Phase.W: None},
        leaving={Phase.F: y, Phase.B: d_x, Phase.I: d_x, Phase.W: None},
        weights=weights,
        totals=totals,
    )
    return _with_lives(bare, parts)


def _passes(block: Block, switches: _Switches) -> PassesInChunks:
    if switches.loss_chunks > 1 and block.has_op(ENTER_HEAD):
        return in_chunks(block, switches.fusions, switches.loss_chunks)
    return PassesInChunks(gradient.forward(block), *gradient.backward(block, switches.fusions))


def _recompute(again: _Recompute, forward: list[Task], backward: list[Task], beside: tuple[str, ...]) -> list[Task]:
    for region in again.checkpointed:
        backward = checkpoint(forward, backward, region)
    backward = before_use(forward, backward, again.ops, beside)
    return full(forward, backward, again.early_stop) if again.all else backward


def _weight(block: Block, name: str, initial: str, placer: Placer, switches: _Switches, narrow_rows: int) -> Weight:
    """One whose block shares another's is that one's own copy where they lie on different ranks."""
    partial = placer.known[f"d_{name}"].sharding
    group = Group(tuple(axis for axis in replica_axes() if axis in partial.partial))
    origin = block.shared.get(name, "")
    owner, copy_of = (block.name, origin) if switches.ends_apart or not origin else (origin, "")
    square = switches.narrows.square if switches.narrows and narrow_rows else 0
    return Weight(name, placer.known[name].sharding, partial, group, initial, owner, copy_of, square, narrow_rows)


def _with_lives(bare: Segment, parts: set[str]) -> Segment:
    """The segment with the halves of its backward, frees on all tasks, and what it keeps between phases; `parts` last, too."""
    forward, backward = bare.phases[Phase.F], bare.phases[Phase.B]
    gradient_of_x = _names(bare.leaving[Phase.B])
    inputs, weights, apart = halves(backward, next(iter(gradient_of_x), ""))
    lasting = {name for w in bare.weights for name in w.lasting} | {t.name for t in bare.totals} | parts
    entering = _names(bare.entering[Phase.B])
    saved = saved_for(backward, lasting | entering)
    waiting = saved_for(weights, lasting)
    seen: Sequence[Task] = (*forward, *inputs, *backward)
    phases = {
        Phase.F: with_frees(forward, lasting | saved | _names(bare.leaving[Phase.F]), _names(bare.entering[Phase.F])),
        Phase.B: with_frees(backward, lasting | gradient_of_x, saved | entering),
        Phase.I: with_frees(inputs, lasting | waiting | ({apart} if gradient_of_x else set()), saved | entering),
        Phase.W: with_frees(weights, lasting, waiting),
    }
    kept = {Phase.F: operands_named(forward, saved), Phase.I: operands_named(seen, waiting)}
    d_x = bare.leaving[Phase.I]
    leaving = {**bare.leaving, Phase.I: replace(d_x, name=apart) if d_x else None}
    return replace(bare, phases=phases, kept=kept, leaving=leaving)


def _names(operand: Operand | None) -> set[str]:
    return {operand.name} if operand else set()
