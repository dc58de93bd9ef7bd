"""How goodput goes with the interval between checkpoints, and with the number of devices: what the figure draws."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.errors import PlanError
from parsim.estimator.estimate import estimate_legal
from parsim.estimator.result import Estimate
from parsim.goodput.long_run import in_a_run
from parsim.goodput.outage import Lived, shares_of_time
from parsim.goodput.predict import Goodput, goodput_of, most_work_s, outage_of, work_of
from parsim.parallel.legality import faults_of

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_POINTS: Final = 81  # of a curve
_DECADES: Final = 1.25  # about the optimum, each way
_LIVED: Final = 0.75 * np.linspace(-1, 1, 7)  # decades about it where runs are simulated: shorter intervals are many events


class AtInterval(Struct, frozen=True):
    """A run with an interval between its checkpoints."""

    interval_s: float
    shares: dict[str, float]  # of the time: goodput and losses


def by_interval(scenario: Scenario, estimate: Estimate, middle_s: float) -> list[AtInterval]:
    """The shares of the time with intervals about `middle_s`, even in their logarithm, and no shorter than a step."""
    outage = outage_of(scenario, estimate)
    every = middle_s * np.logspace(-_DECADES, _DECADES, _POINTS)
    return [AtInterval(each, shares_of_time(replace(outage, interval_s=each))) for each in every.tolist() if each >= estimate.step_s]


def lived_by_interval(scenario: Scenario, estimate: Estimate, middle_s: float) -> list[tuple[float, Lived]]:
    """Runs by events with a few of these intervals, all of one seed: as long as some hundred failures, so that chance does not hide the
    optimum.
    """
    from parsim.goodput.events import live  # simpy is behind it

    outage, work_s = outage_of(scenario, estimate), work_of(replace(scenario, total_tokens=None), estimate)
    every = [replace(outage, interval_s=each) for each in (middle_s * 10**_LIVED).tolist() if each >= estimate.step_s]
    ended = ((each, min(work_s, most_work_s(each))) for each in every)
    return [(each.interval_s, live(each, own_s, scenario.seed)) for each, own_s in ended if own_s]


def by_devices(scenario: Scenario, estimate: Estimate) -> list[tuple[int, Goodput]]:
    """The goodput with ever fewer replicas, and ever more, of the same plan: each has its sequences, and its share of the nodes.

    The cluster grows with them, what stands for the whole of it does not: storage, software, spare nodes.
    """
    plan, cluster, found = estimate.plan, scenario.cluster, []
    a_replica = plan.num_devices // plan.data_parallel
    counts = {plan.data_parallel << up for up in range(4)} | {plan.data_parallel >> down for down in range(1, 8)}
    for count in sorted(counts - {0}):
        nodes, rest = divmod(a_replica * count, cluster.node.devices_per_node)
        batch = replace(scenario.batch, global_batch=scenario.batch.global_batch * count // plan.data_parallel)
        own = replace(scenario, cluster=replace(cluster, num_nodes=nodes), batch=batch) if nodes else scenario
        scaled = replace(plan, data_parallel=count)
        if rest or not nodes or nodes % cluster.num_sites or scenario.batch.global_batch * count % plan.data_parallel:
            continue
        if not faults_of(scaled, own.facts):
            with suppress(PlanError):  # of many more devices more may be to be drawn than in minutes
                smaller = in_a_run(own, estimate_legal(own, scaled, estimate.name))
                found.append((scaled.num_devices, goodput_of(own, smaller)))
    return found
