"""What would fit: the smallest changes of a plan that bring it into memory, and the smallest cluster on which any plan fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec.structs import replace

from parsim import schedules
from parsim.arguments import check_arguments
from parsim.errors import ParsimError, PlanError
from parsim.estimator.estimate import estimate
from parsim.estimator.result import Estimate
from parsim.parallel.legality import legal_degrees
from parsim.parallel.plan import KEYS, Plan
from parsim.parallel.plans import Plans
from parsim.parallel.stack_limits import reasons
from parsim.plain import Plain, flat
from parsim.planner.bounded import Bounded
from parsim.planner.front import on_nodes
from parsim.planner.search import plan as rank
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_DEGREES: Final = ("tensor_parallel", "pipeline_parallel", "virtual_pipeline", "micro_batch")
_CHOICES: Final[Mapping[str, tuple[object, ...]]] = {
    "sequence_parallel": (True,),
    "recompute": KEYS["recompute"].legal,
    "zero_stage": KEYS["zero_stage"].legal,
    "offload_optimizer": (True, False),
    "optimizer_in_backward": (True,),
    "optimizer": ("paged_adamw_8bit",),
}
_TIMES: Final = tuple(sorted(base << power for base in (1, 3) for power in range(8)))  # as many nodes are tried, the fewest first
_PATIENCE: Final = 3  # sizes of the cluster that may hold as much as those before
# What holds least on a cluster, so that where nothing of it fits nothing does.
_LEAST: Final[Mapping[str, object]] = {"micro_batch": 1, "recompute": "full", "virtual_pipeline": 1}


class Remedy(Plain, frozen=True):
    """A legal plan that differs from another in a few axes, and in what follows from them."""

    axes: tuple[str, ...]
    plan: Plan
    step_s: float
    peak_bytes: int
    host_peak_bytes: int
    fits: bool


class Remedies(Plain, frozen=True):
    """A plan that does not fit, and the changes of one axis that do, or of two where one is not enough.

    Of each axis, or two, it holds the fastest that fits; what is not enough alone is the value of an axis that holds least.
    """

    plan: Estimate
    changes: tuple[Remedy, ...]  # fastest first
    not_enough: tuple[Remedy, ...]  # the nearest first

    def records(self) -> list[dict[str, object]]:
        """A row a change: its axes with their values, and how much longer its step is than that of the plan."""
        rows: list[dict[str, object]] = []
        for each in (*self.changes, *self.not_enough):
            figures = {name: getattr(each, name) for name in ("step_s", "peak_bytes", "host_peak_bytes", "fits")}
            longer = {"longer": each.step_s / self.plan.step_s - 1}
            rows.append({**flat({"change": {axis: getattr(each.plan, axis) for axis in each.axes}}), **figures, **longer})
        return rows


@check_arguments
def remedies(scenario: Scenario, plan: Plan | str) -> Remedies:
    """The smallest changes of a plan that would fit; none where it fits.  Where the stack runs the plan, it runs those, too.

    Raises:
        ScenarioError: the scenario has no plan of that name.

    >>> import parsim
    >>> small = {"cluster.node.accelerator.hbm_capacity": "50 GiB"}
    >>> found = remedies(parsim.load("scenarios/table5-22b.yaml", changes=small), "full")
    >>> found.plan.fits, sorted(each.axes[0] for each in found.changes)
    (False, ['micro_batch', 'optimizer', 'optimizer_in_backward', 'sequence_parallel'])
    """
    found = estimate(scenario, plan)
    if found.fits:
        return Remedies(found, (), ())
    bounded, owners = _bound(scenario, found.plan, 1)
    fitting = _fastest(bounded, owners)
    enough = {each.axes for each in fitting}
    least: dict[tuple[str, ...], int] = {}
    for row in np.argsort(bounded.fill, kind="stable").tolist():
        if owners[row] not in enough and bounded.fill[row] < found.fill:
            least.setdefault(owners[row], row)
    not_enough = tuple(_change(bounded, row, axes) for axes, row in least.items())
    if not fitting:
        fitting = _fastest(*_bound(scenario, found.plan, 2))
    return Remedies(found, tuple(fitting), not_enough)


def _bound(scenario: Scenario, plan: Plan, num_axes: int) -> tuple[Bounded, list[tuple[str, ...]]]:
    """The plan, as it may be all there is, and the legal plans that differ in so many axes, as columns, and for each of them the axes."""
    varied = [(each, axes) for axes in combinations((*_DEGREES, *_CHOICES), num_axes) for each in _neighbours(scenario, plan, axes)]
    found: list[tuple[Plan, tuple[str, ...]]] = [(plan, ()), *varied]
    return Bounded(scenario, Plans.of([each for each, _ in found])), [axes for _, axes in found]


def _fastest(bounded: Bounded, owners: list[tuple[str, ...]]) -> list[Remedy]:
    """The fastest plan that fits for each variation of axes, fastest first."""
    rows = np.flatnonzero(bounded.fits)
    best: dict[tuple[str, ...], int] = {}
    for row in rows[np.lexsort((bounded.peaks[rows], bounded.finish(rows)))].tolist():
        best.setdefault(owners[row], row)
    return [_change(bounded, row, axes) for axes, row in best.items()]


def _change(bounded: Bounded, row: int, axes: tuple[str, ...]) -> Remedy:
    step_s = int(bounded.finish(np.array([row]))[0]) / PS_PER_S
    return Remedy(axes, bounded.plans.plan(row), step_s, int(bounded.peaks[row]), int(bounded.hosts[row]), bool(bounded.fits[row]))


def _neighbours(scenario: Scenario, plan: Plan, axes: tuple[str, ...]) -> Iterator[Plan]:
    """The legal plans that differ from a plan in all of these axes."""
    model, batch, num_devices, stack = scenario.model, scenario.batch, scenario.cluster.num_devices, scenario.stack
    runs = not reasons(plan, model, stack)
    choices = [_CHOICES.get(axis) or legal_degrees(axis, model, batch, num_devices) for axis in axes]
    for values in product(*choices):
        if any(value == getattr(plan, axis) for axis, value in zip(axes, values, strict=True)):
            continue
        other = _with_values(plan, dict(zip(axes, values, strict=True)), num_devices)
        uneven = other.num_stages != plan.num_stages and other.virtual_pipeline > 1 and model.num_layers % other.num_stages
        if any(getattr(other, axis) != value for axis, value in zip(axes, values, strict=True)) or uneven:
            continue
        if not scenario.faults(other) and not (runs and reasons(other, model, stack)):
            yield other


def _with_values(plan: Plan, changes: Mapping[str, Any], num_devices: int) -> Plan:
    """The plan with other values, and what follows from them: replicas, chunks of a pipeline, the split of its layers, the schedule."""
    other = replace(plan, **changes, data_parallel=1)
    other = replace(other, data_parallel=max(1, num_devices // other.num_devices))
    if other.pipeline_parallel == 1:
        other = replace(other, virtual_pipeline=1)
    if other.num_stages != plan.num_stages:
        other = replace(other, layers_per_stage=None)
    if other.tensor_parallel == 1:
        other = replace(other, sequence_parallel=False)
    if plan.schedule == schedules.default(plan.virtual_pipeline):
        other = replace(other, schedule=schedules.default(other.virtual_pipeline))
    return other


@check_arguments
def smallest_cluster(scenario: Scenario) -> Estimate | None:
    """The fastest plan on the fewest nodes on which any plan fits that the stack runs: 1, 2, 3, 4, 6, 8 ... times as many.

    None where more nodes hold no plan, nor less of it, where they have no fabric, or are of several kinds.
    """
    from parsim.scenario import PlanSpace

    if scenario.cluster.groups:  # nobody says of which kind further nodes would be
        return None
    fills: list[float] = []
    axes = {name: (_LEAST.get(name, "auto"),) for name in (*_DEGREES, "sequence_parallel", "recompute", "zero_stage")}
    for times in _TIMES:
        try:
            sized = replace(on_nodes(scenario, times * scenario.cluster.num_nodes), spaces={"least": PlanSpace("least", axes)})
            fills.append(float(Bounded.of(sized, runnable=True).fill.min()))
            if fills[-1] <= 1:
                return rank(replace(sized, spaces={}), top=1, contention=False).rows[0]
            if len(fills) > _PATIENCE and fills[-1] >= fills[-1 - _PATIENCE]:
                return None
        except PlanError:
            continue
        except ParsimError:
            return None  # several nodes without a fabric
    return None
