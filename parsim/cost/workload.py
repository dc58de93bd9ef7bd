"""Plans that share a Step and the shape of their pipeline: what each rank does, priced once.  One plan is an array of length 1.

All three readers take it: estimate with many plans, simulate and execute with one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from parsim import schedules
from parsim.cost.buckets import Held
from parsim.cost.cost_model import CostModel
from parsim.cost.sizes import Ints, Sizes, sizes_of
from parsim.cost.timing import task_ps
from parsim.errors import PlanError
from parsim.model.spec import Layout, ModelSpec
from parsim.parallel.legality import schedule_fault
from parsim.parallel.plan import Plan
from parsim.parallel.stages import layers_of
from parsim.schedules.phase import Phase
from parsim.step.lower import lower
from parsim.step.program import Pass, pass_of
from parsim.step.stages import Copies, Parts, held_copies, parts_of
from parsim.step.step import Step
from parsim.step.structure import Structure
from parsim.step.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Picoseconds of the tasks of one Step, for all plans that share it; each task is priced once."""

    step: Step
    sizes: Sizes
    model: CostModel
    _ps: dict[int, tuple[Task, Ints]] = field(default_factory=dict, repr=False)  # by the identity of a task, which is kept

    def of(self, task: Task) -> Ints:
        """Picoseconds of a task of a pass, one value per plan."""
        if id(task) not in self._ps:
            self._ps[id(task)] = (task, task_ps(task, self.sizes, self.model))
        return self._ps[id(task)][1]


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Plans of one Step, schedule, number of pipeline ranks, chunks and micro_batches, and the same stages without layers."""

    prices: Prices  # of all plans of the Step
    rows: Ints  # which of them these are
    sizes: Sizes  # of these
    layout: Layout
    layers: tuple[Ints, ...]  # of each virtual stage, [plan]
    schedule: str | tuple[str, ...]
    num_ranks: int  # of the pipeline
    num_micro_batches: int
    _passes: dict[tuple[int, Phase, bool], Pass] = field(default_factory=dict, repr=False)

    @property
    def step(self) -> Step:
        """The Step that all share."""
        return self.prices.step

    @property
    def model(self) -> CostModel:
        """What their prices depend on."""
        return self.prices.model

    @property
    def num_stages(self) -> int:
        """Virtual stages."""
        return len(self.layers)

    @property
    def chunks(self) -> int:
        """Virtual stages of a rank."""
        return self.num_stages // self.num_ranks

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What is done to a micro_batch on a stage, in order."""
        return schedules.find(self.schedule, self.num_ranks).phases

    def take(self, places: Ints) -> Workload:
        """The same of some of the plans."""
        layers = tuple(each[places] for each in self.layers)
        return replace(self, rows=self.rows[places], sizes=self.sizes.take(places), layers=layers, _passes={})

    def stages(self, rank: int) -> tuple[int, ...]:
        """The virtual stages that live on a pipeline rank."""
        return schedules.find(self.schedule, self.num_ranks).stages_of(rank, self.num_ranks, self.num_stages)

    def rank_of(self, stage: int) -> int:
        """The pipeline rank on which a virtual stage lives."""
        return schedules.find(self.schedule, self.num_ranks).rank_of(stage, self.num_ranks)

    def parts(self, stage: int) -> Parts:
        """Segments of a virtual stage in forward order, with their copies."""
        return parts_of(self.step, self.layout, self.layers, stage)

    def copies_on(self, rank: int) -> dict[str, Copies]:
        """How often a pipeline rank holds each segment, all its stages together."""
        return held_copies([self.parts(stage) for stage in self.stages(rank)])

    def ps(self, task: Task) -> Ints:
        """Picoseconds of a task of a pass."""
        return self.prices.of(task)[self.rows]

    def finish_ps(self, task: Task, held: Held) -> Ints:
        """Picoseconds of a task of the step's end on a rank that holds these segments; a bucket is one coalesced call."""
        return task_ps(task, self.sizes, self.model, held)

    def neighbour(self, stage: int, phase: Phase, way: int = 1) -> int | None:
        """The stage to which a phase hands its result on (way 1), or from which it takes what it starts from (-1); None for none."""
        found = stage + way * phase.step
        return found if phase.step and 0 <= found < self.num_stages else None

    def crosses(self, stage: int, phase: Phase, way: int = 1) -> bool:
        """Whether that neighbour is there, and lives on another rank."""
        other = self.neighbour(stage, phase, way)
        return other is not None and self.rank_of(other) != self.rank_of(stage)

    def pass_of(self, stage: int, phase: Phase, *, closes: bool = False) -> Pass:
        """What a stage does in a phase; `closes`: for the last time in a step, if that phase completes weight gradients."""
        key = (stage, phase, closes)
        if key not in self._passes:
            comes, goes = self.crosses(stage, phase, -1), self.crosses(stage, phase)
            self._passes[key] = pass_of(self.step, self.parts(stage), phase, receives=comes, sends=goes, closes=closes)
        return self._passes[key]


def workload_of(spec: ModelSpec, model: CostModel, plan: Plan, dtype_bytes: Mapping[str, int]) -> Workload:
    """One plan as arrays of length 1."""
    return workloads_of(spec, model, [plan], dtype_bytes)[0][0]


def workloads_of(
    spec: ModelSpec, model: CostModel, plans: Sequence[Plan], dtype_bytes: Mapping[str, int]
) -> list[tuple[Workload, list[int]]]:
    """All plans, each workload with the indices of its plans: one pricing a structure, one workload a pipeline shape.

    Raises:
        PlanError: a schedule cannot run its pipeline.
    """
    structures: dict[Structure, list[int]] = {}
    for index, plan in enumerate(plans):
        structures.setdefault(Structure.of(spec, model.batch, plan, model.stack), []).append(index)
    found = []
    for structure, members in structures.items():
        own = [plans[index] for index in members]
        prices = Prices(lower(structure), sizes_of(spec, model.batch, own, model.stack, dtype_bytes), model)
        layers = [layers_of(plan, spec.num_layers, model.stack.layer_split) for plan in own]
        shapes: dict[object, list[int]] = {}
        for row, plan in enumerate(own):
            pipeline = (plan.schedule, plan.pipeline_parallel, plan.num_micro_batches(model.batch))
            shapes.setdefault((pipeline, _alike(layers[row], spec, structure)), []).append(row)
        for rows in shapes.values():
            first, indices = own[rows[0]], np.array(rows)
            if isinstance(first.schedule, str) and (wrong := schedule_fault(first, model.batch)):  # a written one: action by action
                raise PlanError(wrong.message, remedy=wrong.remedy and f"{wrong.remedy}.")
            stages = tuple(np.array(each, dtype=np.int64) for each in zip(*(layers[row] for row in rows), strict=True))
            shape = (first.schedule, first.pipeline_parallel, first.num_micro_batches(model.batch))
            workload = Workload(prices, indices, prices.sizes.take(indices), spec.layout, stages, *shape)
            found.append((workload, [members[row] for row in rows]))
    return found


def _alike(layers: tuple[int, ...], spec: ModelSpec, structure: Structure) -> tuple[int, ...]:
    """What must be the same for plans of one workload: which stages have no layers; all layers, where they are of several kinds."""
    several = len(spec.layout) > 3 or structure.recompute_every > 1
    return layers if several else tuple(min(count, 1) for count in layers)
