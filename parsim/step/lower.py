"""`lower`: a structure becomes a Step.  It reads switches, never degrees or sizes, so one Step serves all plans of a structure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from parsim.model.adapters import is_adapter
from parsim.model.dims import COMPUTE, LOGITS, SOURCE, TOKENS
from parsim.model.ends import ENTER_HEAD
from parsim.model.families import blocks_of
from parsim.model.op import COUNT, D_MEMORY, MEMORY, Block, Dims
from parsim.model.spec import JOINT, Architecture
from parsim.model.tuning import untuned_name
from parsim.parallel.dimensions import EXPERT, OUTSIDE, axes_of, replica_axes, rules, view_of
from parsim.parallel.group import Group
from parsim.parallel.precision import WIDE, Narrowing
from parsim.parallel.sharding import Sharding
from parsim.schedules.phase import Phase
from parsim.step import gradient
from parsim.step.chunked import PassesInChunks, in_chunks
from parsim.step.finish import finish
from parsim.step.gradient import KernelCall
from parsim.step.liveness import operands_named, saved_for, with_frees
from parsim.step.packed import with_wide
from parsim.step.place import Placer
from parsim.step.quantise import LinearWeight, in_narrow, linear_weights
from parsim.step.recompute import before_use, checkpoint, full
from parsim.step.ring import with_turns
from parsim.step.split import halves
from parsim.step.step import Segment, Step
from parsim.step.structure import Structure
from parsim.step.task import Compute, Hold, Operand, Task, Weight

KEPT: Final = "kept_"  # and a layer's name: one that is not recomputed, where only each n-th is
_SOURCE: Dims = ("B", SOURCE["T"], "D")  # of what an encoder made


class _Recompute(NamedTuple):
    checkpointed: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    all: bool = False
    early_stop: bool = False


class _Kernels(NamedTuple):
    """What the calls of a block depend on, wherever they are placed."""

    architecture: Architecture
    attention: str
    fusions: tuple[str, ...]
    loss_chunks: int
    narrows: Narrowing | None = None
    lasting_layouts: tuple[str, ...] = ()


class _Switches(NamedTuple):
    """What a segment reads of a structure: Steps that share it share the segment."""

    kernels: _Kernels
    rules: tuple[tuple[str, tuple[str, ...]], ...]
    expert_axes: tuple[str, ...]  # all that are on, where tokens lie in two views
    beside: tuple[str, ...]  # axes whose collectives run beside compute
    ring: int
    ends_apart: bool
    narrow_gradients: bool
    recompute: _Recompute = _Recompute()


class _Calls(NamedTuple):
    """A block as calls, which all its placements share."""

    block: Block
    forward: Sequence[KernelCall]
    backward: Sequence[KernelCall]
    gradient_of_x: str
    linear: Mapping[str, LinearWeight]  # what is multiplied in a narrow format
    dims: frozenset[str]  # of all its tensors


@functools.lru_cache(maxsize=256)
def lower(structure: Structure) -> Step:
    """The Step of a structure."""
    again = _Recompute(structure.checkpointed, structure.recompute_ops, structure.recomputes_all, structure.early_stop)
    wide = _Kernels(structure.architecture, structure.attention, structure.fusions, structure.loss_chunks)
    narrow = wide._replace(narrows=structure.narrows, lasting_layouts=structure.lasting_layouts)
    switches = _Switches(
        wide,
        tuple((dim, over) for dim, over in rules(structure.dimensions).items() if dim != LOGITS or not structure.gather_logits),
        structure.axes if view_of(structure.axes) == EXPERT else (),
        structure.axes_beside,
        structure.ring,
        structure.ends_apart,
        structure.narrow_gradients,
    )
    first, *between, last = blocks_of(structure.architecture, structure.attention, structure.fusions)
    layers, joints = ([name for name in between if (name == JOINT) == is_joint] for is_joint in (False, True))
    middle = [*((name, narrow) for name in layers), *((name, wide) for name in structure.wide_layers)]
    found = [
        _segment_of(first, switches),
        *(_segment_of(name, switches._replace(kernels=kernels, recompute=again)) for name, kernels in middle),
        *(_segment_of(KEPT + name, switches._replace(kernels=kernels)) for name, kernels in middle if structure.recompute_every > 1),
        *(_segment_of(name, switches) for name in (*joints, last)),
    ]
    segments = {segment.name: segment for segment in found}
    return Step(structure, segments, tuple(finish(structure, tuple(segments.values()))))


def _segment_of(name: str, switches: _Switches) -> Segment:
    """The segment of these switches, of which a block reads those of the dims that it has."""
    calls = _calls(name, switches.kernels)
    own = {axis for dim, over in switches.rules if dim in calls.dims for axis in over}
    in_views = (axis for axis in switches.expert_axes if axis in own or axis not in axes_of(OUTSIDE))
    read = switches._replace(
        rules=tuple(each for each in switches.rules if each[0] in calls.dims),
        expert_axes=tuple(in_views) if TOKENS in calls.dims else (),
        ends_apart=switches.ends_apart or not calls.block.shared,
    )
    return _segment(name, read)


@functools.lru_cache(maxsize=1024)
def _segment(name: str, switches: _Switches) -> Segment:
    """The segment with what runs again, and the lives of its buffers."""
    bare = _placement(name, switches._replace(recompute=_Recompute()))
    parts = {gradient.part_of(weight.name) for weight in bare.weights} if switches.narrow_gradients else set()
    recompute = switches.recompute._replace(ops=(*switches.recompute.ops, *_calls(name, switches.kernels).block.again))
    backward = _recompute(recompute, [*bare.phases[Phase.F]], [*bare.phases[Phase.B]], switches.beside)
    backward = [replace(task, overwrite=True) if isinstance(task, Compute) and task.outputs[0].name in parts else task for task in backward]
    return _with_lives(replace(bare, phases={**bare.phases, Phase.B: tuple(backward)}), parts)


@functools.lru_cache(maxsize=1024)
def _placement(name: str, switches: _Switches) -> Segment:
    """The segment as nothing runs again in it, and nothing dies."""
    block, forward_calls, backward_calls, gradient_of_x, linear, _ = _calls(name, switches.kernels)
    table = dict(switches.rules)
    placer = Placer(table, switches.expert_axes)
    x = Operand(block.input, Sharding.of(block.stream, table), COMPUTE) if block.input else None
    if x:
        placer.known[x.name] = x
    beside = tuple(Operand(name, Sharding.of(_SOURCE, table), COMPUTE) for name in (MEMORY, D_MEMORY) if block.memory)
    placer.known |= {each.name: each for each in beside[block.memory == "makes" :]}
    placer.know(linear)
    placer.packed = frozenset(block.packed)
    forward = with_turns(placer.place(forward_calls), switches.ring)
    y = placer.known[block.output] if block.output else None
    d_y = Operand("d_y", y.sharding, COMPUTE) if y and backward_calls else None
    if d_y:
        placer.known["d_y"] = d_y
    placer.beside = switches.beside
    backward = with_turns(placer.place(backward_calls), switches.ring)
    rows = {name: weight.rows for name, weight in linear.items()} if switches.kernels.lasting_layouts else {}
    gradients = {each.name: each.gradient for each in _all_trained(name, switches).weights} if block.frozen else {}
    placed = ((each, initial, placer, switches, rows.get(each, 0), gradients.get(each)) for each, initial in block.weights.items())
    d_x = replace(x, name=placer.known[gradient_of_x].name) if x and gradient_of_x else None
    return Segment(
        name=block.name,
        phases={Phase.F: tuple(forward), Phase.B: tuple(backward)},
        kept={},
        entering={Phase.F: x, Phase.B: d_y, Phase.I: d_y, Phase.W: None},
        leaving={Phase.F: y, Phase.B: d_x, Phase.I: d_x, Phase.W: None},
        weights=tuple(_weight(block, *each) for each in placed),
        totals=tuple(placer.known[total] for total in block.totals),
        beside=beside,
        memory=block.memory,
        steers=tuple(_steer(block, name, placer.known[COUNT + name].sharding) for name in block.steers),
    )


def _all_trained(name: str, switches: _Switches) -> Segment:
    """The placement of a block as it is where all of it is trained: there frozen weights are replicated as here."""
    kernels = switches.kernels._replace(architecture=replace(switches.kernels.architecture, tuned=None))
    return _placement(untuned_name(name), switches._replace(kernels=kernels))


@functools.lru_cache(maxsize=256)
def _calls(name: str, kernels: _Kernels) -> _Calls:
    block = blocks_of(kernels.architecture, kernels.attention, kernels.fusions)[name.removeprefix(KEPT).removeprefix(WIDE)]
    forward, backward, gradient_of_x = _passes(block, kernels)
    if block.packed:
        forward, backward = [*with_wide(forward, block.packed, "@wide")], [*with_wide(backward, block.packed, "@wide_again")]
    linear = linear_weights(forward, [name for name in block.weights if not is_adapter(name)]) if kernels.narrows else {}
    if kernels.narrows:
        fused = "norm_gemm" in kernels.fusions
        forward, backward = in_narrow(forward, backward, linear, kernels.narrows, lasting=kernels.lasting_layouts, fused=fused)
    dims = {dim for call in (*forward, *backward) for _, own, *_ in (*call.inputs, *call.outputs) for dim in own}
    dims |= {*block.stream, *(_SOURCE if block.memory else ())}
    return _Calls(replace(block, name=name), forward, backward, gradient_of_x, linear, frozenset(dims))


def _passes(block: Block, kernels: _Kernels) -> PassesInChunks:
    if kernels.loss_chunks > 1 and block.has_op(ENTER_HEAD):
        return in_chunks(block, kernels.fusions, kernels.loss_chunks)
    return PassesInChunks(gradient.forward(block), *gradient.backward(block, kernels.fusions))


def _recompute(again: _Recompute, forward: list[Task], backward: list[Task], beside: tuple[str, ...]) -> list[Task]:
    forward = [task for task in forward if not (isinstance(task, Compute) and task.accumulate)]  # what is summed is summed once
    for region in again.checkpointed:
        backward = checkpoint(forward, backward, region)
    backward = before_use(forward, backward, again.ops, beside)
    return full(forward, backward, again.early_stop) if again.all else backward


def _steer(block: Block, name: str, counts: Sharding) -> Weight:
    return Weight(name, replace(counts, partial={}), counts, Group(()), "zeros", block.name)


def _weight(
    block: Block, name: str, initial: str, placer: Placer, switches: _Switches, narrow_rows: int, untuned: Sharding | None
) -> Weight:
    """One whose block shares another's is that one's own copy where they lie on different ranks.

    `untuned`: where its gradient would lie, if it were trained, of a block of which some are not.
    """
    trained = name not in block.frozen
    partial = placer.known[f"d_{name}"].sharding if trained or untuned is None else untuned
    group = Group(tuple(axis for axis in replica_axes() if axis in partial.partial))
    origin = block.shared.get(name, "")
    owner, copy_of = (block.name, origin) if switches.ends_apart or not origin else (origin, "")
    narrows = switches.kernels.narrows
    square = narrows.square if narrows and narrow_rows else 0
    return Weight(
        name, placer.known[name].sharding, partial, group, initial, owner, copy_of, square, narrow_rows, trained, name in block.packed
    )


def _with_lives(bare: Segment, parts: set[str]) -> Segment:
    """The segment with the halves of its backward, frees on all tasks, and what it keeps between phases; `parts` last, too.

    The memory lives from the forward of its block to that block's backward, its gradient from before the first that adds to it.
    """
    forward, backward = bare.phases[Phase.F], bare.phases[Phase.B]
    gradient_of_x, makes = _names(bare.leaving[Phase.B]), bare.memory == "makes"
    passing = {each.name for each in bare.beside}
    inputs, weights, apart = halves(backward, next(iter(gradient_of_x), ""), also={D_MEMORY} & passing)
    lasting = {name for w in bare.weights for name in w.lasting} | {t.name for t in bare.totals} | parts
    entering = _names(bare.entering[Phase.B])
    lasting |= passing - ({D_MEMORY} if makes else set())
    entering |= {D_MEMORY} if makes else set()
    saved = saved_for(backward, lasting | entering)
    waiting = saved_for(weights, lasting)
    seen: Sequence[Task] = (*forward, *inputs, *backward)
    phases = {
        Phase.F: with_frees(forward, lasting | saved | _names(bare.leaving[Phase.F]), _names(bare.entering[Phase.F])),
        Phase.B: with_frees(backward, lasting | gradient_of_x, saved | entering),
        Phase.I: with_frees(inputs, lasting | waiting | ({apart} if gradient_of_x else set()), saved | entering),
        Phase.W: with_frees(weights, lasting, waiting),
    }
    if bare.memory == "follows":
        begins = Hold("memory_gradient", bare.beside[1:])
        phases |= {phase: (*phases[phase], begins) for phase in (Phase.B, Phase.I)}
    if makes:
        ends = Hold("release_memory", frees=(MEMORY,))
        phases |= {phase: (ends, *phases[phase]) for phase in (Phase.B, Phase.I)}
    kept = {Phase.F: (*operands_named(forward, saved), *bare.beside[:makes]), Phase.I: operands_named(seen, waiting)}
    d_x = bare.leaving[Phase.I]
    leaving = {**bare.leaving, Phase.I: replace(d_x, name=apart) if d_x else None}
    return replace(bare, phases=phases, kept=kept, leaving=leaving)


def _names(operand: Operand | None) -> set[str]:
    return {operand.name} if operand else set()
