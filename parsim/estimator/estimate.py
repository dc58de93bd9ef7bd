"""`estimate` for one plan with its reasons, `estimates` for arrays of plans: the same fold, the same arithmetic."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from parsim.arguments import check_arguments
from parsim.cluster.scalars import Floats, distinct
from parsim.confidence import setting_of, spread_of
from parsim.confidence.runs import HELD, STEP
from parsim.cost.cost_model import CostModel
from parsim.cost.sizes import Ints
from parsim.cost.workloads import Workloads
from parsim.estimator.busy import rank_busy_ps
from parsim.estimator.host import host_memory, host_peak_bytes
from parsim.estimator.lists import Measures
from parsim.estimator.memory import fullest_bytes, rank_memory
from parsim.estimator.passes import Stages
from parsim.estimator.pipeline import StepEnds, Timeline, steps_of, timeline
from parsim.estimator.result import Estimate, Estimates, fullest
from parsim.estimator.serving import served_in, service_in, with_servers
from parsim.estimator.totals import EveryRank, PassCounts, device_totals, mean_again_flops, worst_totals
from parsim.estimator.useful import StepFlops, step_flops
from parsim.parallel.legality import RULES, VALUES, type_faults
from parsim.parallel.plan import Plan
from parsim.parallel.plans import Plans
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import Scenario

OnProgress = Callable[[float], None] | None  # is told the share that is done


class Priced:
    """Plans as columns, with what is known of their stages: each list of tasks is measured once for all."""

    def __init__(self, scenario: Scenario, plans: Plans) -> None:
        self.scenario, self.plans = scenario, plans
        self.served = np.flatnonzero(plans.numbers(("gradient_sync",), lambda plan: plan.is_served))
        self._ends = dict[int, StepEnds]()  # of plans that are to be explained
        found, self.part = plans.each(("precision",), scenario.trained_by)
        rows = [np.flatnonzero(self.part == index) for index in range(len(found))]
        self.parts = [_OfPrecision(each, plans.take(own) if len(found) > 1 else plans, own) for each, own in zip(found, rows, strict=True)]

    def of(self, rows: Ints | None = None) -> Iterator[tuple[_OfPrecision, Ints]]:
        """The precisions of some plans, each with the places of its own among them."""
        part = self.part if rows is None else self.part[rows]
        return ((self.parts[index], np.flatnonzero(part == index)) for index in distinct(part).tolist())

    def stages(self, rows: Ints | None = None) -> Iterator[tuple[Stages, Ints]]:
        """The stages of some plans, those of a Step together, each with the indices of its plans."""
        for part, places in self.of(rows):
            yield from part.stages(places if rows is None else rows[places])

    def alone(self, index: int) -> Stages:
        """The stages of one plan."""
        ((stages, _),) = self.stages(np.array([index]))
        return stages

    def explain(self, rows: Ints, names: Sequence[str]) -> list[Estimate]:
        """Some plans under these names, each with its reasons."""
        found = dict[int, Estimate]()
        for part, places in self.of(rows):
            own = [names[place] for place in places.tolist()]
            found |= zip(places.tolist(), part.explain(rows[places], own, self._ends), strict=True)
        return [found[place] for place in range(len(rows))]

    def figures(self, *folds: Callable[[Stages], Ints], rows: Ints | None = None, progress: OnProgress = None) -> Ints:
        """What each fold finds for each of some plans, [fold, plan]; `progress` is told the share that is done."""
        found, done = np.zeros((len(folds), self.plans.num_plans), dtype=np.int64), 0
        for stages, own in self.stages(rows):
            found[:, own] = [fold(stages) for fold in folds]
            done += len(own)
            if progress:
                progress(done / (self.plans.num_plans if rows is None else len(rows)))
        return found if rows is None else found[:, rows]

    def sizes(self, rows: Ints | None = None, progress: OnProgress = None) -> Ints:
        """Peaks of the fullest devices of some plans, what these hold, and what the fullest hosts are to hold, [3, plan]."""
        once = functools.lru_cache(maxsize=1)(fullest_bytes)
        found = self.figures(lambda each: once(each)[0], lambda each: once(each)[1], host_peak_bytes, rows=rows, progress=progress)
        for place, row in self._served_of(rows):
            found[2, place] = sum(service_in(self.alone(row), self.plans[row]).server_bytes.values())
        return found

    def steps(self, rows: Ints | None = None, *, explained: bool = False) -> Ints:
        """Exact picoseconds of the steps of some plans, whatever their structures; `explained`: whether they may be, soon."""
        steps = self.plans.columns.get("local_steps", np.ones(self.plans.num_plans, dtype=np.int64))
        parts, found = [*self.stages(rows)], np.zeros(self.plans.num_plans, dtype=np.int64)
        if any(stages.workload.step.quiet for stages, _ in parts):
            found = found.astype(np.float64)
        for place, plans, ends in steps_of([stages for stages, _ in parts], watch=explained):
            own = parts[place][1][plans]
            found[own] = ends.mean_ps(steps[own])
            self._ends |= {row: ends.of_plan(index) for index, row in enumerate(own.tolist() if explained else ())}
        for _, row in self._served_of(rows):
            found[row] = served_in(self.alone(row), self.plans[row], int(found[row])).step_ps
        return found if rows is None else found[rows]

    def _served_of(self, rows: Ints | None) -> Iterator[tuple[int, int]]:
        """Those of some plans whose weights servers hold: where each stands among these, and among all."""
        asked = np.arange(self.plans.num_plans) if rows is None else rows
        return ((place, int(asked[place])) for place in np.flatnonzero(np.isin(asked, self.served)).tolist())


class _OfPrecision:
    """Plans of one precision, and the indices that they have among all."""

    def __init__(self, scenario: Scenario, plans: Plans, rows: Ints) -> None:
        model = CostModel(scenario.cluster, scenario.stack, scenario.batch)
        self.scenario, self.rows = scenario, rows
        self.workloads = Workloads(scenario.model, model, plans, scenario.itemsize_bytes)
        self.measures = {each: Measures(each) for each in self.workloads.prices}

    def stages(self, rows: Ints) -> Iterator[tuple[Stages, Ints]]:
        """The stages of some of them, by their indices among all."""
        for workload, own in self.workloads.of(np.searchsorted(self.rows, rows)):
            yield Stages.of(workload, self.measures[workload.prices]), self.rows[own]

    def explain(self, rows: Ints, names: Sequence[str], ends: Mapping[int, StepEnds]) -> list[Estimate]:
        """Some of them, by their indices among all, under these names; `ends`: those that are known."""
        own = np.searchsorted(self.rows, rows)
        group, row = self.workloads.group[own], self.workloads.row[own]
        counts = {each: PassCounts(self.workloads.prices[each], row[group == each]) for each in {*group.tolist()}}
        useful, found = step_flops(self.scenario), dict[int, Estimate]()
        for place in self.workloads.by_schedule(own).tolist():  # so that what schedules are made of is asked for while it is known
            ((stages, _),) = self.stages(rows[[place]])
            plan = self.workloads.plans.plan(int(own[place]))
            line = timeline(stages, ends.get(int(rows[place])), plan.local_steps)
            found[place] = _estimate_of(self.scenario, plan, stages, names[place], line, counts[group[place]], useful)
        return [found[place] for place in range(len(rows))]


def stages_of(scenario: Scenario, plan: Plan) -> Stages:
    """The stages of one plan, as arrays of length 1."""
    return Priced(scenario, Plans.of([plan])).alone(0)


@check_arguments
def estimate(scenario: Scenario, plan: Plan | str) -> Estimate:
    """The predicted step time, memory and their reasons of one plan.

    Raises:
        ScenarioError: the scenario has no plan of that name.
        PlanError: the plan is not legal there; the error says all that is wrong.

    >>> import parsim
    >>> full, sequence = (parsim.estimate(parsim.load("scenarios/table5-22b.yaml"), name) for name in ("full", "seqsel"))
    >>> sequence.step_s < full.step_s, full.fits, sequence.shortage
    (True, True, None)
    """
    return estimate_legal(scenario, scenario.legal_plan(plan), plan if isinstance(plan, str) else "plan")


def estimate_legal(scenario: Scenario, plan: Plan, name: str = "plan") -> Estimate:
    """The same of a plan that is known to be legal."""
    return estimate_each(scenario, {name: plan})[0]


def estimate_each(scenario: Scenario, plans: Mapping[str, Plan]) -> list[Estimate]:
    """The same of several by name: what they share is priced once."""
    return Priced(scenario, Plans.of([*plans.values()])).explain(np.arange(len(plans)), [*plans])


def _estimate_of(
    scenario: Scenario, chosen: Plan, stages: Stages, name: str, line: Timeline, counts: PassCounts, useful: StepFlops
) -> Estimate:
    step_s = line.step_s
    every = EveryRank.of(stages)
    totals = worst_totals(stages, every) if every else device_totals(stages, counts=counts)
    again = every.mean_again_flops() if every else mean_again_flops(stages, totals)
    tokens = scenario.batch.num_tokens
    multiplied_in = scenario.batch.measured_against(scenario.model)
    peak = scenario.cluster.mean(lambda node: node.accelerator.peak(multiplied_in)) * chosen.num_devices * step_s
    memory, holds = rank_memory(stages).of_plan(0), [each.node.accelerator.hbm_capacity_bytes for each in scenario.cluster.kinds]
    capacities = tuple(holds[node] for node in stages.workload.shape.nodes.tolist())
    found = Estimate(
        name=name,
        plan=chosen,
        step_s=step_s,
        tokens_per_s=tokens / step_s,
        tokens_per_s_per_device=tokens / step_s / chosen.num_devices,
        mfu=useful.counted / peak,
        mfu_causal=useful.causal / peak,
        hfu=(useful.computed + int(again * chosen.num_devices)) / peak,
        breakdown_s={key: ps / line.num_steps / PS_PER_S for key, ps in line.charges.items()},
        critical_rank=line.critical_rank,
        memory_bytes=memory,
        capacity_bytes=capacities[fullest([sum(parts.values()) for parts in memory], capacities)],
        capacities_bytes=capacities if len(holds) > 1 else (),
        host_memory_bytes=host_memory(stages).of_plan(0) if stages.workload.step.structure.uses_host else {},
        host_capacity_bytes=scenario.cluster.host_memory_bytes,
        flops=tuple(each.flops for each in totals),
        hbm_bytes=tuple(each.hbm_bytes for each in totals),
        sent_bytes=tuple(each.sent_bytes for each in totals),
        busy_s=tuple((rank_busy_ps(stages)[:, 0] / PS_PER_S).tolist()),
        layers=stages.workload.layers[: stages.workload.shape.stages_a_copy],
        num_micro_batches=stages.workload.num_micro_batches,
        precision=scenario.batch.dtype,
    )
    if chosen.is_served:
        found = with_servers(found, served_in(stages, chosen, line.step_ps))
    return _with_intervals(found, scenario)


def _with_intervals(found: Estimate, scenario: Scenario) -> Estimate:
    """The same, with what comparable measured runs say of how sure it is."""
    setting = setting_of(scenario, found.plan)
    step, held = spread_of(STEP, setting), spread_of(HELD, setting)
    low, high = held.around(found.peak_bytes)
    fits = held.below(math.log(found.capacity_bytes / found.peak_bytes)) if found.host_fits else 0.0
    return replace(found, step_interval_s=step.around(found.step_s), peak_interval_bytes=(int(low), math.ceil(high)), fit_probability=fits)


@check_arguments
def estimates(scenario: Scenario, plans: Sequence[Plan] | Plans) -> Estimates:
    """Step time and peak memory of many plans, listed or as columns; each equals `estimate` of that plan alone.

    Raises:
        PlanError: a plan is not legal there; the error says all that is wrong with the first such.
    """
    priced = Priced(scenario, _legal(scenario, plans))
    return estimates_of(priced, np.arange(len(priced.plans)), priced.steps() / PS_PER_S, priced.sizes())


def estimates_of(priced: Priced, rows: Ints, steps: Floats, sizes: Ints) -> Estimates:
    """Some of the plans with these steps and their `sizes`."""
    (peaks, holds, hosts), cluster = sizes[:, rows], priced.scenario.cluster
    smallest = min(each.node.accelerator.hbm_capacity_bytes for each in cluster.kinds)
    plans = priced.plans.take(rows)
    return Estimates(plans, steps, peaks, smallest, hosts, cluster.host_memory_bytes, holds if cluster.groups else None)


def _legal(scenario: Scenario, plans: Sequence[Plan] | Plans) -> Plans:
    """The plans as columns; a rule is asked once for each combination of what it reads, all of them only of a plan that one finds wrong."""
    for index, plan in enumerate(() if isinstance(plans, Plans) else plans):
        if type_faults(plan):
            scenario.legal_plan(plan, f"plans[{index}]")
    columns, facts = plans if isinstance(plans, Plans) else Plans.of(plans), scenario.facts
    for rule in (*VALUES, *RULES):
        first, _ = columns.distinct(rule.reads)
        wrong, _ = columns.each(rule.reads, lambda plan, rule=rule: any(True for _ in rule.faults(plan, facts)))  # type: ignore[misc]
        for index in first[wrong].tolist():
            scenario.legal_plan(columns.plan(index), f"plans[{index}]")
    return columns
