"""The end of a step as tasks over buckets: gradients are summed, clipped by their norm over all ranks, weights updated and shared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT, MASTER, QUANTISED
from parsim.parallel.dimensions import DENSE, EXPERT, axes, axes_of, axis_of, replica_axes, view_of
from parsim.parallel.group import Group
from parsim.parallel.optimizer import OPTIMIZERS, OUTER_OPTIMIZERS, states_role
from parsim.parallel.sharding import Sharding
from parsim.step.step import Segment
from parsim.step.structure import Apart, Structure
from parsim.step.task import COMPUTE_STREAM, HOST, Bucket, Collective, Compute, Hold, HostCopy, Operand, Part, Task, Wait, Weight

NORM = Operand("gradient_norm", Sharding((), ()), FLOAT32)
LARGEST: Final = "@max"  # behind the name of a weight: the largest magnitude of its elements
Placed = tuple[str, Weight]  # its segment, and a weight
PARTS: Final[tuple[Part, Part]] = ("shard", "padded")  # before a gathering of weights and behind it


def finish(structure: Structure, segments: Sequence[Segment], *, syncs: bool = True) -> Iterator[Task]:
    """The tasks of a step's end, in order; of weights none where the optimizer runs in the backward, or a server has it.

    `syncs`: whether replicas that train apart come together.
    """
    yield from _steer(structure, segments)
    if structure.in_backward:
        return
    if structure.is_served:
        yield from _narrow_weights(structure, tuple((segment.name, weight) for segment in segments for weight in segment.trained_weights))
        return
    every = tuple((segment.name, weight) for segment in segments for weight in segment.trained_weights)
    alone = structure.master
    if structure.replica_stream:
        yield Wait("gradient_sums", streams=(structure.replica_stream,))
    copies = (Bucket("temporaries", "whole", structure.sum_copies, every),) if structure.sum_copies else ()
    if copies:
        yield Hold("gradient_copies", copies)
    yield from _sums(structure, every)
    if copies:
        yield Hold("gradients_summed", frees=copies)
    gradients = _to_apply(structure, every)
    yield Compute("gradient_norm", "norm_sq", (gradients,), (NORM,), {}, accumulate=True, alone=alone)
    for axis in _norm_axes(structure, every):
        yield Collective(f"gradient_norm_{axis}", "all_reduce", Group((axis,)), NORM, NORM, fresh=False, alone=alone)
    yield Compute("clip", "clip", (gradients, NORM), (gradients,), {}, in_place=True, alone=alone)
    yield from _update(structure, every, gradients, syncs=syncs)
    if structure.frees_gradients:
        yield Hold("applied_gradients", frees=(gradients,))
    yield from _share(structure, _with_wide_parameters(structure, every))
    yield from _narrow_weights(structure, every)


def _steer(structure: Structure, segments: Sequence[Segment]) -> Iterator[Task]:
    """Biases that steer choices follow the loads of all ranks: one sum of counts for all layers.

    Source: NVIDIA/Megatron-LM, megatron/core/distributed/finalize_model_grads.py (_update_router_expert_bias).
    """
    every = tuple((segment.name, each) for segment in segments for each in segment.steers)
    if not every:
        return
    counts, biases = Bucket("choices", "whole", FLOAT32, every), Bucket("steers", "whole", FLOAT32, every)
    partial = tuple(axis for axis in structure.axes if axis in every[0][1].gradient.partial)
    mirrors = [("mirrored_choices", Group(("pp",), mirrors=True))] if structure.is_mirrored else []
    for name, group in (*([("choices", Group(partial))] if partial else []), *mirrors):
        yield Collective(name, "all_reduce", group, counts, counts, fresh=False)
    yield Compute("steer", "steer", (biases, counts), (biases,), {}, in_place=True)


def finish_segment(structure: Structure, segment: Segment) -> Iterator[Task]:
    """What follows the backward of a segment whose gradients are applied at once: the same without clipping, and they die."""
    own = tuple((segment.name, weight) for weight in segment.trained_weights)
    if own:
        yield from _sums(structure, own)
        yield from _update(structure, own, _to_apply(structure, own))
        yield from _share(structure, own)
        yield Hold("applied_gradients", frees=(whole_gradients(structure, own),))


def whole_gradients(structure: Structure, weights: tuple[Placed, ...]) -> Bucket:
    """The gradients of weights as a pass adds to them, with a rank's own part of each where ZeRO shards."""
    return Bucket("gradients", "padded" if structure.zero_stage else "whole", GRADIENT, weights)


