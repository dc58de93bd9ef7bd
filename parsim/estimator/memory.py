"""Peak memory of each pipeline rank, with its parts, exact in issue order.

The schedule says how many micro_batches of each chunk are between two phases when an action starts; the action's own lives stand on top.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict

from parsim import schedules
from parsim.cluster.scalars import distinct_rows
from parsim.cost.buckets import Role, lasting_elements, lasting_parts, lasting_weights
from parsim.cost.count import state_bytes
from parsim.cost.sizes import Ints, Sizes
from parsim.estimator.blocks import LastingBlocks, lasting_blocks
from parsim.estimator.communicators import communicator_bytes
from parsim.estimator.footprint import context_bytes, logit_bytes, placeholder_bytes, workspace_bytes
from parsim.estimator.graph_pools import pool_bytes
from parsim.estimator.passes import Stages
from parsim.estimator.worst import pairs_of, states_of_plans
from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT, PACKED, QUANTISED
from parsim.step.task import Part

_MOST_AT_ONCE: Final = 4096  # ranks of several plans of which each has numbers of its own


class RankMemory(Struct, frozen=True):
    """Bytes of the pipeline ranks at their peaks, [rank, plan].

    What these sum up to, parts.py defines.
    """

    parameters: Ints
    gradients: Ints
    optimizer: Ints
    activations: Ints  # of micro_batches in flight
    transients: Ints  # of the action at the peak, beyond what is in flight
    buffers: Ints  # scalars, placeholders of gradients, logits that have gone
    workspaces: Ints  # of GEMM libraries
    rounding: Ints  # of tensors that last, to blocks
    fragments: Ints  # what the allocator holds and no tensor uses
    graph_pools: Ints  # what graphs and eager kernels cannot share
    context: Ints  # of the process, and libraries
    communicators: Ints  # their buffers

    def parts(self) -> dict[str, Ints]:
        """All parts by name."""
        return asdict(self)

    def of_plan(self, index: int) -> tuple[dict[str, int], ...]:
        """The parts of one plan, by pipeline rank."""
        parts = {name: ranks[:, index].tolist() for name, ranks in self.parts().items()}
        return tuple(dict(zip(parts, ranks, strict=True)) for ranks in zip(*parts.values(), strict=True))

    def worst(self, first: Ints) -> RankMemory:
        """Of rows side by side, from these on, that in which a rank has most, the first of equals, [rank, row]."""
        total = self.total
        largest = np.repeat(np.maximum.reduceat(total, first, axis=1), np.diff(first, append=total.shape[1]), axis=1)
        place = np.where(total == largest, np.arange(total.shape[1]), total.shape[1])
        chosen = np.minimum.reduceat(place, first, axis=1)
        return RankMemory(*(np.take_along_axis(np.broadcast_to(part, total.shape), chosen, 1) for part in self.parts().values()))

    @property
    def total(self) -> Ints:
        """The peaks."""
        return np.asarray(np.sum(list(self.parts().values()), axis=0, dtype=np.int64))


def rank_memory(stages: Stages) -> RankMemory:
    """Peak memory of each rank of the one pipeline of all plans."""
    if stages.workload.sizes.torn:
        every, first = stages.on_all_ranks()
        return rank_memory(every).worst(first)
    lasting, own = lasting_bytes(stages), stages.workload.shape.own
    in_flight, on_top, in_passes = _dynamic(stages)
    kept_logits, logit_holes = logit_bytes(stages)
    blocks, none = _blocks(stages), in_flight * 0
    segments = blocks.segment_bytes(stages.workload.model.stack.allocator, lambda each: own @ each)
    apart = _apart(stages, in_passes, own @ _end_bytes(stages)) + own @ logit_holes
    return RankMemory(
        parameters=own @ (lasting["parameters"] + lasting["packed"] + lasting["quantised"] + lasting["scales"]),
        gradients=own @ (lasting["gradients"] + lasting["narrow_gradients"]),
        optimizer=own @ lasting["optimizer"],
        activations=in_flight,
        transients=on_top,
        buffers=own @ (lasting["totals"] + placeholder_bytes(stages) + kept_logits) + _norm_bytes(stages),
        workspaces=none + workspace_bytes(stages),
        rounding=own @ blocks.rounding,
        fragments=_fragments(stages, in_flight + on_top) + apart + segments,
        graph_pools=_largest_of(own[:, :, None], pool_bytes(stages)[None]),
        context=none + context_bytes(stages),
        communicators=none + communicator_bytes(stages),
    )


def peak_bytes(stages: Stages) -> Ints:
    """Peak memory of the fullest rank of each plan, whatever its pipeline."""
    return np.asarray(fullest_bytes(stages)[0])


def fullest_bytes(stages: Stages) -> Ints:
    """The same, and what the device of that rank holds, [2, plan]."""
    peaks = _peaks_on_nodes(stages)
    holds = np.array([each.node.accelerator.hbm_capacity_bytes for each in stages.workload.model.cluster.kinds])
    node = np.argmax(peaks / holds[:, None], axis=0) if len(holds) > 1 else peaks[0] * 0
    return np.stack([np.take_along_axis(peaks, node[None], 0)[0], holds[node]])


def _peaks_on_nodes(stages: Stages) -> Ints:
    """Peaks of the most loaded rank on each kind of node, [kind, plan]; 0 where none lies there."""
    w = stages.workload
    first, which = distinct_rows([w.prices.sizes.unordered[w.rows], w.shape_of], len(w.rows))
    if w.sizes.torn:
        found = np.concatenate([_peak_of_worst(stages.take(own)) for own in _few_at_once(w.sizes.take(first), first)], axis=1)[:, which]
    else:
        found = _peak_bytes(stages) if len(first) == len(w.rows) else _peak_bytes(stages.take(first))[:, which]
    return np.asarray(np.where(found > 0, found + communicator_bytes(stages), found))  # which depend on the order of ranks, too


def _peak_of_worst(stages: Stages) -> Ints:
    every, first = stages.on_all_ranks()
    return np.asarray(np.maximum.reduceat(_peak_bytes(every), first, axis=1))


def _few_at_once(sizes: Sizes, places: Ints) -> list[Ints]:
    """Plans in batches whose ranks are not many, so that arrays of one value a rank stay small."""
    ranks = np.prod([sizes.degrees[axis] for axis in sizes.torn], axis=0)
    return np.split(places, np.flatnonzero(np.diff(np.cumsum(ranks) // _MOST_AT_ONCE)) + 1)


def _peak_bytes(stages: Stages) -> Ints:
    rows = states_of_plans(stages.workload, stages.num_classes)
    lasting = _lasting_bytes(stages) + placeholder_bytes(stages) + sum(logit_bytes(stages))
    own, in_flight, acting, phase, together = rows.columns
    kept, on_top = dynamic_bytes(stages)
    working = np.einsum("rck,kcr->r", in_flight, kept[:, :, rows.plan])
    working = working + _with_pairs(stages, on_top[phase, acting, rows.plan], together, rows.plan)
    blocks = _blocks(stages)
    segments = blocks.segment_bytes(stages.workload.model.stack.allocator, lambda each: np.sum(own * each.T[rows.plan], axis=1))
    lasting = lasting + blocks.rounding
    total = np.sum(own * lasting.T[rows.plan], axis=1) + segments + _largest_of(own, pool_bytes(stages).T[rows.plan])
    structure = stages.workload.step.structure
    if structure.sum_copies or structure.update_temporaries:
        at_end = np.sum(own * _end_bytes(stages).T[rows.plan], axis=1)
        total, working = total + _apart(stages, working, at_end), np.maximum(working, at_end)
    total = total + working + _fragments(stages, working) + _norm_bytes(stages) + workspace_bytes(stages) + context_bytes(stages)
    kinds = range(len(stages.workload.model.cluster.kinds))
    if len(kinds) == 1:
        return rows.worst(total)[None]
    node = stages.spread(lambda kind, members: members.plans * 0 + kind.node)[acting, rows.plan]
    return np.stack([rows.worst(total * (node == kind)) for kind in kinds])


def counted_peak_bytes(stages: Stages) -> Ints:
    """The peaks without the stack's overheads: what the kernels hold, to the byte, [rank, plan]."""
    if stages.workload.sizes.torn:
        every, first = stages.on_all_ranks()
        return np.asarray(np.maximum.reduceat(counted_peak_bytes(every), first, axis=1))
    in_flight, on_top, _ = _dynamic(stages)
    return stages.workload.shape.own @ _lasting_bytes(stages) + in_flight + on_top + _norm_bytes(stages)


