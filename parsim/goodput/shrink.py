"""How fast a run goes on with fewer replicas, where nodes are missing and no spare is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from parsim.estimator.estimate import estimate_legal
from parsim.estimator.result import Estimate
from parsim.goodput.long_run import as_planned, in_a_run
from parsim.goodput.outage import SpeedLevel
from parsim.parallel.legality import faults_of
from parsim.parallel.plan import Plan

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_MOST: Final = 64  # nodes too few: beyond it the run waits


def levels_of(scenario: Scenario, estimate: Estimate) -> tuple[SpeedLevel, ...]:
    """The run with 1, 2 ... nodes too few, until no replica is left: as many as the other nodes have room for, and the plan allows.

    Each replica keeps its sequences, so that a step trains on fewer; how long it takes, the estimator says, with what it waits for input.
    What disturbs steps is taken to do so alike whatever their number.
    """
    scenario = as_planned(scenario)
    plan, batch, cluster = estimate.plan, scenario.batch, scenario.cluster
    a_replica = plan.num_devices // plan.data_parallel
    have = [cluster.num_nodes - missing for missing in range(1, min(cluster.num_nodes, _MOST + 1))]
    of_levels = [_legal_replicas(scenario, plan, nodes * cluster.node.devices_per_node // a_replica) for nodes in have]
    shrunk = {count: replace(plan, data_parallel=count) for count in dict.fromkeys(of_levels) if 0 < count < plan.data_parallel}
    speeds = {plan.data_parallel: 1.0}
    whole = in_a_run(scenario, estimate_legal(scenario, plan)) if shrunk else estimate
    for count, smaller in shrunk.items():
        own = replace(scenario, batch=replace(batch, global_batch=batch.global_batch * count // plan.data_parallel))
        found = in_a_run(own, estimate_legal(own, smaller))
        speeds[count] = found.tokens_per_s / whole.tokens_per_s
    found_levels = [SpeedLevel(speeds[count], count / plan.data_parallel) for count in of_levels if count]
    return tuple(found_levels)


def _legal_replicas(scenario: Scenario, plan: Plan, most: int) -> int:
    """The most replicas, no more than so many, with which the plan is legal; 0 where none is."""
    for count in range(min(most, plan.data_parallel), 0, -1):
        if not scenario.batch.global_batch * count % plan.data_parallel:
            batch = replace(scenario.batch, global_batch=scenario.batch.global_batch * count // plan.data_parallel)
            facts = replace(scenario.facts, batch=batch, num_devices=None)
            if not faults_of(replace(plan, data_parallel=count), facts):
                return count
    return 0
