"""What each stream will do, folded: a run of compute tasks between two communications is one event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from parsim.model.op_kinds import COSTS
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Plan
from parsim.parallel.stages import layers_of
from parsim.schedules import Order, ordered, rank_of
from parsim.step.count import flops
from parsim.step.holdings import Holding, bucket_elements
from parsim.step.lower import lower
from parsim.step.sizes import Ints, Sizes, sizes_of
from parsim.step.structure import Structure
from parsim.step.task import Compute, Segment, Step, Task, reads
from parsim.step.timing import Market, Prices, finish_ps, price


class Item(NamedTuple):
    """`run` occupies the compute stream, `issue` starts a collective beside it, `wait` waits for the k-th of this pass."""

    kind: Literal["run", "issue", "wait"]
    ps: int  # of wait: k
    name: str


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass through a segment: its items in issue order, and its FLOPs."""

    items: tuple[Item, ...]
    floor_ps: int  # host time of its launches: it takes no less
    num_issued: int
    flops: int


def fold(tasks: Sequence[Task], prices: Sequence[Ints], host: Ints, sizes: Sizes) -> Pass:
    """The items of one pass."""
    items: list[Item] = []
    issued: dict[str, int] = {}
    num_issued, awaited, work = 0, 0, 0
    for task, ps in zip(tasks, prices, strict=True):
        newest = max((issued.get(name, 0) for name in reads(task)), default=0)
        asynchronous = not isinstance(task, Compute) and task.asynchronous
        if newest > awaited and not asynchronous:
            awaited = newest
            items.append(Item("wait", newest, task.name))
        if asynchronous:
            assert not isinstance(task, Compute)
            num_issued += 1
            issued[task.target.name] = num_issued  # of two in place on one buffer, the later
            items.append(Item("issue", int(ps[0]), task.name))
        elif isinstance(task, Compute) and items and items[-1].kind == "run" and not items[-1].name.startswith("tp:"):
            items[-1] = Item("run", items[-1].ps + int(ps[0]), items[-1].name)
        else:
            items.append(Item("run", int(ps[0]), task.name if isinstance(task, Compute) else f"tp:{task.name}"))
        work += int(flops(task, sizes)[0]) if isinstance(task, Compute) else 0
    return Pass(tuple(items), int(host[0]), num_issued, work)


@dataclass(frozen=True, slots=True)
class Program:
    """One plan, ready to simulate."""

    step: Step
    sizes: Sizes
    market: Market
    prices: Prices
    layers: tuple[int, ...]
    schedule: str | tuple[str, ...]
    num_ranks: int
    order: Order
    passes: dict[tuple[str, str], Pass]

    @classmethod
    def of(cls, model: ModelSpec, market: Market, plan: Plan, dtype_bytes: dict[str, int]) -> Program:
        """The program of a plan."""
        step = lower(Structure.of(model, market.batch, plan, market.stack))
        sizes = sizes_of(model, market.batch, [plan], market.stack, dtype_bytes)
        prices = price(step, sizes, market)
        order = ordered(plan.schedule, plan.pipeline_parallel, plan.virtual_pipeline, plan.num_micro_batches(market.batch))
        layers = layers_of(plan, model.num_layers, market.stack.layer_split)
        passes = {}
        for s in step.segments:
            passes[s.name, "F"] = fold(s.forward, prices.forward[s.name], prices.forward_floor[s.name], sizes)
            passes[s.name, "B"] = fold(s.backward, prices.backward[s.name], prices.backward_floor[s.name], sizes)
        return cls(step, sizes, market, prices, layers, plan.schedule, plan.pipeline_parallel, order, passes)

    @property
    def num_stages(self) -> int:
        """Virtual stages."""
        return len(self.layers)

    def segments(self, stage: int, kind: str) -> list[Segment]:
        """Segments of an action, one for each copy, in the order in which they run."""
        found = [segment for segment, copies in self.step.layers(self.layers[stage]) for _ in range(copies)]
        if stage == 0:
            found.insert(0, self.step.embedding)
        if stage == self.num_stages - 1:
            found.append(self.step.head)
        return found if kind == "F" else found[::-1]

    def receives(self, stage: int, kind: str) -> bool:
        """Whether an action needs a message."""
        return stage > 0 if kind == "F" else stage < self.num_stages - 1

    def sends(self, stage: int, kind: str) -> bool:
        """Whether an action ends with a message."""
        return stage < self.num_stages - 1 if kind == "F" else stage > 0

    def holding(self, rank: int) -> Holding:
        """How often a rank holds each segment."""
        held = [s.name for stage in range(rank, self.num_stages, self.num_ranks) for s in self.segments(stage, "F")]
        return Holding({segment.name: np.array([held.count(segment.name)]) for segment in self.step.segments})

    def finish_prices(self, rank: int) -> list[int]:
        """Picoseconds of each piece of the step's end on a rank."""
        holding = self.holding(rank)
        return [int(finish_ps(self.step, work, self.sizes, holding, self.market)[0]) for work in self.step.finish]

    def finish_flops(self, rank: int) -> int:
        """FLOPs of the step's end on a rank (of the master, where only that one works)."""
        holding, total = self.holding(rank), 0
        for work in self.step.finish:
            if work.kernel and not work.on_host:
                total += COSTS[work.kernel].per_element * int(bucket_elements(self.step, self.sizes, work.bucket, holding, work.part)[0])
        return total

    def num_events(self) -> int:
        """About how many events a step will run: what its passes issue, and a message an action."""
        of_pass = {key: len(each.items) + each.num_issued for key, each in self.passes.items()}
        of_stage = [sum(of_pass[s.name, kind] for kind in "FB" for s in self.segments(stage, kind)) for stage in range(self.num_stages)]
        num_micro_batches = len(self.order.overall) // (2 * self.num_stages)
        return num_micro_batches * (sum(of_stage) + 2 * self.num_stages)

    def rank_of(self, stage: int) -> int:
        """Where a stage lives."""
        return rank_of(self.schedule, stage, self.num_ranks)