def _to_apply(structure: Structure, weights: tuple[Placed, ...]) -> Bucket:
    """The gradients that a rank applies."""
    return Bucket("gradients", "shard" if structure.zero_stage else "whole", GRADIENT, weights)


def _sums(structure: Structure, every: tuple[Placed, ...]) -> Iterator[Task]:
    """The sums of gradients that are left when the passes have ended."""
    held: Part = "shard" if structure.scatters else "whole"  # of the gradients, where they are reduced
    inside, outside = _partial_axes(structure, every)
    yield from (_sum(f"{axis}_gradients", Group((axis,)), _partial(every, axis), held) for axis in inside)
    if structure.copies_kv_heads and (own := tuple(each for each in every if each[1].makes_kv_heads)):
        yield _sum("kv_head_gradients", Group((axis_of("tensor_parallel"),), copies=True), own, held)
    if not structure.sums_in_passes:
        yield from _replica_sums(structure, every)
    updated = _to_apply(structure, every).part
    yield from (_sum(f"{axis}_gradients", Group((axis,)), _partial(every, axis), updated) for axis in outside)
    if structure.is_mirrored:
        yield _sum("mirrored_gradients", Group(("pp",), mirrors=True), every, updated)
    origins = {(weight.copy_of, weight.name) for _, weight in every if weight.copy_of}
    tied = tuple((name, weight) for name, weight in every if weight.copy_of or (name, weight.name) in origins)
    if tied:
        yield _sum("tied_embedding_gradients", Group(("pp",), tuple(name for name, _ in tied)), tied, held)


def _share(structure: Structure, every: tuple[Placed, ...]) -> Iterator[Collective]:
    """The new weights for all that compute with them."""
    if structure.master:
        shared = parameters(structure, every, "whole")
        yield Collective("share_weights", "broadcast", structure.master, shared, shared, fresh=False)
    if structure.zero_stage in (1, 2):
        for group, weights in by_group(every):
            shards, whole = (parameters(structure, weights, part) for part in PARTS)
            yield Collective(sum_name("gather_weights", group, structure), "all_gather", group, shards, whole, fresh=False)


def _narrow_weights(structure: Structure, every: tuple[Placed, ...]) -> Iterator[Task]:
    """The new weights of linear layers in the format that they multiply, for all micro_batches of the next step."""
    narrow = tuple((name, weight) for name, weight in every if weight.narrow_rows)
    how = structure.lasting_narrow
    if how is None or not narrow:
        return
    facts, layouts = how.attributes(weight=True), Bucket("quantised", "whole", QUANTISED, narrow)
    if structure.gathers_narrow:
        first, *others = (replace(layouts, layout=layout) for layout in structure.lasting_layouts)
        yield from _gather_narrow(structure, first, facts)
        yield from (Compute("transpose_weights", "cast", (first,), (other,), {}) for other in others)
    else:
        wide = _own_states(structure, narrow) if structure.narrow_alone else parameters(structure, narrow, "whole")
        yield Compute("quantise_weights", "quantise", (wide,), (layouts,), {**facts, "layouts": len(how.layouts)})


def _gather_narrow(structure: Structure, whole: Bucket, facts: Mapping[str, float | str]) -> Iterator[Task]:
    """Each rank's part of the new weights, quantised by the largest element of the whole, brought together; in ZeRO 3 not before a pass.

    Source: NVIDIA/TransformerEngine@d0067d0da, transformer_engine/pytorch/tensor/utils.py (_cast_master_weights_to_fp8_current_scaling);
    of ZeRO 3: pytorch/ao, torchao/float8/fsdp_utils.py (precompute_float8_dynamic_scale_for_fsdp: 'a single all-reduce').
    """
    narrow, part = whole.weights, replace(whole, part="shard")
    own, largest = made_narrow_of(structure, narrow)
    yield Compute("largest_of_weights", "absmax", (own,), (largest,), {})
    for group, weights in by_group(narrow):
        each = replace(largest, weights=weights)
        name = sum_name("largest_of_weights", group, structure)
        yield Collective(name, "all_reduce", group, each, each, operator="max", fresh=False)
    if structure.casts_shards:
        return
    yield Compute("quantise_weights", "quantise", (own, largest), (part,), {**facts, "layouts": 1})
    for group, weights in by_group(narrow) if structure.zero_stage < 3 else ():
        shards = replace(part, weights=weights)
        name = sum_name("gather_narrow_weights", group, structure)
        yield Collective(name, "all_gather", group, shards, replace(shards, part="whole"), fresh=False)


