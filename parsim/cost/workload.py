"""Plans that share a Step: what each stage does, priced once for all.  One plan is an array of length 1.

All three readers take it: estimate with many plans, simulate and execute with one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

import numpy as np
from msgspec import Struct, StructMeta, field
from msgspec.structs import replace

from parsim.cost.beside import together_ps
from parsim.cost.buckets import Held
from parsim.cost.cost_model import CostModel
from parsim.cost.reach import site_latency_ps, stages_that_leave_sites
from parsim.cost.reads import Read, Reads
from parsim.cost.shape import Shape, StageClass
from parsim.cost.sizes import Ints, Sizes
from parsim.cost.timing import longer_ps, send_ps, task_ps
from parsim.model.spec import Layout
from parsim.schedules.phase import Phase
from parsim.step.pairs import End, StagePair, hides_exchanges, pair_of
from parsim.step.program import Pass, Run, pass_of
from parsim.step.stages import Copies, Parts, held_copies
from parsim.step.step import Step
from parsim.step.task import Operand, Send, Task, Weight

_UNPRICED = ("name", "frees")
_PLAIN = frozenset({str, int, bool, type(None)})


class Prices:
    """Picoseconds of tasks for plans, whatever their Step: tasks that differ in names only are priced once."""

    def __init__(self, sizes: Sizes, model: CostModel) -> None:
        """`sizes`: of the distinct rows."""
        self.sizes, self.model = sizes, model
        self._reads, self._rows, self._alike = Reads(sizes), np.arange(sizes.num_plans), dict[object, Read]()
        self._keys = dict[int, tuple[Task, object]]()  # by the identity of a task, which is kept
        self._ps = dict[int, Ints]()  # of these rows
        self._runs = dict[tuple[int, int], tuple[Run, tuple[Ints, ...]]]()  # by lists, which are kept
        self._on = dict[int, Prices]()

    def take(self, rows: Ints) -> Prices:
        """The same of some of the rows; what is priced for one part is known to all."""
        part = copy(self)
        part.sizes, part._rows, part._ps, part._runs, part._on = self.sizes.take(rows), self._rows[rows], {}, {}, {}
        return part

    def on(self, node: int | None) -> Prices:
        """The same on a kind of node that the cluster has; None, for who knows of no kinds, prices only what is alike on all."""
        if node is None or not self.model.cluster.groups:
            return self
        if node not in self._on:
            self._on[node] = Prices(self.sizes, self.model.on(node))
        return self._on[node]

    def of(self, task: Task) -> Ints:
        """Picoseconds of a task of a pass by itself, one value a row."""
        if id(task) not in self._ps:
            key = self.alike(task)
            if key not in self._alike:
                self._alike[key] = self._reads.of(key, lambda sizes: task_ps(task, sizes, self.model))
            values, which = self._alike[key]
            self._ps[id(task)] = values[which[self._rows]]
        return self._ps[id(task)]

    def alike(self, task: Task) -> object:
        """What it has in common with tasks of a pass that differ from it in names only."""
        if id(task) not in self._keys:
            self._keys[id(task)] = task, _priced_by(task)
        return self._keys[id(task)][1]

    def of_run(self, run: Run) -> tuple[Ints, ...]:
        """Picoseconds of each task of a list, as long as what runs beside one another makes them."""
        key = id(run.tasks), id(run.before)
        if key not in self._runs:
            shares = self.model.cluster.node.accelerator.beside
            self._runs[key] = run, together_ps(run.tasks, run.before, self.of, shares)
        return self._runs[key][1]


@functools.lru_cache(maxsize=64)
def _priced_fields(kind: Any) -> tuple[str, ...]:
    return tuple(name for name in kind.__struct_fields__ if name not in _UNPRICED) if isinstance(kind, StructMeta) else ()


def _priced_by(value: Any) -> object:
    """All of a task but its name, the names of its buffers, and what it frees."""
    if isinstance(value, Operand):  # most are
        return value.dtype, value.sharding.sized_dims, value.sharding.axes, *value.sharding.partial
    if isinstance(value, Weight):
        return value.sharding.dims, value.sharding.axes, value.group
    if isinstance(value, tuple):
        return tuple(map(_priced_by, value))
    if value.__class__ in _PLAIN:
        return value
    if names := _priced_fields(value.__class__):
        every = [getattr(value, name) for name in names]
        return (type(value), *[each if each.__class__ in _PLAIN else _priced_by(each) for each in every])
    return tuple(sorted(value.items())) if isinstance(value, Mapping) else value


class Workload(Struct, frozen=True, eq=False, dict=True):
    """Plans of one Step, whose schedules have the same phases."""

    step: Step
    prices: Prices
    rows: Ints  # of the prices, one a plan
    sizes: Sizes  # of these plans
    layout: Layout
    shapes: tuple[Shape, ...]
    shape_of: Ints  # index of its shape, one a plan
    micro_batches: Ints  # of a replica, or of each copy of the model in it, one a plan
    _passes: dict[object, Pass] = field(default_factory=dict)
    _pairs: dict[object, StagePair] = field(default_factory=dict)

    @property
    def model(self) -> CostModel:
        """What their prices depend on."""
        return self.prices.model

    @property
    def shape(self) -> Shape:
        """The pipeline that all plans have."""
        (found,) = self.shapes
        return found

    @property
    def schedule(self) -> str | tuple[str, ...]:
        """Of that pipeline."""
        return self.shape.schedule

    @property
    def num_ranks(self) -> int:
        """Of every pipeline."""
        (found,) = {each.num_ranks for each in self.shapes}
        return found

    @property
    def layers(self) -> tuple[int, ...]:
        """Of each of its virtual stages."""
        return self.shape.layers

    @property
    def num_stages(self) -> int:
        """Virtual stages of that pipeline."""
        return self.shape.num_stages

    @property
    def chunks(self) -> int:
        """Virtual stages of a rank of that pipeline."""
        return self.shape.chunks

    @property
    def num_micro_batches(self) -> int:
        """Which all plans have."""
        return int(self.micro_batches[0])

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What is done to a micro_batch on a stage, in order."""
        return self.shapes[0].phases

    @property
    def pair_phases(self) -> tuple[Phase, ...]:
        """The same on the two stages of a pair."""
        return self.shapes[0].pair_phases if hides_exchanges(self.step) else self.phases

    def take(self, places: Ints) -> Workload:
        """The same of some of the plans."""
        used, which = np.unique(self.shape_of[places], return_inverse=True)
        return replace(
            self,
            rows=self.rows[places],
            sizes=self.sizes.take(places),
            shapes=tuple(self.shapes[each] for each in used.tolist()),
            shape_of=which,
            micro_batches=self.micro_batches[places],
            _passes={},
            _pairs={},
        )

    def on_all_ranks(self, axes: Iterable[str]) -> tuple[Workload, Ints]:
        """The same of each rank along these axes as its own representative, those of a plan together; and which plan each is of.

        It is not for prices: ranks wait for one another in each layer, which takes as long as the one that has most there.
        """
        used, row = np.unique(self.rows, return_inverse=True)
        sizes, of = self.prices.sizes.take(used).of_all_ranks(axes)
        count = np.bincount(of)[row]
        plan = np.repeat(np.arange(len(row)), count)
        rows = np.searchsorted(of, row)[plan] + np.arange(len(plan)) - (np.cumsum(count) - count)[plan]
        own = {name: getattr(self, name)[plan] for name in ("shape_of", "micro_batches")}
        return replace(self, prices=Prices(sizes, self.model), rows=rows, sizes=sizes.take(rows), **own), plan

    @functools.cached_property
    def quiet(self) -> Workload:
        """Of replicas that train apart the steps in which they do not come together."""
        assert self.step.quiet
        return replace(self, step=self.step.quiet, _passes={}, _pairs={})

    def stages(self, rank: int) -> tuple[int, ...]:
        """The virtual stages that live on a pipeline rank."""
        return tuple(self.shape.by_rank[rank].tolist())

    def rank_of(self, stage: int) -> int:
        """The pipeline rank on which a virtual stage lives."""
        return int(self.shape.home[stage])

    def stage_class(self, stage: int) -> StageClass:
        """What a virtual stage does."""
        return self.shape.classes[int(self.shape.index[stage])]

    def parts(self, stage: int) -> Parts:
        """Segments of a virtual stage in forward order, with their copies."""
        return self.stage_class(stage).parts

    def copies_on(self, rank: int) -> dict[str, Copies]:
        """How often a pipeline rank holds each segment, all its stages together."""
        return held_copies([self.parts(stage) for stage in self.stages(rank)])

    def node_of(self, rank: int) -> int:
        """The kind of node on which a pipeline rank lies."""
        return int(self.shape.nodes[rank])

    def ps(self, task: Task, node: int | None = None) -> Ints:
        """Picoseconds of a task of a pass by itself on a kind of node."""
        return self.prices.on(node).of(task)[self.rows]

    def ps_of(self, run: Run, node: int | None = None) -> list[Ints]:
        """Picoseconds of each task of a list of a pass on a kind of node."""
        return [each[self.rows] for each in self.prices.on(node).of_run(run)]

    def finish_ps(self, task: Task, held: Held, ranks: Iterable[int]) -> Ints:
        """Picoseconds of a task of the step's end on a rank that holds these segments; a bucket is one coalesced call.

        Of pipeline ranks that start it together it takes as long as on the slowest of their nodes.
        """
        models = (self.model.on(node) for node in sorted({*map(self.node_of, ranks)}))
        return np.asarray(np.max([task_ps(task, self.sizes, each, held) for each in models], axis=0))

    @functools.cached_property
    def _leaving(self) -> Ints:
        return stages_that_leave_sites(self.model.cluster, self.shape, tuple(Phase), self.sizes)

    def longer_ps(self, task: Send, stage: int, phase: Phase) -> Ints:
        """How much later what a stage hands on has left than the price of its own kind of node says: because the next stage lies in another
        site, or on a slower kind."""
        leaves: Ints = self._leaving[tuple(Phase).index(phase), stage]
        own, *other = models = [self.model.on(node) for node in self.stage_class(stage).kind.ends(phase)]
        found = send_ps(task, self.sizes, models) - send_ps(task, self.sizes, [own]) if other else leaves * 0
        return found + (leaves * longer_ps(task, self.sizes, models) if leaves.any() else 0)

    def on_its_way_ps(self, stage: int, phase: Phase) -> Ints:
        """How long it is on its way then, while others follow it."""
        leaves: Ints = self._leaving[tuple(Phase).index(phase), stage]
        return leaves * site_latency_ps(self.model.cluster)

    def neighbour(self, stage: int, phase: Phase, way: int = 1) -> int | None:
        """The stage to which a phase hands its result on (way 1), or from which it takes what it starts from (-1); None for none."""
        found, each = stage + way * phase.step, self.shape.stages_a_copy
        return found if phase.step and found // each == stage // each else None

    def crosses(self, stage: int, phase: Phase, way: int = 1) -> bool:
        """Whether that neighbour is there, and lives on another rank."""
        kind = self.stage_class(stage).kind
        return kind.sends(phase) if way > 0 else kind.receives(phase)

    def pass_of(self, stage: int, phase: Phase, *, closes: bool = False) -> Pass:
        """What a stage does in a phase; `closes`: for the last time in a step, if that phase completes weight gradients."""
        each = self.stage_class(stage)
        key = (each, phase, closes)
        if key not in self._passes:
            receives, sends = each.kind.receives(phase), each.kind.sends(phase)
            self._passes[key] = pass_of(self.step, each.parts, phase, receives=receives, sends=sends, closes=closes)
        return self._passes[key]

    def pair_of(self, forward: int, backward: int) -> StagePair:
        """What two stages of a rank do together, the one forward and the other backward."""
        key = self.stage_class(forward), self.stage_class(backward)
        if key not in self._pairs:
            (ahead, behind), (first, second, *_) = key, self.pair_phases
            ends = (End(one.parts, one.kind.receives(each), one.kind.sends(each)) for one, each in ((ahead, first), (behind, second)))
            self._pairs[key] = pair_of(self.step, ends, self.pair_phases)
        return self._pairs[key]
