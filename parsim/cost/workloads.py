"""All plans that are asked about: each Step lowered once, each task priced once, and the workloads of any of the plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from parsim.cluster.cluster import Cluster
from parsim.cluster.scalars import distinct, distinct_rows
from parsim.cost.cost_model import CostModel
from parsim.cost.shape import shape_of
from parsim.cost.sizes import Ints, sizes_of
from parsim.cost.workload import Prices, Workload
from parsim.errors import PlanError
from parsim.model.spec import ModelSpec
from parsim.parallel.legality import schedule_fault
from parsim.parallel.node_kinds import kinds_of_stages
from parsim.parallel.plan import KEYS, MESH, Batch, Plan
from parsim.parallel.plans import Plans, codes_of
from parsim.parallel.stages import layers_of
from parsim.step.lower import lower
from parsim.step.structure import MeshFacts, Structure, ends_apart, joint_of

_SIZES: Final = (*MESH, "micro_batch", "rank_order")  # the fields on which sizes depend
_PIPELINE: Final = ("schedule", "pipeline_parallel", "virtual_pipeline", "layers_per_stage")
_SCHEDULE: Final = _PIPELINE[:2]
_FEW: Final = 256  # rows: for fewer numpy takes about as long
_SWITCHES: Final = tuple(name for name in KEYS if name not in (*_SIZES, *_PIPELINE))  # and Steps, beside how the mesh lies


def workload_of(spec: ModelSpec, model: CostModel, plan: Plan, dtype_bytes: Mapping[str, int]) -> Workload:
    """One plan as arrays of length 1."""
    ((workload, _),) = Workloads(spec, model, Plans.of([plan]), dtype_bytes).of()
    return workload


class Workloads:
    """Plans as columns, with the Step, the pipeline and the row of the prices that each has.

    Raises:
        PlanError: a schedule cannot run its pipeline.
    """

    def __init__(self, spec: ModelSpec, model: CostModel, plans: Plans, dtype_bytes: Mapping[str, int]) -> None:
        self.plans, self.layout = plans, model.batch.layout(spec)
        kept, row = plans.distinct(_SIZES)
        prices = Prices(sizes_of(spec, model.batch, plans.take(kept), model.stack, dtype_bytes), model)
        self.micro_batches = model.batch.global_batch // (prices.sizes.dims["B"][row] * plans.numbers(_SCHEDULE, _num_copies))
        _check_schedules(plans, self.micro_batches, model.batch)
        facts, which = plans.each(MESH, lambda plan: MeshFacts.of(spec, plan, model.stack))
        mesh = codes_of(facts)[0][which]
        asked, structure = _structures(spec, model, plans, mesh, np.minimum(self.micro_batches, 2))
        group = _groups(mesh[kept])
        parts = [np.flatnonzero(group == each) for each in range(group.max() + 1)]
        place = np.zeros_like(group)
        for part in parts:
            place[part] = np.arange(len(part))
        self.prices, self.group, self.row = [*map(prices.take, parts)], group[row], place[row]
        laid, pipeline = plans.each(_PIPELINE, lambda plan: layers_of(plan, spec.num_layers, model.stack.layer_split))
        nodes, lies = _nodes(plans, model.cluster)
        first, self.kind = distinct_rows([structure, pipeline, lies], plans.num_plans)
        steps, self.shapes = [], []  # of each kind
        for index in first.tolist():
            plan, every = plans.plan(index, _PIPELINE), asked[structure[index]].recompute_every
            self.shapes.append(
                shape_of(plan.schedule, plan.pipeline_parallel, laid[pipeline[index]], self.layout, every, nodes[lies[index]])
            )
            steps.append((asked[structure[index]], self.shapes[-1].phases, self.shapes[-1].pair_phases))
        self.step, self.steps = codes_of(steps)

    def of(self, rows: Ints | None = None) -> Iterator[tuple[Workload, Ints]]:
        """Some of the plans, those of a Step and of the same phases together, each workload with the indices of its plans."""
        chosen = np.arange(self.plans.num_plans) if rows is None else rows
        step = self.step[self.kind[chosen]]
        for code in distinct(step).tolist():
            own = chosen[step == code]
            used, which = np.unique(self.kind[own], return_inverse=True)
            prices, row, shapes = self.prices[self.group[own[0]]], self.row[own], tuple(self.shapes[index] for index in used.tolist())
            sizes, count = prices.sizes.take(row), self.micro_batches[own]
            yield Workload(lower(self.steps[code][0]), prices, row, sizes, self.layout, shapes, which, count), own

    def by_schedule(self, rows: Ints) -> Ints:
        """Places of some plans, those that run the same actions side by side."""
        columns = [self.plans.columns[name][rows] for name in _PIPELINE if name in self.plans.columns]
        return np.lexsort((self.micro_batches[rows], *columns))


def _groups(mesh: Ints) -> Ints:
    """The group of each row of prices: those of a mesh together, and few of one with those of the next."""
    counts = np.bincount(mesh)
    found: Ints = np.unique(((np.cumsum(counts) - counts) // _FEW)[mesh], return_inverse=True)[1]
    return found


def _structures(spec: ModelSpec, model: CostModel, plans: Plans, mesh: Ints, micro_batches: Ints) -> tuple[list[Structure], Ints]:
    """The structures of plans, and which each has: degrees matter as far as they are on, and a pipeline by where its ends lie.

    `micro_batches`: one or more, which matters where a stack frees gradients.
    """
    apart, mirrored = plans.numbers(_PIPELINE[:-1], ends_apart), plans.numbers(_SCHEDULE, _num_copies)
    switches = [plans.columns[name] for name in _SWITCHES if name in plans.columns]
    if model.stack.frees_gradients:
        switches.append(micro_batches)
    if spec.has_joint:
        found, beside = plans.each(_PIPELINE, lambda plan: joint_of(spec, plan, model.stack))
        switches.append(codes_of(found)[0][beside])
    first, which = distinct_rows([mesh, apart, mirrored, *switches], plans.num_plans)
    return [Structure.of(spec, model.batch, plan, model.stack) for plan in plans.some(first)], which


def _nodes(plans: Plans, cluster: Cluster) -> tuple[list[tuple[int, ...]], Ints]:
    """The kinds of node of pipeline ranks, none where all nodes are alike, and which of these each plan has."""
    if not cluster.groups:
        return [()], np.zeros(plans.num_plans, dtype=np.int64)
    found, which = plans.each((*MESH, "rank_order"), lambda plan: tuple(min(each) for each in kinds_of_stages(plan, cluster.runs)))
    codes, nodes = codes_of(found)
    return [*nodes], codes[which]


def _num_copies(plan: Plan) -> int:
    return plan.num_copies


def _check_schedules(plans: Plans, micro_batches: Ints, batch: Batch) -> None:
    """Refuse a named schedule that cannot run a pipeline; a written one is checked action by action when it is walked.

    Raises:
        PlanError: one cannot.
    """
    columns = [plans.columns[name] for name in ("schedule", "pipeline_parallel", "virtual_pipeline")]
    first, _ = distinct_rows([*columns, micro_batches], plans.num_plans)
    for plan in plans.some(first):
        if isinstance(plan.schedule, str) and (wrong := schedule_fault(plan, batch)):
            raise PlanError(wrong.message, remedy=wrong.remedy and f"{wrong.remedy}.")