def cast_shards(structure: Structure, shards: Bucket) -> Iterator[Task]:
    """A rank's parts of weights in the format that is gathered, made of what it updates; they come to life."""
    assert structure.lasting_narrow
    made_of = tuple(replace(each, ahead=shards.ahead) for each in made_narrow_of(structure, shards.weights))
    facts = structure.lasting_narrow.attributes(weight=True)
    yield Hold("narrow_shards", (shards,))
    yield Compute("quantise_shards", "quantise", made_of, (shards,), {**facts, "layouts": 1})


def made_narrow_of(structure: Structure, weights: tuple[Placed, ...]) -> tuple[Bucket, Bucket]:
    """What a rank updates of weights, and the largest magnitude that a scale follows from."""
    return _own_states(structure, weights), Bucket("quantised", "scale", FLOAT32, weights, layout=LARGEST)


def _own_states(structure: Structure, weights: tuple[Placed, ...]) -> Bucket:
    """What a rank updates of weights."""
    return Bucket("states", _to_apply(structure, weights).part, states_role(structure.optimizer), weights)


def _with_wide_parameters(structure: Structure, every: tuple[Placed, ...]) -> tuple[Placed, ...]:
    """The weights that are stored as they are computed with."""
    return tuple(each for each in every if not (structure.narrow_alone and each[1].narrow_rows))


def parameters(structure: Structure, weights: tuple[Placed, ...], part: Part) -> Bucket:
    """Weights as they are stored: what is computed with, and what shards of it are kept as."""
    return Bucket("parameters", part, structure.parameter_role if part == "shard" else COMPUTE, weights)


def to_gather(structure: Structure, weights: tuple[Placed, ...], part: Part) -> Iterator[Bucket]:
    """Weights as passes gather them in ZeRO 3: as they are stored, and apart from them those that last narrow."""
    if wide := tuple(each for each in weights if not each[1].narrow_rows):
        yield parameters(structure, wide, part)
    if narrow := tuple(each for each in weights if each[1].narrow_rows):
        yield Bucket("quantised", part, QUANTISED, narrow, layout=structure.lasting_layouts[0])


def by_group(weights: Iterable[Placed], sums: Structure | None = None) -> tuple[tuple[Group, tuple[Placed, ...]], ...]:
    """Weights by the ranks that replicate them; those that nobody else holds are left out.  `sums`: by those that sum gradients there."""
    found: dict[Group, list[Placed]] = {}
    for each in weights:
        if (group := sums.ranks_of_sum(each[1].group) if sums else each[1].group).axes:
            found.setdefault(group, []).append(each)
    return tuple((group, tuple(own)) for group, own in found.items())


def sum_name(name: str, group: Group, structure: Structure) -> str:
    """The name of a collective over weights of a group: with that of the group, where they are not the dense ones."""
    return name if group == structure.replicas else f"{name}_{group.name}"


def replica_sums(structure: Structure, name: str, weights: Iterable[Placed], *, add: bool, stream: str) -> Iterator[Collective]:
    """The sums of gradients over the ranks that replicate their weights; with ZeRO each rank keeps its part of it.

    `add`: to what it keeps already, and what is summed dies.
    """
    for group, own in by_group(weights, structure):
        whole = Bucket("gradients", "padded" if structure.zero_stage else "whole", GRADIENT, own)
        operation, target = "all_reduce", whole
        if structure.zero_stage:
            operation, target = "reduce_scatter", Bucket("gradients", "shard", GRADIENT, own)
        each = sum_name(name, group, structure)
        frees = (whole,) if add else ()
        yield Collective(each, operation, group, whole, target, fresh=False, accumulate=add, stream=stream, frees=frees)


def _replica_sums(structure: Structure, every: tuple[Placed, ...]) -> Iterator[Collective]:
    if structure.master:
        for group, own in by_group(every):  # a label for a whole text is every rank's of its sequence
            whole = Bucket("gradients", "whole", GRADIENT, own)
            yield Collective(sum_name("data_parallel_gradients", group, structure), "reduce", group, whole, whole, fresh=False)
    else:
        yield from replica_sums(structure, "data_parallel_gradients", every, add=False, stream=COMPUTE_STREAM)


