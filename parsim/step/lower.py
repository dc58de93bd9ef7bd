"""`lower`: a structure becomes a Step.  It reads switches, never degrees or sizes, so one Step serves all plans of a structure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from parsim.model.adapters import is_adapter
from parsim.model.dims import COMPUTE, LOGITS, MASTER, TOKENS
from parsim.model.documents import with_lengths
from parsim.model.ends import ENTER_HEAD
from parsim.model.families import Blocks, blocks_of
from parsim.model.op import COUNT, Block, Passing
from parsim.model.spec import JOINT, JOINTS, Architecture
from parsim.model.tuning import untuned_name
from parsim.parallel.dimensions import EXPERT, OUTSIDE, axes_of, replica_axes, rules, view_of
from parsim.parallel.group import Group
from parsim.parallel.precision import WIDE, Narrowing
from parsim.parallel.sharding import Rules, Sharding
from parsim.schedules.phase import Phase
from parsim.step import gradient
from parsim.step.attend import attended_narrow
from parsim.step.chunked import PassesInChunks, in_chunks
from parsim.step.finish import finish
from parsim.step.gradient import KernelCall
from parsim.step.liveness import operands_named, saved_for, with_frees
from parsim.step.loads import with_loads
from parsim.step.packed import with_wide
from parsim.step.place import Placer
from parsim.step.quantise import LinearWeight, in_narrow, linear_weights
from parsim.step.recompute import before_use, checkpoint, full
from parsim.step.ring import with_turns
from parsim.step.split import halves
from parsim.step.step import PassingOperands, Segment, Step
from parsim.step.structure import Structure
from parsim.step.task import Compute, Hold, Operand, Task, Weight

KEPT: Final = "kept_"  # and a layer's name: one that is not recomputed, where only each n-th is


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
    ignores_labels: bool
    by_document: bool
    narrows: Narrowing | None = None
    lasting_layouts: tuple[str, ...] = ()
    attends_narrow: bool = False


class _Switches(NamedTuple):
    """What a segment reads of a structure: Steps that share it share the segment."""

    kernels: _Kernels
    rules: tuple[tuple[str, tuple[str, ...]], ...]
    expert_axes: tuple[str, ...]  # all that are on, where tokens lie in two views
    beside: tuple[str, ...]  # axes whose collectives run beside compute
    ring: int
    table_owner: str  # the block whose buffer a shared table is on the rank
    narrow_gradients: bool
    master_shards: bool
    keeps_gathered: bool
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
    of_lengths = structure.ignores_labels, structure.by_document
    wide = _Kernels(structure.architecture, structure.attention, structure.fusions, structure.loss_chunks, *of_lengths)
    narrow = wide._replace(narrows=structure.narrows, lasting_layouts=structure.lasting_layouts, attends_narrow=structure.attends_narrow)
    switches = _Switches(
        wide,
        tuple((dim, over) for dim, over in rules(structure.dimensions).items() if dim != LOGITS or not structure.gather_logits),
        structure.axes if view_of(structure.axes) == EXPERT else (),
        structure.axes_beside,
        structure.ring,
        "",
        structure.narrow_gradients,
        structure.master_shards,
        structure.keeps_gathered,
    )
    blocks = _blocks(structure.architecture, structure.attention, structure.fusions)
    first, *between, last = blocks
    layers, joints = ([name for name in between if (name in JOINTS) == is_joint] for is_joint in (False, True))
    owners = {**dict.fromkeys(joints, ""), JOINT: first if structure.joint == "first" else JOINT}
    is_apart = structure.ends_apart or JOINT in blocks[last].shared.values()
    owners[last] = JOINT if structure.joint == "last" else last if is_apart else first
    middle = [*((name, narrow) for name in layers), *((name, wide) for name in structure.wide_layers)]
    found = [
        _segment_of(first, switches),
        *(_segment_of(name, switches._replace(kernels=kernels, recompute=again)) for name, kernels in middle),
        *(_segment_of(KEPT + name, switches._replace(kernels=kernels)) for name, kernels in middle if structure.recompute_every > 1),
        *(_segment_of(name, switches._replace(table_owner=owners[name])) for name in (*joints, last)),
    ]
    segments = {segment.name: segment for segment in found}
    every = tuple(segments.values())
    quiet = Step(structure, segments, tuple(finish(structure, every, syncs=False))) if structure.apart else None
    return Step(structure, segments, tuple(finish(structure, every)), quiet)


def _segment_of(name: str, switches: _Switches) -> Segment:
    """The segment of these switches, of which a block reads those of the dims that it has."""
    block = _block(name, switches.kernels)
    like = f"{name.removesuffix(block.name)}{block.like or block.name}"
    calls = _calls(like, switches.kernels)
    own = {axis for dim, over in switches.rules if dim in calls.dims for axis in over}
    in_views = (axis for axis in switches.expert_axes if axis in own or axis not in axes_of(OUTSIDE))
    read = switches._replace(
        rules=tuple(each for each in switches.rules if each[0] in calls.dims),
        expert_axes=tuple(in_views) if TOKENS in calls.dims else (),
        table_owner=switches.table_owner if calls.block.shared else "",
        master_shards=False,
    )
    return (_as_stored if switches.master_shards else _of_loads)(like, read, name, block.loads)


@functools.lru_cache(maxsize=1024)
def _as_stored(like: str, switches: _Switches, name: str, loads: int) -> Segment:
    """The segment, whose kernels read weights that no other rank holds as they are stored: nobody gathers and casts them."""
    found = _of_loads(like, switches, name, loads)
    alone = {weight.name for weight in found.weights if not weight.group.axes}

    def with_stored(task: Task) -> Task:
        if not isinstance(task, Compute):
            return task
        inputs = (replace(each, dtype=MASTER) if getattr(each, "name", "") in alone else each for each in task.inputs)
        return replace(task, inputs=tuple(inputs))

    return replace(found, phases={phase: tuple(map(with_stored, tasks)) for phase, tasks in found.phases.items()}) if alone else found


@functools.lru_cache(maxsize=4096)
def _of_loads(like: str, switches: _Switches, name: str, loads: int) -> Segment:
    found = _segment(like, switches)
    return with_loads(found, name, loads) if like != name or loads else found


@functools.lru_cache(maxsize=1024)
def _segment(name: str, switches: _Switches) -> Segment:
    """The segment with what runs again, and the lives of its buffers."""
    bare = _placement(name, switches._replace(recompute=_Recompute()))
    parts = {gradient.part_of(weight.name) for weight in bare.weights} if switches.narrow_gradients else set()
    recompute = switches.recompute._replace(ops=(*switches.recompute.ops, *_calls(name, switches.kernels).block.again))
    backward = _recompute(recompute, [*bare.phases[Phase.F]], [*bare.phases[Phase.B]], switches)
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
    beside = tuple(_beside(each, table) for each in block.passing)
    placer.known |= {each.value.name: each.value for each in beside if each.use != "makes"}
    placer.known |= {each.gradient.name: each.gradient for each in beside if each.gradient}
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
    d_x = replace(x, name=placer.known[gradient_of_x].name) if x and gradient_of_x else None
    return Segment(
        name=block.name,
        phases={Phase.F: tuple(forward), Phase.B: tuple(backward)},
        kept={},
        entering={Phase.F: x, Phase.B: d_y, Phase.I: d_y, Phase.W: None},
        leaving={Phase.F: y, Phase.B: d_x, Phase.I: d_x, Phase.W: None},
        weights=tuple(
            _weight(block, each, placer, switches, narrow_rows=rows.get(each, 0), untuned=gradients.get(each)) for each in block.weights
        ),
        totals=tuple(placer.known[total] for total in block.totals),
        beside=beside,
        steers=tuple(_steer(block, name, placer.known[COUNT + name].sharding) for name in block.steers),
    )


def _beside(passing: Passing, table: Rules) -> PassingOperands:
    """What passes by, as it lies; the gradient of what has no sequences of its own is a partial sum over ranks that have others."""
    split = () if "B" in passing.dims else Sharding.of(("B",), table).axes[0]
    gradient = Operand(f"d_{passing.name}", Sharding.of(passing.dims, table, dict.fromkeys(split, "sum")), COMPUTE)
    value = Operand(passing.name, Sharding.of(passing.dims, table), COMPUTE)
    return PassingOperands(passing.use, value, gradient if passing.asks else None)


def _all_trained(name: str, switches: _Switches) -> Segment:
    """The placement of a block as it is where all of it is trained: there frozen weights are replicated as here."""
    kernels = switches.kernels._replace(architecture=replace(switches.kernels.architecture, tuned=None))
    return _placement(untuned_name(name), switches._replace(kernels=kernels))


@functools.lru_cache(maxsize=256)
def _calls(name: str, kernels: _Kernels) -> _Calls:
    block = _block(name, kernels)
    if kernels.ignores_labels:
        block = with_lengths(block, by_document=kernels.by_document)
    forward, backward, gradient_of_x = _passes(block, kernels)
    if block.packed:
        forward, backward = [*with_wide(forward, block.packed, "@wide")], [*with_wide(backward, block.packed, "@wide_again")]
    linear = linear_weights(forward, [name for name in block.weights if not is_adapter(name)]) if kernels.narrows else {}
    if kernels.narrows:
        fused = "norm_gemm" in kernels.fusions
        forward, backward = in_narrow(forward, backward, linear, kernels.narrows, lasting=kernels.lasting_layouts, fused=fused)
    if kernels.attends_narrow:
        forward, backward = attended_narrow(forward, backward)
    dims = {dim for call in (*forward, *backward) for _, own, *_ in (*call.inputs, *call.outputs) for dim in own}
    dims |= {*block.stream, *(dim for each in block.passing for dim in each.dims)}
    return _Calls(replace(block, name=name), forward, backward, gradient_of_x, linear, frozenset(dims))


def _block(name: str, kernels: _Kernels) -> Block:
    return _blocks(kernels.architecture, kernels.attention, kernels.fusions)[name.removeprefix(KEPT).removeprefix(WIDE)]


@functools.lru_cache(maxsize=64)
def _blocks(architecture: Architecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
    return blocks_of(architecture, attention, fusions)


def _passes(block: Block, kernels: _Kernels) -> PassesInChunks:
    if kernels.loss_chunks > 1 and block.has_op(ENTER_HEAD):
        return in_chunks(block, kernels.fusions, kernels.loss_chunks)
    return PassesInChunks(gradient.forward(block), *gradient.backward(block, kernels.fusions))


def _recompute(again: _Recompute, forward: list[Task], backward: list[Task], switches: _Switches) -> list[Task]:
    forward = [task for task in forward if not (isinstance(task, Compute) and task.accumulate)]  # what is summed is summed once
    for region in again.checkpointed:
        backward = checkpoint(forward, backward, region, keeps=switches.keeps_gathered)
    backward = before_use(forward, backward, again.ops, switches.beside, keeps=switches.keeps_gathered)
    return full(forward, backward, again.early_stop) if again.all else backward


def _steer(block: Block, name: str, counts: Sharding) -> Weight:
    lies = replace(counts, partial={})
    return Weight(name=name, sharding=lies, gradient=counts, group=Group(()), initial="zeros", owner=block.name)


def _weight(block: Block, name: str, placer: Placer, switches: _Switches, *, narrow_rows: int, untuned: Sharding | None) -> Weight:
    """One whose block shares another's is that one's own copy where they lie on different ranks.

    `untuned`: where its gradient would lie, if it were trained, of a block of which some are not.
    """
    trained = name not in block.frozen
    partial = placer.known[f"d_{name}"].sharding if trained or untuned is None else untuned
    group = Group(tuple(axis for axis in replica_axes() if axis in partial.partial))
    origin = block.shared.get(name, "")
    owner = switches.table_owner if origin else block.name
    copy_of = origin if owner == block.name else ""
    narrows = switches.kernels.narrows
    square = narrows.square if narrows and narrow_rows else 0
    return Weight(
        name=name,
        sharding=placer.known[name].sharding,
        gradient=partial,
        group=group,
        initial=block.weights[name],
        owner=owner,
        copy_of=copy_of,
        narrow_block=square,
        narrow_rows=narrow_rows,
        trained=trained,
        packed=name in block.packed,
    )


def _with_lives(bare: Segment, parts: set[str]) -> Segment:
    """The segment with the halves of its backward, frees on all tasks, and what it keeps between phases; `parts` last, too.

    What passes by lives from the forward of its block to that block's backward, its gradient from before the first that adds to it.
    """
    forward, backward = bare.phases[Phase.F], bare.phases[Phase.B]
    gradient_of_x, made = _names(bare.leaving[Phase.B]), [each for each in bare.beside if each.use == "makes"]
    passing, sums = {each.name for each in bare.passing}, {each.gradient.name for each in bare.beside if each.gradient}
    inputs, weights, apart = halves(backward, next(iter(gradient_of_x), ""), also=sums)
    lasting = {name for w in bare.weights for name in w.lasting} | {t.name for t in bare.totals} | parts
    entering = _names(bare.entering[Phase.B])
    ending = {each.gradient.name for each in made if each.gradient}
    lasting |= passing - ending
    entering |= ending
    saved = saved_for(backward, lasting | entering)
    waiting = saved_for(weights, lasting)
    seen: Sequence[Task] = (*forward, *inputs, *backward)
    phases = {
        Phase.F: with_frees(forward, lasting | saved | _names(bare.leaving[Phase.F]), _names(bare.entering[Phase.F])),
        Phase.B: with_frees(backward, lasting | gradient_of_x, saved | entering),
        Phase.I: with_frees(inputs, lasting | waiting | ({apart} if gradient_of_x else set()), saved | entering),
        Phase.W: with_frees(weights, lasting, waiting),
    }
    if begun := tuple(each.gradient for each in bare.beside if each.use == "follows" and each.gradient):
        begins = Hold("passing_gradients", begun)
        phases |= {phase: (*phases[phase], begins) for phase in (Phase.B, Phase.I)}
    own = tuple(each.value for each in made)
    if own:  # layers may read it once more for weight gradients
        ends = Hold("release_passing", frees=tuple(each.name for each in own))
        phases |= {phase: (ends, *phases[phase]) for phase in (Phase.B, Phase.W)}
    kept = {Phase.F: (*operands_named(forward, saved), *own), Phase.I: (*operands_named(seen, waiting), *own)}
    d_x = bare.leaving[Phase.I]
    leaving = {**bare.leaving, Phase.I: replace(d_x, name=apart) if d_x else None}
    return replace(bare, phases=phases, kept=kept, leaving=leaving)


def _names(operand: Operand | None) -> set[str]:
    return {operand.name} if operand else set()
