"""Goodput of a plan: its checkpoint, what that and failures cost, and the time of the whole training with both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.arguments import check_arguments
from parsim.cluster.scalars import Floats, Scalar
from parsim.errors import PlanError
from parsim.estimator.estimate import estimate_legal, stages_of
from parsim.estimator.result import Estimate
from parsim.estimator.whole import num_steps
from parsim.goodput.long_run import LEAST_KEPT, in_a_run, whole_of_run
from parsim.goodput.outage import Lived, Outage, shares_of_time
from parsim.goodput.renewal import Cycle, daly_s, optimum_s, young_s
from parsim.goodput.shrink import levels_of
from parsim.goodput.size import CheckpointBytes, checkpoint_bytes
from parsim.parallel.plan import Plan
from parsim.plain import Plain

if TYPE_CHECKING:
    from parsim.scenario import Scenario
    from parsim.scenario.reliability import Checkpoint

_LEAST: Final = 0.01  # share of the time that a run which is simulated keeps
_EVENTS: Final = 4  # of an interval, or of a failure, about
_MOST_EVENTS: Final = 300_000  # of a run, about a second
_MANY: Final = 400  # failures that a simulated run goes through where nobody says how long it is


class Times(Struct, frozen=True):
    """Seconds that checkpoints take, each by plan."""

    write_s: Scalar
    read_s: Scalar
    copy_s: Scalar  # from devices to their hosts
    cycle: Cycle


class Goodput(Plain, frozen=True):
    """What a run keeps of its time, where the rest goes, and what that follows from; None: nobody states what it needs."""

    name: str  # of the plan
    goodput: float  # share of the time in which steps are done that count
    losses: Mapping[str, float]  # shares of the time
    tokens_per_s: float  # that count
    step_s: float
    failures_per_s: Mapping[str, float]  # by what fails
    checkpoint_bytes: int
    read_bytes: int  # by a restart
    device_bytes: int  # of the device that writes most
    node_bytes: int  # of the node that does
    kept_bytes: int  # in storage
    room_bytes: int | None  # there
    write_s: float
    read_s: float
    copy_s: float
    stall_s: float  # that steps wait for a checkpoint
    restart_s: float  # detection, restart, reading
    interval_s: float  # of work between two checkpoints
    optimum_s: float | None  # the same where it loses least, exactly; None: nothing fails
    daly_s: float | None
    young_s: float | None
    time_s: float | None = None  # of the whole training, with all that is lost; None: its tokens are not stated, or it never ends
    device_hours: float | None = None
    cost_usd: float | None = None

    @property
    def mtbf_s(self) -> float | None:
        """Mean time between failures of the run; None where nothing fails."""
        rate = sum(self.failures_per_s.values())
        return 1 / rate if rate else None

    @property
    def never_ends(self) -> bool:
        """Whether so little of the time is kept that a run gets nowhere."""
        return self.goodput < LEAST_KEPT

    def records(self) -> list[dict[str, object]]:
        """One row: mappings as columns of their own."""
        document = self.to_dict()
        losses = {f"lost_{name}": share for name, share in document.pop("losses").items()}
        rates = {f"{name}_failures_per_s": rate for name, rate in document.pop("failures_per_s").items()}
        return [{**document, **losses, **rates}]


def checkpoint_of(scenario: Scenario) -> Checkpoint:
    """What the scenario says of checkpoints.

    Raises:
        PlanError: nothing.
    """
    if scenario.checkpoint is None:
        remedy = "Say e.g. checkpoint: {interval: optimum}, storage: tectonic-llama3 and failures: {rates: llama3-h100, restart: 5 min}."
        raise PlanError("nobody says what is kept against failures", scenario.path, remedy)
    return scenario.checkpoint


def times_of(scenario: Scenario, size: CheckpointBytes) -> Times:
    """What the checkpoints of plans take: as measured, or by the bandwidth of storage, in all and of the busiest node.

    A restart reads each byte once, however many replicas need it.
    """
    checkpoint, failures, storage, cluster = checkpoint_of(scenario), scenario.failures, scenario.storage, scenario.cluster
    write_s: Scalar | None = checkpoint.write_s
    read_s: Scalar | None = checkpoint.read_s
    if storage is not None and write_s is None:
        shared, busiest = size.total / storage.write_rate(cluster.num_nodes), size.busiest_node / storage.write_rate(1)
        write_s = storage.latency_s + np.maximum(shared, busiest)
    if storage is not None and read_s is None:
        read_s = storage.latency_s + size.read / storage.read_rate(cluster.num_nodes)
    if write_s is None or read_s is None:
        raise PlanError("nobody says how long a checkpoint takes", scenario.path, "Give storage, or checkpoint.write_time and read_time.")
    link = cluster.node.host_link
    copy_s = link.latency_s + size.copied / link.bandwidth_bytes_per_s
    stall_s, hidden_s = (copy_s, write_s) if checkpoint.asynchronous else (write_s, 0.0)
    restart_s = (failures.detection_s + failures.restart_s if failures else 0.0) + read_s
    rate = sum(failures.rates.by_cause(size.num_devices, cluster.num_nodes).values()) if failures else 0.0
    return Times(write_s, read_s, copy_s, Cycle(stall_s, hidden_s, restart_s, rate))


def interval_of(checkpoint: Checkpoint, cycle: Cycle, step_s: Scalar) -> Floats:
    """The work between two checkpoints: a whole step at least."""
    if checkpoint.interval_steps is not None:
        return np.asarray(checkpoint.interval_steps * step_s)
    return np.maximum(step_s, optimum_s(cycle) if checkpoint.interval_s is None else checkpoint.interval_s)


@check_arguments
def predict_goodput(scenario: Scenario, plan: Plan | str) -> Goodput:
    """What a plan keeps of its time beside failures and checkpoints, on average.

    Raises:
        ScenarioError: the scenario has no plan of that name.
        PlanError: the plan is not legal there, or the scenario says nothing of checkpoints.

    >>> import parsim
    >>> found = predict_goodput(parsim.load("scenarios/llama3-405b-goodput.yaml"), "llama3")
    >>> found.goodput > 0.9, max(found.losses, key=found.losses.get)
    (True, 'restart')
    """
    chosen = scenario.legal_plan(plan)
    found = estimate_legal(scenario, chosen, plan if isinstance(plan, str) else "plan")
    return goodput_of(scenario, in_a_run(scenario, found))


@check_arguments
def simulate_goodput(scenario: Scenario, plan: Plan | str, *, seeds: int = 8) -> tuple[Lived, ...]:
    """Runs of the whole training under a plan by events, from the scenario's seed and those behind it.

    Raises:
        ScenarioError: the scenario has no plan of that name.
        PlanError: the plan is not legal there, or the scenario says nothing of checkpoints or failures.
    """
    chosen = scenario.legal_plan(plan)
    return lives_of(scenario, in_a_run(scenario, estimate_legal(scenario, chosen)), seeds)


def goodput_of(scenario: Scenario, estimate: Estimate) -> Goodput:
    """The same of a plan that is estimated, `in_a_run` as all below."""
    size, times, outage = _parts(scenario, estimate)
    shares, cycle = shares_of_time(outage), times.cycle
    rate, failures = float(cycle.failures_per_s), scenario.failures
    cluster, whole = scenario.cluster, whole_of_run(scenario, estimate, shares["goodput"])
    checkpoint = checkpoint_of(scenario)
    total = int(size.total[0])
    return Goodput(
        name=estimate.name,
        goodput=shares["goodput"],
        losses={name: share for name, share in shares.items() if name != "goodput"},
        tokens_per_s=shares["goodput"] * estimate.tokens_per_s,
        step_s=estimate.step_s,
        failures_per_s=failures.rates.by_cause(estimate.plan.num_devices, cluster.num_nodes) if failures else {},
        checkpoint_bytes=total,
        read_bytes=int(size.read[0]),
        device_bytes=int(size.busiest_device[0]),
        node_bytes=int(size.busiest_node[0]),
        kept_bytes=checkpoint.keep * total,
        room_bytes=scenario.storage.room_bytes(cluster.num_nodes) if scenario.storage else None,
        write_s=_one(times.write_s),
        read_s=_one(times.read_s),
        copy_s=_one(times.copy_s),
        stall_s=_one(cycle.stall_s),
        restart_s=_one(cycle.restart_s),
        interval_s=outage.interval_s,
        optimum_s=_one(optimum_s(cycle)) if rate else None,
        daly_s=_one(daly_s(cycle.stall_s, rate)) if rate else None,
        young_s=_one(young_s(cycle.stall_s, rate)) if rate else None,
        time_s=whole.time_s if whole else None,
        device_hours=whole.device_hours if whole else None,
        cost_usd=whole.cost_usd if whole else None,
    )


def lives_of(scenario: Scenario, estimate: Estimate, seeds: int) -> tuple[Lived, ...]:
    """Runs of a plan by events, as long as `work_of` says."""
    from parsim.goodput.events import live  # simpy is behind it

    work_s, outage = work_of(scenario, estimate), outage_of(scenario, estimate)
    return tuple(live(outage, work_s, scenario.seed + number) for number in range(seeds))


def work_of(scenario: Scenario, estimate: Estimate) -> float:
    """Seconds of steps that a simulated run does: of the whole training, or as many as some hundred failures apart where its tokens are
    not stated; fewer where that were too many events.

    Raises:
        PlanError: nothing fails, or so much that a run would hardly end.
    """
    outage = outage_of(scenario, estimate)
    rate, share = float(outage.cycle.failures_per_s), shares_of_time(outage)["goodput"]
    if not rate:
        remedy = "Give failures, e.g. failures: {rates: llama3-h100, restart: 5 min}."
        raise PlanError("nothing fails in the scenario", scenario.path, remedy)
    if share < _LEAST:
        said = f"a run keeps {100 * share:.2g} % of its time, and would hardly end"
        raise PlanError(said, scenario.path, "Without --backend simulate its goodput is told.")
    work_s = num_steps(scenario) * estimate.step_s if scenario.total_tokens else _MANY / rate
    return min(work_s, most_work_s(outage))


def most_work_s(outage: Outage) -> float:
    """Seconds of steps that are as many events as a run may have; 0 where so little of the time is kept that a run would hardly end."""
    share = shares_of_time(outage)["goodput"]
    of_an_interval = _EVENTS * (1 + outage.interval_s * float(outage.cycle.failures_per_s)) / max(share, _LEAST)  # with what is done again
    return 0.0 if share < _LEAST else max(1.0, _MOST_EVENTS / of_an_interval) * outage.interval_s


def outage_of(scenario: Scenario, estimate: Estimate) -> Outage:
    """What interrupts the run of a plan."""
    return _parts(scenario, estimate)[2]


def _parts(scenario: Scenario, estimate: Estimate) -> tuple[CheckpointBytes, Times, Outage]:
    plan, failures, checkpoint = estimate.plan, scenario.failures, checkpoint_of(scenario)
    size = checkpoint_bytes(stages_of(scenario, plan), checkpoint.writers)
    times = times_of(scenario, size)
    cycle = Cycle(*(_one(getattr(times.cycle, name)) for name in Cycle.__struct_fields__))
    outage = Outage(cycle, _one(interval_of(checkpoint, cycle, estimate.step_s)))
    if failures is not None and failures.repair_s:
        rates = failures.rates.by_cause(plan.num_devices, scenario.cluster.num_nodes)
        levels = levels_of(scenario, estimate) if failures.elastic else ()
        outage = Outage(cycle, outage.interval_s, rates["device"] + rates["node"], failures.repair_s, failures.spare_nodes, levels)
    return size, replace(times, cycle=cycle), outage


def _one(value: Scalar) -> float:
    return float(np.ravel(value)[0])