def elements_of(stages: Stages, part: Part, role: Role = "optimizer", itemsize: int = 1) -> Ints:
    """Elements of the weights that a stage holds in a role, or bytes of each in its own buffer, [class, plan]."""
    found = np.zeros((stages.num_classes, len(stages.workload.rows)), dtype=np.int64)
    structure = stages.workload.step.structure
    for segment in stages.workload.step.segments.values():
        if own := lasting_weights(segment.own_weights, role, structure):
            elements = np.sum([lasting_elements(weight, part, stages.workload.prices.sizes) * itemsize for weight in own], axis=0)
            found += stages.copies(segment.name) * elements[stages.workload.rows]
    return found


def _role_bytes(stages: Stages) -> dict[str, int]:
    """Bytes of an element in each role that is one buffer."""
    structure, sizes = stages.workload.step.structure, stages.workload.sizes
    return {
        "parameters": sizes.itemsize_bytes[structure.parameter_role],
        "gradients": sizes.itemsize_bytes[GRADIENT],
        "narrow_gradients": sizes.itemsize_bytes[COMPUTE],
        "optimizer": state_bytes(structure, sizes),
        "scales": sizes.itemsize_bytes[FLOAT32],
    }


def _blocks(stages: Stages) -> LastingBlocks:
    sizes, layouts = stages.workload.sizes, len(stages.workload.step.structure.lasting_layouts)
    more = {"packed": sizes.itemsize_bytes.get(PACKED, 0), "quantised": sizes.itemsize_bytes.get(QUANTISED, 0) * layouts}
    return lasting_blocks(stages, {**_role_bytes(stages), **more})


