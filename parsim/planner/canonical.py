"""The canonical form of a plan: plans that have the same are the same work on the same ranks, whatever their fields say.

Each form is a rule on a few fields, which it reads alone.  That none changes an estimate is tested on drawn plans.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim import schedules
from parsim.cluster.scalars import Ints
from parsim.parallel.dimensions import DENSE, DIMENSIONS, EXPERT, degrees, replica_axes
from parsim.parallel.legality import Facts
from parsim.parallel.mesh import fastest_first, order_of
from parsim.parallel.plan import KEYS, MESH, Plan, Stack
from parsim.parallel.plans import Plans
from parsim.parallel.recomputation import ops_of, regions, single_ops
from parsim.parallel.sharding_faults import keeps_parameters
from parsim.parallel.stages import layers_of

_PIPELINE: Final = ("pipeline_parallel", "virtual_pipeline")
_AGAIN: Final = ("recompute", "recompute_modules", "recompute_ops")
_ZERO: Final = ("zero_stage", "zero_group", "reshard_after_forward", "gradient_sync")
_ORDERS: Final = (KEYS["rank_order"].default, *KEYS["rank_order"].auto)
_MOST_ACTIONS: Final = 100_000  # of schedules that are compared one by one
AnySchedule: TypeAlias = str | tuple[str, ...]


class Form(Struct, frozen=True):
    """What some fields are in the canonical form, as a function of those that it reads."""

    changes: tuple[str, ...]
    reads: tuple[str, ...]
    of: Callable[[Plan, Facts], Plan]


def canonical(plans: Plans, facts: Facts) -> Plans:
    """The canonical form of each plan."""
    for form in FORMS:
        found, which = plans.each(form.reads, lambda plan, form=form: form.of(plan, facts))  # type: ignore[misc]
        for name in form.changes:
            plans = plans.put(name, [getattr(each, name) for each in found], which)
    return plans


def _dimensions(plan: Plan, facts: Facts) -> Plan:
    """One of 1 rank is left out, as one that is off; of others the order does not count."""
    off = {name: DIMENSIONS.get(name).nesting is None for name, _ in plan.dimensions}
    return replace(plan, dimensions=tuple(sorted((name, degree) for name, degree in plan.dimensions if degree > 1 or off[name])))


def _context(plan: Plan, facts: Facts) -> Plan:
    """Where no rank has another part of a sequence, there is nothing that attention does about it."""
    usual = KEYS["context_kind"].default
    if plan.context_parallel > 1 or (plan.context_kind, plan.context_group) == (usual, None):
        return plan
    return replace(plan, context_kind=usual, context_group=None)


def _replicas(plan: Plan, facts: Facts) -> Plan:
    """A group of all replicas is no group; nobody shards where a group is one rank, or sums where there are no replicas."""
    found = degrees(plan)
    group = None if plan.zero_group == plan.data_parallel else plan.zero_group
    if plan.is_served or any(found[axis] > 1 for axis in replica_axes()):
        return plan if group == plan.zero_group else replace(plan, zero_group=group)
    unsharded = {name: KEYS[name].default for name in _ZERO} | {"zero_group": group, "zero_stage": 1 if group else 0}
    return replace(plan, **unsharded)


def _parameters(plan: Plan, facts: Facts) -> Plan:
    """What is so anyway is not stated; parameters that stay for all micro_batches of a pipeline make it ZeRO 1."""
    if facts.stack is None:
        return plan
    unstated, keeps = replace(plan, reshard_after_forward=None), keeps_parameters(plan, facts.stack)
    if keeps and plan.pipeline_parallel > 1:
        return replace(unstated, zero_stage=1)
    return unstated if keeps_parameters(unstated, facts.stack) == keeps else plan


def _recomputation(plan: Plan, facts: Facts) -> Plan:
    """Modules stand for what selective means, and selective for modules and ops that are all it means; what no layer has is left out."""
    if facts.model is None or facts.stack is None or plan.recompute == "full":
        return plan
    ops = ops_of(facts.model, facts.stack)
    known = {name for op in ops if op.kind != "relabel" for name in (op.name, op.tag)}
    means = _again(plan, facts.stack, known)
    for simpler in (Plan(), Plan(recompute="selective")):
        if means == _again(simpler, facts.stack, known):
            return replace(plan, recompute=simpler.recompute, recompute_modules=(), recompute_ops=())
    own = _again(replace(plan, recompute_ops=()), facts.stack, known)
    modules, more = sorted(set(plan.recompute_modules) & known), sorted((set(plan.recompute_ops) & known) - own[1])
    kept = plan.recompute if own[0] or own[1] else "none"
    return replace(plan, recompute="none" if modules else kept, recompute_modules=tuple(modules), recompute_ops=tuple(more))


def _again(plan: Plan, stack: Stack, known: Iterable[str]) -> tuple[set[str], set[str]]:
    return {*regions(plan, stack)}.intersection(known), {*single_ops(plan, stack)}.intersection(known)


def _every(plan: Plan, facts: Facts) -> Plan:
    """Where no stage has an n-th layer nothing is recomputed, and where nothing is, there is no n."""
    none = replace(plan, recompute="none", recompute_modules=(), recompute_ops=(), recompute_every=1)
    if plan.recompute_every == 1 or facts.model is None or facts.stack is None:
        return plan
    again = plan.recompute != "none" or plan.recompute_modules or plan.recompute_ops
    return plan if again and plan.recompute_every <= max(layers_of(plan, facts.model.num_layers, facts.stack.layer_split)) else none


def _layers(plan: Plan, facts: Facts) -> Plan:
    """A split that is the stack's own is not stated."""
    if plan.layers_per_stage is None or facts.model is None or facts.stack is None:
        return plan
    unstated, rule, count = replace(plan, layers_per_stage=None), facts.stack.layer_split, facts.model.num_layers
    ends = 2 if rule == "embedding_and_head" else 0
    is_own = plan.num_stages <= count + ends and layers_of(unstated, count, rule) == plan.layers_per_stage
    return unstated if is_own else plan