def _update(structure: Structure, every: tuple[Placed, ...], gradients: Bucket, *, syncs: bool = False) -> Iterator[Task]:
    """The optimizer, on the device or its host, and the new weights in the type that is computed with."""
    alone, part = structure.master, gradients.part
    states, weights = _own_states(structure, every), parameters(structure, every, part)
    kernel, facts = OPTIMIZERS[structure.optimizer].kernel, {"optimizer": structure.optimizer}
    if structure.offload:
        copies = [replace(gradients, dtype=role) for role in structure.host_gradients]
        for role, copy in zip(structure.host_gradients, copies, strict=True):
            name = "gradients_to_host" if role == GRADIENT else f"{role}_gradients_to_host"
            yield HostCopy(name, copy, to_host=True, alone=alone)
        yield Compute("update", kernel, (states, copies[-1]), (states,), facts, in_place=True, alone=alone, stream=HOST)
        yield HostCopy("weights_from_host", weights, to_host=False, alone=alone)
        yield Wait("host", streams=(HOST,))
        return
    if structure.paged:
        yield HostCopy("pages_in", states, to_host=False, alone=alone)
        yield Wait("pages", streams=(HOST,))
    temporaries = (Bucket("temporaries", part, structure.update_temporaries, every),) if structure.update_temporaries else ()
    if temporaries:
        yield Hold("temporaries", temporaries)
    yield Compute("update", kernel, (states, gradients), (states,), facts, in_place=True, alone=alone)
    if temporaries:  # where one rank updates for all, the others keep what it needs, as they do its states
        yield Hold("updated", frees=temporaries)
    if structure.apart and syncs:
        yield from _outer_update(structure, structure.apart, every, part)
    if structure.master_weights:
        wide = _with_wide_parameters(structure, every)
        yield Compute("cast_weights", "cast", (_own_states(structure, wide),), (parameters(structure, wide, part),), {}, alone=alone)
    if structure.paged:
        yield HostCopy("pages_out", states, to_host=True, alone=alone)
        yield Wait("pages", streams=(HOST,))


def _outer_update(structure: Structure, apart: Apart, every: tuple[Placed, ...], part: Part) -> Iterator[Task]:
    """The sum of the replicas' weights, as wide as they are updated, and what becomes of it on each of them.

    What they moved the anchor by, on average, is the anchor less the mean of their weights: the same bytes, and nothing to subtract before.
    """
    weights = Bucket("masters", part, MASTER, every) if structure.master_weights else parameters(structure, every, part)
    outer = OUTER_OPTIMIZERS[apart.outer_optimizer]
    changed = weights, *(Bucket(state, part, MASTER, every) for state in outer.states)  # type: ignore[arg-type]
    yield Collective("sum_weights", "all_reduce", apart.group, weights, weights, fresh=False)
    yield Compute("outer_update", outer.kernel, changed, changed, {"outer_optimizer": apart.outer_optimizer}, in_place=True)


def _sum(name: str, group: Group, weights: tuple[Placed, ...], part: Part) -> Collective:
    bucket = Bucket("gradients", part, GRADIENT, weights)
    return Collective(name, "all_reduce", group, bucket, bucket, fresh=False)


def _partial(weights: Iterable[Placed], axis: str) -> tuple[Placed, ...]:
    return tuple((name, weight) for name, weight in weights if axis in weight.gradient.partial)


def _partial_axes(structure: Structure, every: Sequence[Placed]) -> tuple[list[str], list[str]]:
    """Other axes over which gradients are partial sums: those nested inside the replicas, and those around, where ZeRO has left shards."""
    partial = {axis for _, weight in every for axis in weight.gradient.partial}
    order, data = axes(), replica_axes()
    apart = structure.apart.group.axes if structure.apart else ()
    found = [axis for axis in structure.axes if axis in partial and axis not in (*data, *apart)]
    outside = [axis for axis in found if order.index(axis) < min(map(order.index, data))]
    return [axis for axis in found if axis not in outside], outside


def _norm_axes(structure: Structure, every: Sequence[Placed]) -> tuple[str, ...]:
    """Axes whose ranks hold different parts of the gradients when the step ends, so that their norm is a sum over them.

    Where experts lie differently, all ranks of a stage do, whatever the view.
    """
    data = structure.replicas.axes if structure.zero_stage else ()
    over = {axis for _, weight in every for each in weight.sharding.axes for axis in each}
    over |= {axis for _, weight in every for axis in weight.group.axes if structure.zero_stage}
    if view_of(over) == EXPERT:
        over |= set(axes_of(DENSE))
    inner = [axis for axis in structure.axes if axis in over and axis not in (*data, *axes_of(EXPERT))]
    return (*data, *inner, *(axis for axis in structure.axes if axis == "pp"))