def _largest_of(own: Ints, values: Ints) -> Ints:
    """Of the classes that ranks hold, [..., class, ...] on axis 1."""
    return np.asarray(np.max(np.where(own > 0, values, 0), axis=1))


def lasting_bytes(stages: Stages) -> dict[str, Ints]:
    """What a stage holds through the whole step: parameters, gradients and optimizer states, and its totals (the loss), [class, plan]."""
    structure, sizes = stages.workload.step.structure, stages.workload.sizes
    size = _role_bytes(stages)
    found = dict.fromkeys((*size, "packed", "quantised", "totals"), np.zeros((stages.num_classes, sizes.num_plans), dtype=np.int64))
    parts = lasting_parts(structure)
    elements = {part: elements_of(stages, part) for part in set(parts.values())}
    own = {role: elements_of(stages, part, role) for role, part in parts.items() if role == "scales" or structure.tells_weights_apart}
    found |= {role: own.get(role, elements[part]) * size[role] for role, part in parts.items() if role in size}
    if "packed" in parts:
        found["packed"] = elements_of(stages, parts["packed"], "packed", sizes.itemsize_bytes[PACKED])
    if "quantised" in parts:
        found["quantised"] = len(structure.lasting_layouts) * (
            elements_of(stages, parts["quantised"], "quantised") * sizes.itemsize_bytes[QUANTISED]
        )
    for segment in stages.workload.step.segments.values():
        if segment.sums:
            each = np.sum([sizes.num_bytes(total) for total in segment.sums], axis=0)
            found["totals"] = found["totals"] + stages.copies(segment.name) * each
    return found


def _lasting_bytes(stages: Stages) -> Ints:
    return np.asarray(np.sum([*lasting_bytes(stages).values()], axis=0))