def _precision(plan: Plan, facts: Facts) -> Plan:
    """The batch's own is not stated, and fp8 is what the stack means by it."""
    if plan.precision is None or facts.stack is None or facts.batch is None:
        return plan
    named = facts.stack.precision(plan.precision)
    return replace(plan, precision=None if named == facts.batch.dtype else named)


def _order(plan: Plan, facts: Facts) -> Plan:
    """Axes of one rank have no place."""
    if plan.rank_order == _ORDERS[0]:
        return plan
    found = degrees(plan)

    def places(order: str) -> list[list[str]]:
        dense = fastest_first(order)
        return [[axis for axis in order_of(view, dense) if found[axis] > 1] for view in (DENSE, EXPERT)]

    own = places(plan.rank_order)
    return replace(plan, rank_order=next((order for order in _ORDERS if places(order) == own), plan.rank_order))


def _schedule(plan: Plan, facts: Facts) -> Plan:
    """Of schedules that run the same actions the first."""
    usual = schedules.default(plan.virtual_pipeline)
    if plan.schedule == usual or facts.batch is None:
        return plan
    count = plan.num_micro_batches(facts.batch)
    if count * plan.num_stages > _MOST_ACTIONS:
        return plan
    pipeline = plan.pipeline_parallel, plan.virtual_pipeline, count
    others = (name for name in (usual, *schedules.names()) if _runs_alike((name, plan.schedule), *pipeline))
    return replace(plan, schedule=next(others, plan.schedule))


@functools.lru_cache(maxsize=2**14)
def _runs_alike(pair: tuple[AnySchedule, AnySchedule], num_ranks: int, chunks: int, count: int) -> bool:
    """Whether two schedules run the same actions, where and in which order, or neither can; most differ on the first rank."""
    faults = [bool(schedules.fault(each, num_ranks, chunks, count)) for each in pair]
    if any(faults):
        return all(faults)
    found = [schedules.find(each, num_ranks) for each in pair]
    shown = [each.steady_rounds for each in found]
    few = num_ranks * max(each or count for each in shown)
    if few < count and not _runs_alike(pair, num_ranks, chunks, few):  # how an order goes on, few rounds show
        return False
    by_rank = ([_actions(each, rank, num_ranks, chunks, count) for each in pair] for rank in range(num_ranks))
    phases = [(each.phases, each.weights_apart) for each in found]
    return phases[0] == phases[1] and all(np.array_equal(*each) for two in by_rank for each in zip(*two, strict=True))


@functools.lru_cache(maxsize=64)  # those of the schedules of a pipeline are asked for one after another
def _actions(schedule: AnySchedule, rank: int, num_ranks: int, chunks: int, count: int) -> tuple[Ints, Ints]:
    """The actions of a rank, in order, and which of them run in pairs."""
    found = schedules.find(schedule, num_ranks)
    where = rank, num_ranks, chunks * found.num_copies, count
    return found.arrays(*where), found.pairs(*where)


_BATCH: Final = ("data_parallel", "dimensions", "micro_batch", *_PIPELINE, "schedule")
# In this order: what recomputes nothing has no n.
FORMS: Final = (
    Form(("dimensions",), ("dimensions",), _dimensions),
    Form(("context_kind", "context_group"), ("context_kind", "context_group", "context_parallel"), _context),
    Form(_ZERO, (*dict.fromkeys((*MESH, *_ZERO)),), _replicas),
    Form(("zero_stage", "reshard_after_forward"), ("zero_stage", "reshard_after_forward", "pipeline_parallel"), _parameters),
    Form(("layers_per_stage",), ("layers_per_stage", *_PIPELINE), _layers),
    Form(_AGAIN, _AGAIN, _recomputation),
    Form((*_AGAIN, "recompute_every"), (*_AGAIN, "recompute_every", "layers_per_stage", *_PIPELINE), _every),
    Form(("precision",), ("precision",), _precision),
    Form(("rank_order",), (*MESH, "rank_order"), _order),
    Form(("schedule",), _BATCH, _schedule),
)
