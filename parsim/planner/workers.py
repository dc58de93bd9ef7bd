"""How plans of replicas of one device each go with more of them: sums, a master, and parameter servers, under what disturbs the devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from parsim.asynchrony.bounds import cycle_of
from parsim.asynchrony.draws import DRAWN, factors_of, times_ps
from parsim.asynchrony.simulation import ServedRun, simulate_servers
from parsim.disturbance.monte_carlo import disturb_legal
from parsim.estimator.estimate import estimate_legal, stages_of
from parsim.estimator.result import Estimate
from parsim.estimator.samples import delays_of_gradients
from parsim.estimator.serving import service_in
from parsim.parallel.plan import Plan
from parsim.plain import Plain
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_MESSAGES: Final = 8_000  # of a point of a curve
_FEWEST_ROUNDS: Final = 16


class WorkersRow(Plain, frozen=True):
    """A plan with so many workers, each with as many sequences as in the scenario."""

    plan: str
    gradient_sync: str
    num_workers: int
    step_s: float  # in which as many gradients are applied as there are workers
    sequences_per_s: float
    usual_step_s: float  # where nothing disturbs
    binds: str  # what bounds servers, by mean times of the workers; of other replicas the largest part of the step undisturbed
    run: ServedRun | None  # by events, of parameter servers

    def records(self) -> list[dict[str, object]]:
        """A row, and of parameter servers what events saw."""
        names = ("plan", "gradient_sync", "num_workers", "step_s", "sequences_per_s", "usual_step_s", "binds")
        row: dict[str, object] = {name: getattr(self, name) for name in names}
        if self.run is None:
            return [row]
        seen = {name: getattr(self.run, name) for name in ("mean_staleness", "most_stale", "num_applied", "num_dropped")}
        return [{**row, **seen, **{f"{name}_busy": share for name, share in self.run.busy.items()}}]


def can_scale(plan: Plan) -> bool:
    """Whether its replicas are of one device each, and all alike."""
    return plan.data_parallel == plan.num_devices > 1 and not plan.zero_stage


def counts_of(scenario: Scenario, plan: Plan) -> list[int]:
    """From two nodes (or devices of the only one) on twice as many, up to those of the plan."""
    cluster, found = scenario.cluster, list[int]()
    count = 2 * (cluster.node.devices_per_node if cluster.num_nodes > 1 else 1)
    while count < plan.data_parallel:
        found += [count] if count > plan.backup_workers else []
        count *= 2
    return [*found, plan.data_parallel]


def rows_of(scenario: Scenario, name: str, counts: Sequence[int] = ()) -> Iterator[WorkersRow]:
    """A plan that can scale, with as many workers as stated; as `counts_of` where left out."""
    plan = scenario.plan(name)
    for count in counts or counts_of(scenario, plan):
        yield _row(_with_workers(scenario, plan, count), name, replace(plan, data_parallel=count))


def run_of(scenario: Scenario, found: Estimate) -> tuple[ServedRun, str]:
    """A run of parameter servers by events, with what disturbs the workers' devices, and what binds workers of such mean times."""
    plan = found.plan
    assert found.served is not None
    shape, devices = (plan.data_parallel, DRAWN), scenario.cluster.node.devices_per_node
    factors = factors_of(scenario.disturbance, shape, num_passes=2 * found.num_micro_batches, devices_per_node=devices)
    compute_ps, stages = found.served.compute_ps, stages_of(scenario, plan)
    times = compute_ps + delays_of_gradients(stages, factors)
    each_ps = tuple(map(round, times.mean(axis=1).tolist()))
    service = service_in(stages, plan)
    rounds = max(_FEWEST_ROUNDS, min(DRAWN, _MESSAGES // (plan.data_parallel * plan.parameter_servers)))
    run = simulate_servers(service, times_ps(times), rounds)
    return run, cycle_of(service, compute_ps, each_ps).binds


def _with_workers(scenario: Scenario, plan: Plan, count: int) -> Scenario:
    """The scenario on as many devices, each with the same part of the batch."""
    cluster, node = scenario.cluster, scenario.cluster.node
    if cluster.num_nodes > 1:
        cluster = replace(cluster, num_nodes=count // node.devices_per_node)
    else:
        cluster = replace(cluster, node=replace(node, devices_per_node=count))
    batch = replace(scenario.batch, global_batch=scenario.batch.global_batch // plan.data_parallel * count)
    return replace(scenario, cluster=cluster, batch=batch)


def _row(scenario: Scenario, name: str, plan: Plan) -> WorkersRow:
    found = estimate_legal(scenario, plan, name)
    run, step_s = None, found.step_s
    if found.served is not None:
        run, binds = run_of(scenario, found)
        step_s = run.step_ps / PS_PER_S
    else:
        binds = max(found.breakdown_s, key=lambda part: found.breakdown_s[part])
        if scenario.disturbance is not None:
            step_s = disturb_legal(scenario, plan, scenario.disturbance, name).mean_s
    return WorkersRow(
        plan=name,
        gradient_sync=plan.gradient_sync,
        num_workers=plan.data_parallel,
        step_s=step_s,
        sequences_per_s=scenario.batch.global_batch / step_s,
        usual_step_s=found.step_s,
        binds=binds,
        run=run,
    )
