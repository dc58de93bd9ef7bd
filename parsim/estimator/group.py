"""Plans that share a Step and a pipeline shape, as arrays: what each pipeline rank holds, and what its actions cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from parsim.estimator.segment import Lives, Span, lives, span
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Plan
from parsim.parallel.stages import layers_of
from parsim.schedules import rank_of
from parsim.step.holdings import Holding
from parsim.step.lower import lower
from parsim.step.sizes import Ints, Sizes, sizes_of
from parsim.step.structure import Structure
from parsim.step.task import Segment, Step
from parsim.step.timing import Market, Prices, price


@dataclass(slots=True)
class Group:
    """Several plans of one structure, schedule, number of ranks, chunks and micro_batches."""

    step: Step
    sizes: Sizes
    market: Market
    prices: Prices
    schedule: str
    num_ranks: int  # of the pipeline
    chunks: int
    num_micro_batches: int
    layers: Ints  # [virtual stage, plan]
    _spans: dict[tuple[str, str], Span] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ModelSpec, market: Market, plans: Sequence[Plan], dtype_bytes: dict[str, int]) -> Group:
        """The group of these plans, which must agree in everything structural."""
        first = plans[0]
        step = lower(Structure.of(model, market.batch, first, market.stack))
        sizes = sizes_of(model, market.batch, plans, market.stack, dtype_bytes)
        layers = [layers_of(plan, model.num_layers, market.stack.layer_split) for plan in plans]
        return cls(
            step,
            sizes,
            market,
            price(step, sizes, market),
            first.schedule,
            first.pipeline_parallel,
            first.virtual_pipeline,
            first.num_micro_batches(market.batch),
            np.array(layers, dtype=np.int64).T,
        )

    @property
    def num_stages(self) -> int:
        return self.num_ranks * self.chunks

    @property
    def zero(self) -> Ints:
        return np.zeros(self.sizes.num_plans, dtype=np.int64)

    def parts(self, stage: int) -> list[tuple[Segment, Ints]]:
        """Segments of a virtual stage in forward order, with how often each stands there."""
        found = [(self.step.layer, self.layers[stage])]
        if stage == 0:
            found.insert(0, (self.step.embedding, self.zero + 1))
        if stage == self.num_stages - 1:
            found.append((self.step.head, self.zero + 1))
        return found

    def holding(self, rank: int) -> Holding:
        """What a pipeline rank holds, all its chunks together."""
        layers = sum((self.layers[s] for s in range(rank, self.num_stages, self.num_ranks)), start=self.zero)
        has_head = rank == rank_of(self.num_stages - 1, self.num_ranks)
        return Holding(self.zero + (rank == 0), layers, self.zero + has_head)

    def span(self, segment: Segment, kind: str) -> Span:
        """Time of one pass through one copy of a segment."""
        key = (segment.name, kind)
        if key not in self._spans:
            tasks = segment.forward if kind == "F" else segment.backward
            prices = (self.prices.forward if kind == "F" else self.prices.backward)[segment.name]
            host = (self.prices.forward_host if kind == "F" else self.prices.backward_host)[segment.name]
            self._spans[key] = span(tasks, prices, host)
        return self._spans[key]

    def action(self, stage: int, kind: str) -> Span:
        """Time of one action: the segments of the stage one after another, and the gathering of what came in shards."""
        total, compute, host = self.zero, self.zero, self.zero
        for segment, copies in self.parts(stage):
            each = self.span(segment, kind)
            total, compute = total + copies * each.total_ps, compute + copies * each.compute_ps
            host = host + copies * each.host_ps
        receives = stage > 0 if kind == "F" else stage < self.num_stages - 1
        return Span(total + self.prices.gather if receives else total, compute, host)

    def lives(self, segment: Segment, kind: str) -> Lives:
        """Memory of one pass through one copy of a segment."""
        if kind == "F":
            return lives(segment.forward, [segment.x] if segment.x else [], self.sizes)
        entering = list(segment.saved)
        if segment.y:
            entering.append(type(segment.y)("d_y", segment.y.sharding, segment.y.dtype))
        return lives(segment.backward, entering, self.sizes)
