"""`supply`: what feeds the step of a plan, what it waits for, and what would be needed so that nothing waits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from math import ceil
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from parsim.arguments import check_arguments
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate
from parsim.feed.closed_forms import steady_stall_ps
from parsim.feed.jitter import STEPS, WARM_UP, draw
from parsim.feed.line import LinePassage, pass_through
from parsim.feed.stages import FeedLoad, Readers, load_of, readers_of, request_bytes, stages_of
from parsim.parallel.plan import Plan
from parsim.plain import Plain
from parsim.scenario.feeding import Input
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.cluster import Storage
    from parsim.estimator.result import Estimate
    from parsim.scenario import Scenario

BACKENDS: Final = ("estimate", "simulate")
PREFETCHES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # that are tried under jitter
LITTLE: Final = 0.01  # of a step, which it may wait and still count as fed


class SupplyStage(Struct, frozen=True):
    """A stage between storage and a device."""

    name: str
    batch_s: float  # for what a reader makes for a step
    sequences_per_s: float | None  # of all readers together; None: no bound
    binds: str  # "" where nothing does
    bounds_s: dict[str, float]  # by what bounds it; of work on cores the parts, which add up


class SupplyNeeds(Struct, frozen=True):
    """What is needed so that no step waits."""

    read_bytes_per_s: float  # of storage, all nodes together
    node_read_bytes_per_s: float  # of the node with most readers
    requests_per_s: float
    requests_in_flight: int  # of a reader
    workers: int  # of a reader
    cores: int  # of the node with most readers
    host_memory_bytes_per_s: float  # of the same
    to_device_bytes_per_s: float
    prefetch: int | None  # at the rates of today; None: none that was tried is enough


class Supply(Plain, frozen=True):
    """What feeds the steps of one plan; the step itself is the estimate's.

    A reader makes a batch of a step at a time.  `stall_s` is what a step waits in the steady state, so that a step and its wait take
    `fed_step_s`.  Not counted: labels that the last stage of a pipeline reads, and the way from a reader to the others of its replica.
    """

    name: str
    step_s: float
    num_readers: int
    readers_on_a_node: int
    sequences: int  # that a reader makes for a step
    stages: tuple[SupplyStage, ...]
    prefetch: int
    stall_s: float
    first_batch_s: float  # from rest until the first batch is on the device, the shuffle buffer filled
    host_buffer_bytes: int  # on the node with most readers
    device_buffer_bytes: int  # which no estimate counts
    needs: SupplyNeeds

    @property
    def fed_step_s(self) -> float:
        """A step with its wait."""
        return self.step_s + self.stall_s

    @property
    def slowest(self) -> SupplyStage:
        """The stage that takes longest."""
        return max(self.stages, key=lambda stage: stage.batch_s)

    def records(self) -> list[dict[str, object]]:
        """A row a stage."""
        same = {"plan": self.name, "step_s": self.step_s, "stall_s": self.stall_s, "first_batch_s": self.first_batch_s}
        return [
            {**same, "stage": each.name, "batch_s": each.batch_s, "sequences_per_s": each.sequences_per_s, "binds": each.binds}
            for each in self.stages
        ]


@check_arguments
def supply(scenario: Scenario, plan: Plan | str, *, backend: str = "estimate") -> Supply:
    """What feeds a plan of a scenario that says what is read, and from where.

    Args:
        plan: one of its plans, or another.
        backend: "estimate", or "simulate" for the same line of stages by events.

    Raises:
        ScenarioError: the scenario has no plan of that name.
        PlanError: the plan is not legal there.
        ParsimError: the scenario states no input, or no such back-end is known.

    >>> import parsim
    >>> found = supply(parsim.load("scenarios/images-from-storage.yaml"), "plain")
    >>> found.slowest.name, found.stall_s > 0, found.fed_step_s == found.step_s + found.stall_s
    ('prepare', True, True)
    """
    return supply_of(scenario, estimate(scenario, plan), backend=backend)


def supply_of(scenario: Scenario, found: Estimate, *, backend: str = "estimate") -> Supply:
    """The same of a plan that was estimated; arguments and errors as in `supply`."""
    if backend not in BACKENDS:
        raise ParsimError(f"unknown backend '{backend}'", remedy=f"Known: {', '.join(BACKENDS)}.")
    reads, storage = _source_of(scenario)
    plan, step_ps = found.plan, round(found.step_s * PS_PER_S)
    readers, load = readers_of(plan, reads, scenario.cluster.node.devices_per_node), load_of(scenario, plan, reads)
    stages = stages_of(scenario.cluster, storage, reads, readers, load)
    stages_ps = line_ps(scenario, plan)
    each_s = load.sequences * readers.number
    filling_s = max(each.batch_s for each in stages[:2]) * reads.shuffle_buffer / load.sequences
    return Supply(
        name=found.name,
        step_s=found.step_s,
        num_readers=readers.number,
        readers_on_a_node=readers.on_a_node,
        sequences=load.sequences,
        stages=tuple(
            SupplyStage(each.name, each.batch_s, each_s / each.batch_s if each.batch_s else None, each.binds, each.bounds_s)
            for each in stages
        ),
        prefetch=reads.prefetch,
        stall_s=_stall_s(stages_ps, step_ps, reads, scenario.seed, backend),
        first_batch_s=sum(stages_ps) / PS_PER_S + filling_s,
        host_buffer_bytes=round(readers.on_a_node * _host_buffer_bytes(reads, load)),
        device_buffer_bytes=round(reads.prefetch * load.device_bytes),
        needs=_needs(scenario, found, reads, storage, readers, load),
    )


def line_ps(scenario: Scenario, plan: Plan) -> list[int]:
    """Picoseconds that each stage takes on average for a batch of a step of a plan; errors as in `supply`."""
    reads, storage = _source_of(scenario)
    readers, load = readers_of(plan, reads, scenario.cluster.node.devices_per_node), load_of(scenario, plan, reads)
    return [round(each.batch_s * PS_PER_S) for each in stages_of(scenario.cluster, storage, reads, readers, load)]


def stall_among_ps(scenario: Scenario, found: Estimate, steps_ps: Sequence[int]) -> float:
    """What a step of a plan waits on average where steps take so long, and then so again; errors as in `supply`."""
    reads, stages_ps = _source_of(scenario)[0], line_ps(scenario, found.plan)
    if len(set(steps_ps)) == 1 and not reads.jitter:
        return steady_stall_ps(stages_ps, steps_ps[0], reads.prefetch)
    every = list(islice(cycle(steps_ps), STEPS))
    return pass_through(draw(stages_ps, reads.jitter, scenario.seed), every, reads.prefetch).stall_ps(WARM_UP)


def least_wait_s(scenario: Scenario) -> float:
    """Seconds of a step in which no plan on these devices is fed: those of a reader a device, each with its part of a batch; 0 where they
    are more than its sequences."""
    batch = scenario.batch.global_batch
    if batch < scenario.cluster.num_devices:
        return 0.0
    stages_ps = line_ps(scenario, Plan(data_parallel=scenario.cluster.num_devices, micro_batch=batch))
    return steady_stall_ps(stages_ps, 0, _source_of(scenario)[0].prefetch) / PS_PER_S


def _source_of(scenario: Scenario) -> tuple[Input, Storage]:
    if scenario.input is None or scenario.storage is None:
        raise ParsimError("nobody says what is read", scenario.path, "Say e.g. --set input=text --set storage=orion.")
    return scenario.input, scenario.storage


def _stall_s(stages_ps: list[int], step_ps: int, reads: Input, seed: int, backend: str) -> float:
    if backend == "estimate" and not reads.jitter:
        return steady_stall_ps(stages_ps, step_ps, reads.prefetch) / PS_PER_S
    return _passage(stages_ps, step_ps, reads, reads.prefetch, seed, backend).stall_ps(WARM_UP) / PS_PER_S


def _passage(stages_ps: list[int], step_ps: int, reads: Input, prefetch: int, seed: int, backend: str) -> LinePassage:
    """What a long run of steps finds: it begins after the line is full."""
    from parsim.feed.events import play

    run = play if backend == "simulate" else pass_through
    return run(draw(stages_ps, reads.jitter, seed), [step_ps] * STEPS, prefetch)


def _host_buffer_bytes(reads: Input, load: FeedLoad) -> float:
    """What a reader holds on its host: batches behind each stage there, and what it shuffles."""
    waiting = reads.prefetch * (load.raw_bytes + 2 * load.device_bytes)  # behind read; prepare and batch
    return waiting + reads.shuffle_buffer * load.raw_bytes / load.sequences


def _needs(scenario: Scenario, found: Estimate, reads: Input, storage: Storage, readers: Readers, load: FeedLoad) -> SupplyNeeds:
    step_s, size = found.step_s, request_bytes(reads, load)
    requests = load.stored_bytes / size
    workers = max(1, ceil(sum(load.worker_s.values()) / step_s))
    link_s = load.num_copies * max(each.node.host_link.latency_s for each in scenario.cluster.kinds)
    return SupplyNeeds(
        read_bytes_per_s=readers.number * load.stored_bytes / step_s,
        node_read_bytes_per_s=readers.on_a_node * load.stored_bytes / step_s,
        requests_per_s=readers.number * requests / step_s,
        requests_in_flight=max(1, ceil(requests * storage.request_s(size) / step_s)),
        workers=workers,
        cores=workers * readers.on_a_node,
        host_memory_bytes_per_s=2 * readers.on_a_node * load.device_bytes / step_s,
        to_device_bytes_per_s=load.device_bytes / max(step_s - link_s, 1 / PS_PER_S),
        prefetch=_least_prefetch(scenario, found, reads, storage, readers, load),
    )


def _least_prefetch(scenario: Scenario, found: Estimate, reads: Input, storage: Storage, readers: Readers, load: FeedLoad) -> int | None:
    """The fewest places with which a step waits less than LITTLE of itself; without jitter one is as good as many."""
    stages = stages_of(scenario.cluster, storage, reads, readers, load)
    stages_ps, step_ps = [round(each.batch_s * PS_PER_S) for each in stages], round(found.step_s * PS_PER_S)
    if not reads.jitter:
        return 1
    if max(stages_ps) > step_ps:
        return None
    stalls = ((each, _passage(stages_ps, step_ps, reads, each, scenario.seed, "estimate").stall_ps(WARM_UP)) for each in PREFETCHES)
    return next((each for each, stall in stalls if stall <= LITTLE * step_ps), None)
