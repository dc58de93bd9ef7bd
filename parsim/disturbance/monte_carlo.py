"""`disturb`: the steps of a plan by Monte Carlo, all samples at once on the estimator's recurrence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim import schedules
from parsim.arguments import check_arguments
from parsim.cluster.ports import nic_port
from parsim.cluster.scalars import Floats, Ints
from parsim.cost.factors import Factors
from parsim.disturbance.documents import Documents
from parsim.disturbance.draws import Draws, num_drawn
from parsim.disturbance.pipelines import Pipelines
from parsim.disturbance.result import Cause, Disturbed, SlowDevice
from parsim.errors import ParsimError, PlanError, ScenarioError
from parsim.estimator.estimate import stages_of
from parsim.estimator.passes import Stages
from parsim.estimator.samples import PipelineRun, sample_steps
from parsim.parallel.optimizer import LOCAL_SGD
from parsim.parallel.plan import Plan
from parsim.scenario.disturbance import Disturbance
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.cluster import Cluster
    from parsim.scenario import Scenario

MOST_DRAWS: Final = 4_000_000_000  # about a minute of them
FACTORS: Final = (1.1, 1.5)  # of the one slow device that is tried on each position
_HOW: Final = "Add a section: disturbance: {jitter: {kernels: {distribution: gamma, cv: 0.05}}}."
_NOTHING: Final = Disturbance(imbalance=False, samples=1)
_MOST_VALUES: Final = 8_000_000  # of an array of factors
# Each cause, and the part of a disturbance that it is.
CAUSES: Final[Mapping[str, tuple[str, ...]]] = {
    "jitter of kernels": ("kernels",),
    "jitter of links": ("links",),
    "stragglers": ("stragglers",),
    "slow devices": ("slow_devices", "slow_nodes"),
    "slow links": ("slow_links",),
    "imbalance": ("imbalance",),
}


class DisturbedPlan(Struct, frozen=True, eq=False):
    """A plan of which steps can be drawn."""

    scenario: Scenario
    stages: Stages
    pipelines: Pipelines
    documents: Documents | None
    usual: PipelineRun  # as it is priced
    rank: Ints  # of each action, and then of each end of a step
    slow_links: Mapping[float, PipelineRun]  # by the share of their bandwidth that NICs reach

    @classmethod
    def of(cls, scenario: Scenario, plan: Plan, disturbance: Disturbance) -> DisturbedPlan:
        """One that is legal."""
        stages = stages_of(scenario, plan)
        workload, documents = stages.workload, Documents.of(scenario.batch)
        ends = [] if documents is None else [replace(scenario, batch=each) for each in (documents.most, documents.least)]
        usual = PipelineRun.of(stages, *(stages_of(each, plan) for each in ends))
        slow_links = {}
        for share in sorted({*disturbance.slow_links.values()} - {1.0}):
            slow = [replace(each, cluster=slower(each.cluster, share)) for each in (scenario, *ends)]
            slow_links[share] = PipelineRun.of(*(stages_of(each, plan) for each in slow))
        made = schedules.columns(workload.schedule, workload.num_ranks, workload.chunks, workload.num_micro_batches)
        rank = np.concatenate([made.rank, np.arange(workload.num_ranks)])
        return cls(scenario, stages, Pipelines.of(workload, plan), documents, usual, rank, slow_links)

    def draws(self, disturbance: Disturbance) -> Draws:
        """What is drawn of it."""
        w = self.stages.workload
        count = w.num_micro_batches * w.shape.num_copies
        rows = int(w.sizes.dims["B"][0]) // self._num_replicas
        per_node = self.scenario.cluster.node.devices_per_node
        return Draws(disturbance, self.pipelines, self.documents, self.rank, count, rows, per_node)

    @property
    def _num_replicas(self) -> int:
        return self.pipelines.num_pipelines * self.pipelines.replicas

    def run_of(self, disturbance: Disturbance, pipeline: int) -> PipelineRun:
        """What one of its pipelines runs: ranks with a device on a node whose NICs are slow have the prices of these."""
        found, nodes = self.usual, self.pipelines.devices[pipeline] // self.scenario.cluster.node.devices_per_node
        for share, own in sorted(self.slow_links.items(), reverse=True):  # of two the slower counts
            there = [node for node, reached in disturbance.slow_links.items() if reached == share]
            ranks = np.asarray(np.isin(nodes, there).any(axis=1))
            if ranks.any():
                found = found.priced_by(own, ranks)
        return found

    def steps_ps(self, disturbance: Disturbance) -> Ints:
        """Picoseconds of each step that is drawn."""
        draws, found, first = self.draws(disturbance), [], 0
        values = max(len(self.rank), draws.num_micro_batches * draws.micro_batch if self.documents else 0)
        size = max(1, _MOST_VALUES // values)
        runs = [self.run_of(disturbance, pipeline) for pipeline in range(self.pipelines.num_pipelines)]
        for part, first in enumerate(range(0, disturbance.samples, size)):
            count = min(size, disturbance.samples - first)
            each = ((own, draws.factors(pipeline, part, count)) for pipeline, own in enumerate(runs))
            found.append(sample_steps(each, self.pipelines.meetings))
        return np.concatenate(found)

    def slow_device_ps(self, factors: Sequence[float]) -> Ints:
        """Picoseconds of the step where one device of a pipeline rank is so slow, [rank, factor]."""
        num_ranks = self.stages.workload.num_ranks
        place, factor = (each.ravel() for each in np.meshgrid(np.arange(num_ranks), factors, indexing="ij"))
        kernels: Floats = np.where(self.rank[:, None] == place, factor, 1.0)
        parts = [(self.usual, Factors(len(place), kernels))]
        if self.pipelines.num_pipelines > 1:  # all others are as they are estimated: one stands for them
            parts.append((self.usual, Factors(len(place), np.ones((len(kernels), 1)))))
        return sample_steps(parts, lambda group: self.pipelines.meetings(group)[: len(parts)]).reshape(num_ranks, -1)


@check_arguments
def disturb(scenario: Scenario, plan: Plan | str, disturbance: Disturbance | None = None) -> Disturbed:
    """The steps of a plan under what disturbs them, drawn from the seed of the disturbance.

    Args:
        scenario: where it runs.
        plan: one of its plans, or another.
        disturbance: None: that of the scenario.

    Raises:
        ScenarioError: the scenario has no plan of that name, or nothing is said of what disturbs it.
        PlanError: the plan is not legal there, or more is to be drawn than in minutes.
        ParsimError: the disturbance is none that a file can say.

    >>> import parsim
    >>> from parsim.scenario import Disturbance, Jitter
    >>> scenario = parsim.load("scenarios/table5-22b.yaml")
    >>> found = disturb(scenario, "full", Disturbance(Jitter("gamma", 0.1), samples=100))
    >>> found.step_s == parsim.estimate(scenario, "full").step_s < found.mean_s < found.p99_s
    True
    """
    chosen, own = scenario.legal_plan(plan), disturbance or scenario.disturbance
    if own is None:
        raise ScenarioError("nothing disturbs a step", scenario.path, _HOW)
    if own is disturbance and (wrong := replace(scenario, disturbance=own).misfits()):
        raise ParsimError("\n".join(wrong), "disturb")
    return disturb_legal(scenario, chosen, own, plan if isinstance(plan, str) else "plan")


def disturb_legal(scenario: Scenario, plan: Plan, disturbance: Disturbance, name: str, *, apart: bool = True) -> Disturbed:
    """The same of a plan that is known to be legal; `apart`: whether each cause is drawn by itself, too, and one slow device tried."""
    made = _made_of(scenario, plan, disturbance, name)
    steps = made.steps_ps(disturbance)
    undisturbed = made.steps_ps(_NOTHING)
    causes = [*_causes(disturbance, made)] if apart else []
    alone = {cause: made.steps_ps(each) if len(causes) > 1 else steps for cause, each in causes}
    slow = made.slow_device_ps(FACTORS).tolist() if apart else []
    half, most, all_but_one = np.quantile(steps, [0.5, 0.9, 0.99], method="inverted_cdf").tolist()
    return Disturbed(
        name=name,
        step_s=int(undisturbed[0]) / PS_PER_S,
        mean_s=_mean_s(steps),
        p50_s=half / PS_PER_S,
        p90_s=most / PS_PER_S,
        p99_s=all_but_one / PS_PER_S,
        steps_s=tuple((steps / PS_PER_S).tolist()),
        causes=tuple(
            Cause(cause, _mean_s(each), float(np.quantile(each, 0.99, method="inverted_cdf")) / PS_PER_S) for cause, each in alone.items()
        ),
        slow_devices=tuple(
            SlowDevice(rank, factor, ps / PS_PER_S) for rank, row in enumerate(slow) for factor, ps in zip(FACTORS, row, strict=True)
        ),
    )


def draw_steps(scenario: Scenario, plan: Plan, disturbance: Disturbance, name: str) -> list[int]:
    """Picoseconds of the step of a legal plan where nothing disturbs it, and behind it of each that is drawn."""
    made = _made_of(scenario, plan, disturbance, name)
    return [*made.steps_ps(_NOTHING).tolist(), *made.steps_ps(disturbance).tolist()]


def _made_of(scenario: Scenario, plan: Plan, disturbance: Disturbance, name: str) -> DisturbedPlan:
    if plan.is_served:
        raise PlanError("steps of parameter servers have no end to draw", f"plans.{name}", "parsim run plays their events.")
    if plan.gradient_sync == LOCAL_SGD:
        said = "steps of replicas that train apart, which wait for one another once a period, are not drawn"
        raise PlanError(said, f"plans.{name}", "Set gradient_sync = all_reduce, or leave disturbance out.")
    if disturbance.slow_links and scenario.cluster.groups:
        said = "disturbance.slow_links on a cluster of several kinds of nodes is not built"
        raise ScenarioError(said, scenario.path, "Leave them out, or give equal nodes.")
    made = DisturbedPlan.of(scenario.trained_by(plan), plan, disturbance)
    if (drawn := num_drawn(disturbance, made.pipelines, len(made.rank))) > MOST_DRAWS:
        raise PlanError(
            f"{drawn:,} factors would be drawn, above the {MOST_DRAWS:,} that take a minute", f"plans.{name}", "Lower disturbance.samples."
        )
    return made


def _causes(disturbance: Disturbance, made: DisturbedPlan) -> Iterator[tuple[str, Disturbance]]:
    """Each cause that there is, by itself."""
    nothing = Disturbance(imbalance=False, samples=disturbance.samples, seed=disturbance.seed)
    for cause, names in CAUSES.items():
        alone = replace(nothing, **{name: getattr(disturbance, name) for name in names})
        if alone != nothing and (cause != "imbalance" or made.documents is not None):
            yield cause, alone


def _mean_s(steps: Ints) -> float:
    return float(steps.mean()) / PS_PER_S


def slower(cluster: Cluster, share: float) -> Cluster:
    """The cluster whose NICs reach a share of their bandwidth: a ring, and all else that crosses nodes, goes as fast as the slowest."""
    if cluster.fabric is None:
        return cluster
    port = nic_port(cluster.node, cluster.fabric)
    nic = replace(port, bandwidth_bytes_per_s=port.bandwidth_bytes_per_s * share)
    return replace(cluster, fabric=replace(cluster.fabric, nic=nic))