def dynamic_bytes(stages: Stages) -> tuple[Ints, Ints]:
    """What a micro_batch keeps after each phase but the last, and what a phase needs on top, [phase, class, plan]."""
    kept = np.cumsum(stages.table(lambda kind, phase: stages.lives(kind, phase).net_bytes), axis=0)[:-1]
    return kept, stages.table(lambda kind, phase: stages.lives(kind, phase).peak_bytes)


def _with_pairs(stages: Stages, on_top: Ints, together: Ints, plan: Ints | slice) -> Ints:
    """What actions need on top, of which some are of pairs."""
    if not (together >= 0).any():
        return on_top
    pairs = stages.spread_pairs(stages.pair_peak_bytes)[together, plan]
    return np.where((together >= 0).reshape(-1, *[1] * (on_top.ndim - 1)), pairs, on_top)


def _end_bytes(stages: Stages) -> Ints:
    """What the sums and the update of a stage's weights need on top, when no micro_batch is in flight, [class, plan]."""
    structure, itemsize = stages.workload.step.structure, stages.workload.sizes.itemsize_bytes
    made: dict[str, Part] = {structure.sum_copies: "whole", structure.update_temporaries: lasting_parts(structure)["optimizer"]}
    found = [elements_of(stages, part) * itemsize[role] for role, part in made.items() if role]
    most = np.max(found, axis=0) if found else np.zeros((stages.num_classes, len(stages.workload.rows)), dtype=np.int64)
    applied = elements_of(stages, lasting_parts(structure)["optimizer"]) * itemsize[GRADIENT] if structure.frees_gradients else 0
    return np.asarray(most + applied)


def _apart(stages: Stages, in_passes: Ints, at_end: Ints) -> Ints:
    """What the allocator holds for nobody, where flat copies as large as a model fit no block that activations left.

    Source: PyTorch, c10/cuda/CUDACachingAllocator.cpp: a block is never larger than the segment that it was cut from.
    """
    return np.minimum(in_passes, at_end) * (stages.workload.model.stack.gradient_copies != "none")


def _norm_bytes(stages: Stages) -> int:
    return stages.workload.sizes.itemsize_bytes[FLOAT32]


def _fragments(stages: Stages, working: Ints) -> Ints:
    """What the allocator holds between tensors that come and go."""
    return np.asarray(working * stages.workload.model.stack.allocator_slack).astype(np.int64)


def _dynamic(stages: Stages) -> tuple[Ints, Ints, Ints]:
    """Bytes in flight, and on top of the action or the step's end, where their sum is largest, and that sum in the passes alone.

    Of several places, that with the least in flight.
    """
    workload, shape = stages.workload, stages.workload.shape
    states = schedules.state_columns(workload.schedule, workload.num_ranks, workload.chunks, workload.num_micro_batches)
    order = np.lexsort((-states.phase, states.chunk, *states.in_flight.reshape(len(states.rank), -1).T[::-1], states.rank))
    rank, chunk, phase, together, in_flight = (getattr(states, name)[order] for name in states.__struct_fields__)
    stages_of, rows = shape.by_rank[rank], np.arange(len(rank))
    together = pairs_of(shape, stages_of[rows, chunk], np.where(together < 0, -1, stages_of[rows, together]))
    own = shape.index[stages_of]  # class, [state, chunk]
    kept, top = dynamic_bytes(stages)
    flying = np.einsum("sck,ksc...->s...", in_flight, kept[:, own])
    on_top = _with_pairs(stages, top[phase, own[rows, chunk]], together, slice(None))
    first = np.flatnonzero(np.diff(rank, prepend=-1))
    total, place = flying + on_top, rows[:, None]
    largest = np.maximum.reduceat(total, first)[rank]
    worst = np.minimum.reduceat(np.where(total == largest, place, len(rank)), first)
    flying, on_top = (np.take_along_axis(each, worst, 0) for each in (flying, on_top))
    at_end, in_passes = shape.own @ _end_bytes(stages), flying + on_top
    return np.where(at_end > in_passes, 0, flying), np.where(at_end > in_passes, at_end, on_top), in_passes
