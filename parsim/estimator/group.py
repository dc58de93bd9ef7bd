"""Plans as arrays: priced once for all plans of a structure, then taken in groups of one pipeline shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar

import numpy as np

from parsim.estimator.segment import Lives, Span, lives, span
from parsim.estimator.sharded import Part, total_ps
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Plan
from parsim.parallel.stages import layers_of
from parsim.step.holdings import Holding
from parsim.step.lower import lower
from parsim.step.sizes import Ints, Sizes, sizes_of
from parsim.step.structure import Structure
from parsim.step.task import Operand, Segment, Step
from parsim.step.timing import Market, Prices, price

T = TypeVar("T")
Key = tuple[str, str]  # segment, F or B


@dataclass(frozen=True, slots=True)
class Passes:
    """What one pass through one copy of each segment costs, and a message between stages; one value per plan."""

    sizes: Sizes
    spans: Mapping[Key, Span]
    lives: Mapping[Key, Lives]
    reduce: Mapping[str, Ints]
    gather_weights: Mapping[str, Ints]
    send: Ints
    gather: Ints

    def take(self, indices: Ints) -> Passes:
        """The same of some of the plans."""
        sizes = replace(_taken(self.sizes, indices), num_plans=len(indices))
        return replace(_taken(replace(self, sizes=sizes), indices, skip=("sizes",)))


def _taken(value: T, indices: Ints, skip: tuple[str, ...] = ()) -> T:
    """A copy of a dataclass with every array in it indexed by plan."""
    changes = {f.name: _index(getattr(value, f.name), indices) for f in fields(value) if f.name not in skip}  # type: ignore[arg-type]
    return replace(value, **changes)  # type: ignore[type-var]


def _index(value: object, indices: Ints) -> object:
    if isinstance(value, np.ndarray):
        return value[indices]
    if isinstance(value, Mapping):
        return {key: _index(each, indices) for key, each in value.items()}
    return _taken(value, indices) if is_dataclass(value) else value


def passes_of(step: Step, model: ModelSpec, market: Market, plans: Sequence[Plan], dtype_bytes: Mapping[str, int]) -> Passes:
    """Price and measure every segment for plans of one structure."""
    sizes = sizes_of(model, market.batch, plans, market.stack, dtype_bytes)
    prices = price(step, sizes, market)
    return Passes(
        sizes,
        {(s.name, kind): _span(s, kind, prices) for s in step.segments for kind in "FB"},
        {(s.name, kind): _lives(s, kind, sizes) for s in step.segments for kind in "FB"},
        prices.reduce,
        prices.gather_weights,
        prices.send,
        prices.gather,
    )


def _span(segment: Segment, kind: str, prices: Prices) -> Span:
    if kind == "F":
        return span(segment.forward, prices.forward[segment.name], prices.forward_floor[segment.name])
    return span(segment.backward, prices.backward[segment.name], prices.backward_floor[segment.name])


def _lives(segment: Segment, kind: str, sizes: Sizes) -> Lives:
    if kind == "F":
        return lives(segment.forward, [segment.x] if segment.x else [], sizes)
    entering = list(segment.saved)
    if segment.y:
        entering.append(Operand("d_y", segment.y.sharding, segment.y.dtype))
    return lives(segment.backward, entering, sizes)


@dataclass(frozen=True, slots=True)
class Group:
    """Several plans of one structure, schedule, number of ranks, chunks and micro_batches."""

    step: Step
    market: Market
    passes: Passes
    schedule: str | tuple[str, ...]
    num_ranks: int  # of the pipeline
    chunks: int
    num_micro_batches: int
    layers: Ints  # [virtual stage, plan]

    @classmethod
    def of(cls, step: Step, market: Market, passes: Passes, plans: Sequence[Plan], num_layers: int) -> Group:
        """The group of these plans, whose passes are given."""
        first = plans[0]
        layers = [layers_of(plan, num_layers, market.stack.layer_split) for plan in plans]
        count, shape = first.num_micro_batches(market.batch), np.array(layers, dtype=np.int64).T
        return cls(step, market, passes, first.schedule, first.pipeline_parallel, first.virtual_pipeline, count, shape)

    @property
    def sizes(self) -> Sizes:
        """Extents, degrees and itemsizes of the plans."""
        return self.passes.sizes

    @property
    def num_stages(self) -> int:
        """Virtual stages."""
        return self.num_ranks * self.chunks

    @property
    def zero(self) -> Ints:
        """A zero for each plan."""
        return np.zeros(self.sizes.num_plans, dtype=np.int64)

    def parts(self, stage: int) -> list[tuple[Segment, Ints]]:
        """Segments of a virtual stage in forward order, with how often each stands there."""
        found = [(self.step.layer, self.layers[stage])] if self.layers[stage].any() else []
        if self.step.kept_layer is not None:  # its plans have the same layers
            found = [(segment, self.zero + copies) for segment, copies in self.step.layers(int(self.layers[stage][0]))]
        if stage == 0:
            found.insert(0, (self.step.embedding, self.zero + 1))
        if stage == self.num_stages - 1:
            found.append((self.step.head, self.zero + 1))
        return found

    def holding(self, rank: int) -> Holding:
        """What a pipeline rank holds, all its chunks together."""
        copies = {segment.name: self.zero for segment in self.step.segments}
        for stage in range(rank, self.num_stages, self.num_ranks):
            for segment, count in self.parts(stage):
                copies[segment.name] = copies[segment.name] + count
        return Holding(copies)

    def action(self, stage: int, kind: str) -> Span:
        """Time of one action: the segments of the stage one after another, and the gathering of what came in shards."""
        total, compute, host = self.zero, self.zero, self.zero
        exposed: dict[str, Ints] = {}
        for segment, copies in self.parts(stage):
            each = self.passes.spans[segment.name, kind]
            total, compute = total + copies * each.total_ps, compute + copies * each.compute_ps
            host = host + copies * each.host_ps
            exposed.update({axis: exposed.get(axis, self.zero) + copies * ps for axis, ps in each.exposed_ps.items()})
        beside = {"dp": self.sharded_ps(stage, kind) - total} if self.step.structure.per_pass else {}
        if self.step.structure.scatter_gather and (stage > 0 if kind == "F" else stage < self.num_stages - 1):
            beside["tp"] = self.passes.gather
        for axis, ps in beside.items():
            total, exposed[axis] = total + ps, exposed.get(axis, self.zero) + ps
        return Span(total, compute, host, exposed)

    def sharded_ps(self, stage: int, kind: str) -> Ints:
        """Picoseconds of an action that gathers parameters or scatters gradients in every pass."""
        structure, found = self.step.structure, []
        for segment, copies in self.parts(stage) if kind == "F" else reversed(self.parts(stage)):
            gather = self.passes.gather_weights[segment.name] if structure.gathers(kind) else None
            reduce = self.passes.reduce[segment.name] if kind == "B" else None
            found.append(Part(copies, self.passes.spans[segment.name, kind].total_ps, gather, reduce))
        return total_ps(found, structure.gradient_overlap)


def groups_of(model: ModelSpec, market: Market, plans: Sequence[Plan], dtype_bytes: Mapping[str, int]) -> list[tuple[Group, list[int]]]:
    """All plans in groups, each with the indices of its plans: one pricing a structure, one group a pipeline shape."""
    structures: dict[Structure, list[int]] = {}
    for index, plan in enumerate(plans):
        structures.setdefault(Structure.of(model, market.batch, plan, market.stack), []).append(index)
    found = []
    for structure, members in structures.items():
        step = lower(structure)
        passes = passes_of(step, model, market, [plans[i] for i in members], dtype_bytes)
        shapes: dict[tuple[object, ...], list[int]] = {}
        for place, index in enumerate(members):
            plan = plans[index]
            layers = layers_of(plan, model.num_layers, market.stack.layer_split)
            same: tuple[int, ...] = layers if step.kept_layer else ()
            if 0 in layers and not same:
                same = tuple(count == 0 for count in layers)  # a stage of only an end is another shape
            shape = (plan.schedule, plan.pipeline_parallel, plan.virtual_pipeline, plan.num_micro_batches(market.batch), same)
            shapes.setdefault(shape, []).append(place)
        for places in shapes.values():
            indices = [members[place] for place in places]
            part = passes.take(np.array(places))
            found.append((Group.of(step, market, part, [plans[i] for i in indices], model.num_layers), indices))
    return found
