"""`whatif`: the step of a plan, estimated anew with one resource after another faster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import asdict, replace

from parsim.arguments import check_arguments
from parsim.cluster.cluster import Cluster, Node
from parsim.estimator.estimate import estimate, estimate_legal
from parsim.estimator.result import Estimate
from parsim.plain import Plain

if TYPE_CHECKING:
    from parsim.parallel.plan import Plan
    from parsim.scenario import Scenario

T = TypeVar("T", bound=Struct)
# What a step waits for, each with what is faster in it; together they are every rate and every latency of hardware and software.
RESOURCES: Final[Mapping[str, str]] = {
    "compute": "the FLOP/s of the devices",
    "memory": "the bandwidth of the devices' memory",
    "launches": "kernel launches, of host and device",
    "node link": "the bandwidth of what joins the devices of a node",
    "network": "the bandwidth between nodes: NICs, their slots, and what is behind them, links of sites included",
    "latency": "every latency of node and network: of links (all that --set of a link's latency changes), and what collectives take to "
    "start and for each message",
    "host link": "the bandwidth between a device and its host",
    "host memory": "the memory bandwidth of the host",
}
# The same of a scenario that says what is read, whose step is that with what it waits for its batch.
OF_INPUT: Final[Mapping[str, str]] = {
    "storage": "the bandwidth of storage, the requests that it answers a second, and its latency",
    "workers": "what the workers of readers decode and tokenize",
}
_STEP: Final = 1.01  # by how much a resource is faster for its elasticity


class Gain(Struct, frozen=True):
    """What a step gains where one resource is faster."""

    resource: str  # of RESOURCES, or "all"
    elasticity: float  # d ln speed / d ln resource: of +1 %, the part that the step gets
    twice_s: float  # the step where the resource is twice as fast


class WhatIf(Plain, frozen=True):
    """The estimate of a plan, fed where the scenario says by what, and what it would gain from each resource.

    The elasticities sum to 1, that of all together.
    """

    estimate: Estimate
    gains: tuple[Gain, ...]

    def records(self) -> list[dict[str, object]]:
        """A row a resource."""
        return [{"resource": each.resource, "elasticity": each.elasticity, "twice_step_s": each.twice_s} for each in self.gains]


@check_arguments
def whatif(scenario: Scenario, plan: Plan | str) -> WhatIf:
    """What the step of a plan gains from each resource.

    Raises:
        ScenarioError: the scenario has no plan of that name.

    >>> import parsim
    >>> gains = whatif(parsim.load("scenarios/table5-22b.yaml"), "full").gains
    >>> max(gains[:-1], key=lambda gain: gain.elasticity).resource, gains[-1].resource
    ('compute', 'all')
    """
    now = _with_input(scenario, estimate(scenario, plan))

    def step_s(faster: Scenario) -> float:
        return _with_input(faster, estimate_legal(faster, now.plan)).step_s

    def gain(name: str, resources: tuple[str, ...]) -> Gain:
        more, twice = (step_s(improve(scenario, dict.fromkeys(resources, by))) for by in (_STEP, 2.0))
        return Gain(name, math.log(now.step_s / more) / math.log(_STEP), twice)

    names = tuple(resources_of(scenario))
    return WhatIf(now, (*(gain(each, (each,)) for each in names), gain("all", names)))


def resources_of(scenario: Scenario) -> Mapping[str, str]:
    """What its steps wait for."""
    return {**RESOURCES, **OF_INPUT} if is_fed(scenario) else RESOURCES


def is_fed(scenario: Scenario) -> bool:
    """Whether the scenario says what is read, and from where."""
    return scenario.input is not None and scenario.storage is not None


def _with_input(scenario: Scenario, found: Estimate) -> Estimate:
    """The estimate with what its step waits for input, where the scenario says what is read."""
    if not is_fed(scenario):
        return found
    from parsim.feed.supply import supply_of

    return found.with_step(supply_of(scenario, found).fed_step_s)


def improve(scenario: Scenario, by: Mapping[str, float]) -> Scenario:
    """The scenario with its resources faster by these factors: rates times them, times divided by them."""
    cluster, network, latency = scenario.cluster, by.get("network", 1.0), by.get("latency", 1.0)
    between = None if cluster.fabric is None else _scale(cluster.fabric, bytes=network, seconds=latency)
    over_sea = None if cluster.site_link is None else _scale(cluster.site_link, bytes=network, seconds=latency)
    if cluster.groups:
        fabrics = (each.fabric and _scale(each.fabric, bytes=network, seconds=latency) for each in cluster.groups)
        groups = [replace(each, node=_faster(each.node, by), fabric=fabric) for each, fabric in zip(cluster.groups, fabrics, strict=True)]
        cluster = Cluster.of_groups(groups, between, rent=cluster.rent, num_sites=cluster.num_sites, site_link=over_sea)
    else:
        cluster = replace(cluster, node=_faster(cluster.node, by), fabric=between, site_link=over_sea)
    faster = replace(scenario, cluster=cluster, stack=_scale(scenario.stack, seconds=by.get("launches", 1.0)))
    return _read_faster(faster, by) if is_fed(scenario) else faster


def _read_faster(scenario: Scenario, by: Mapping[str, float]) -> Scenario:
    """Storage, and the figures of workers; what input says of the host link in place of the node goes with that."""
    reads, storage, rate = scenario.input, scenario.storage, by.get("storage", 1.0)
    workers = {
        **dict.fromkeys(("decode_per_s", "tokenize_per_s"), by.get("workers", 1.0)),
        "host_to_device_bytes_per_s": by.get("host link", 1.0),
    }
    if reads is not None:
        stated = {name: value for name in workers if (value := getattr(reads, name)) is not None}
        reads = replace(reads, **{name: value * workers[name] for name, value in stated.items()})
    if storage is not None:
        requests = None if storage.requests_per_s is None else storage.requests_per_s * rate
        storage = replace(_scale(storage, bytes=rate, seconds=rate), requests_per_s=requests)
    return replace(scenario, input=reads, storage=storage)


def _faster(node: Node, by: Mapping[str, float]) -> Node:
    compute, memory, launches, link, network, latency, host, host_memory = (by.get(each, 1.0) for each in RESOURCES)
    return replace(
        _scale(node, bytes=link, seconds=latency),
        accelerator=_scale(node.accelerator, flops=compute, bytes=memory, seconds=launches),
        host_link=_scale(node.host_link, bytes=host, seconds=latency),
        nic_link=_scale(node.nic_link or node.host_link, bytes=network, seconds=latency),
        host_memory_bytes_per_s=node.host_memory_bytes_per_s * host_memory,
    )


def _scale(part: T, *, flops: float = 1.0, bytes: float = 1.0, seconds: float = 1.0) -> T:
    """A part of the hardware with its rates times these factors and its seconds divided, by the units that names of fields end in.

    Seconds a root byte are between both: sqrt(latency / bandwidth) is of that unit.
    """
    factors = {"flops_per_s": flops, "bytes_per_s": bytes, "_s_per_sqrt_byte": 1 / math.sqrt(bytes * seconds), "_s": 1 / seconds}

    def scale(value: Any, factor: float) -> Any:
        if isinstance(value, Mapping):
            return {key: scale(each, factor) for key, each in value.items()}
        if isinstance(value, tuple):
            return tuple(scale(each, factor) for each in value)
        if isinstance(value, Struct):
            return _scale(value, flops=flops, bytes=bytes, seconds=seconds)
        return value * factor if factor != 1.0 and isinstance(value, int | float) else value

    def factor_of(name: str) -> float:
        return next((factor for unit, factor in factors.items() if name.endswith(unit)), 1.0)

    changed = {name: scale(value, factor_of(name)) for name, value in asdict(part).items()}
    if "knees" in changed:  # of a kernel's law: (bytes, bytes/s)
        changed["knees"] = tuple((beyond, rate * bytes) for beyond, rate in changed["knees"])
    return replace(part, **changed)
