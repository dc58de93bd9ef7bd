"""On which kinds of node the stages of a pipeline lie, where a cluster has several: each stage is to lie on one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from math import prod

from msgspec.structs import replace

from parsim.cluster.cluster import DeviceRun
from parsim.parallel.dimensions import axis_of, degrees
from parsim.parallel.fault import PlanFault, comma_list, divisors
from parsim.parallel.mesh import fastest_first
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.parallel.plan import Plan

_PIPELINE = "pipeline_parallel"


def kinds_of_stages(plan: Plan, runs: Sequence[DeviceRun]) -> tuple[frozenset[int], ...]:
    """The kinds of node on which the devices of each rank of the pipeline lie.

    >>> two = DeviceRun(0, "new", 8), DeviceRun(1, "old", 8)
    >>> [sorted(each) for each in kinds_of_stages(Plan(tensor_parallel=8, pipeline_parallel=2), two)]
    [[0], [1]]
    >>> [sorted(each) for each in kinds_of_stages(Plan(data_parallel=8, pipeline_parallel=2, rank_order="pp-tp-dp"), two)]
    [[0, 1], [0, 1]]
    """
    found, order, axis = degrees(plan), fastest_first(plan.rank_order), axis_of(_PIPELINE)
    apart = prod(found[each] for each in order[: order.index(axis)])  # devices from a rank to the next
    kinds: list[set[int]] = [set() for _ in range(plan.pipeline_parallel)]
    ends = [min(end, plan.num_devices) for end in accumulate((each.num_devices for each in runs), initial=0)]
    for run, (begin, end) in zip(runs, pairwise(ends), strict=True):
        first, last = begin // apart, -(-end // apart)
        for block in range(first, min(last, first + plan.pipeline_parallel)):
            kinds[block % plan.pipeline_parallel].add(run.kind)
    return tuple(map(frozenset, kinds))


def mixed_stages(plan: Plan, runs: Sequence[DeviceRun]) -> Iterator[PlanFault]:
    """A stage whose ranks lie on nodes of several kinds: none would wait for the others, whose kernels take longer."""
    if len(runs) < 2:
        return
    if plan.offload_optimizer or OPTIMIZERS[plan.optimizer].paged:
        name = "offload_optimizer" if plan.offload_optimizer else "optimizer"
        yield PlanFault(
            name, f"{name} = {getattr(plan, name)} keeps states on hosts, which is not built for nodes of several kinds", "Leave it out"
        )
    found = kinds_of_stages(plan, runs)
    stage = next((stage for stage, kinds in enumerate(found) if len(kinds) > 1), None)
    if stage is None:
        return
    names = dict.fromkeys(f'"{each.name}"' for each in runs if each.kind in found[stage])
    here = f"stage {stage} lies on nodes of {len(found[stage])} kinds, {' and '.join(names)}"
    ordered = replace(plan, rank_order="tp-dp-pp")
    if all(len(kinds) == 1 for kinds in kinds_of_stages(ordered, runs)):
        yield PlanFault(
            "rank_order", f"rank_order = '{plan.rank_order}': {here}", "Name pp last, so that the devices of a stage lie side by side"
        )
        return
    borders = [*accumulate(each.num_devices for each in runs)]
    legal = [each for each in divisors(borders[-1]) if not any(border % (borders[-1] // each) for border in borders)]
    remedy = f"Legal {_PIPELINE}, with pp last in rank_order: {comma_list(tuple(legal))}"
    yield PlanFault(_PIPELINE, f"{_PIPELINE} = {plan.pipeline_parallel}: {here}", remedy)
