"""A whole training under one plan: from its tokens and a step to days, device-hours, money and energy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from parsim import units
from parsim.cluster.accelerator import Accelerator
from parsim.cluster.cluster import Cluster
from parsim.errors import PlanError
from parsim.estimator.power import joules
from parsim.estimator.result import Estimate
from parsim.estimator.useful import step_flops
from parsim.parallel.node_kinds import kinds_of_stages

if TYPE_CHECKING:
    from parsim.scenario import Scenario

S_PER_HOUR: Final = units.parse("1 h", "s")


class WholeTraining(Struct, frozen=True):
    """Steps one after another: without restarts, evaluation, checkpoints and idle devices.  None: nobody states what it follows from."""

    total_tokens: int
    num_steps: int  # each of the tokens of a batch, without padding; the last may have fewer, and takes as long
    time_s: float
    device_hours: float
    cost_usd: float | None
    energy_j: float | None


def num_steps(scenario: Scenario) -> int:
    """The steps of the whole training.

    Raises:
        PlanError: nobody states its tokens.
    """
    if scenario.total_tokens is None:
        raise PlanError(
            "nobody states the tokens of the whole training",
            scenario.path,
            "Say e.g. --set training.total_tokens=2T.",
        )
    return -(-scenario.total_tokens // scenario.batch.num_tokens)


def least_devices(scenario: Scenario, seconds: float) -> float:
    """Devices whose dense peak does the matmuls and the causal attention of the whole training in so many seconds: no plan needs fewer."""
    batch, accelerator = scenario.batch, scenario.cluster.node.accelerator
    return num_steps(scenario) * step_flops(scenario).causal / accelerator.peak(batch.measured_against(scenario.model)) / seconds


def usd_per_device_hour(scenario: Scenario) -> float:
    """The price of a device.

    Raises:
        PlanError: nobody states it.
    """
    if scenario.cluster.rent is None:
        names, keys = lack_of_price(scenario.cluster)
        raise PlanError(f"no price of a device of node {names}", scenario.path, f"Say e.g. --set {keys[0]}='2.5 USD'.")
    return scenario.cluster.rent.device_hour_usd


def lack_of_price(cluster: Cluster) -> tuple[str, list[str]]:
    """The nodes of which nobody says what a device costs, quoted, and the keys that would say it."""
    lacking = cluster.unpriced or (("cluster.price_per_device_hour", cluster.node.name),)
    return " and ".join(dict.fromkeys(f'"{name}"' for _, name in lacking)), [key for key, _ in lacking]


def tdp_w(accelerator: Accelerator, where: str) -> float:
    """The design power of a device.

    Raises:
        PlanError: nobody states it in the scenario of that path.
    """
    if accelerator.tdp_w is None:
        remedy = f"Give it: node: {{base: NAME, accelerator: {{base: {accelerator.name}, tdp: 400 W}}}}."
        raise PlanError(f'no design power (tdp) of accelerator "{accelerator.name}"', where, remedy)
    return accelerator.tdp_w


def step_joules(scenario: Scenario, estimate: Estimate) -> float | None:
    """The energy of a step on all devices; None where nobody states their design power."""
    cluster, busy = scenario.cluster, estimate.busy_s
    devices = [each.node.accelerator for each in cluster.kinds]
    of_kinds = [(device.tdp_w, device.busy_w) for device in devices if device.tdp_w is not None]
    if len(of_kinds) < len(devices):
        return None
    if not cluster.groups:
        ((tdp, drawn),) = of_kinds
        return estimate.plan.num_devices * joules(tdp, estimate.step_s, sum(busy) / len(busy), drawn)
    stages = [(of_kinds[min(kinds)], busy_s) for kinds, busy_s in zip(kinds_of_stages(estimate.plan, cluster.runs), busy, strict=True)]
    each = [joules(tdp, estimate.step_s, busy_s, drawn) for (tdp, drawn), busy_s in stages]
    return estimate.plan.num_devices * sum(each) / len(each)


def whole_training(scenario: Scenario, estimate: Estimate) -> WholeTraining | None:
    """The whole training under the plan of an estimate; None where nobody states its tokens."""
    if scenario.total_tokens is None:
        return None
    steps, energy, rent = num_steps(scenario), step_joules(scenario, estimate), scenario.cluster.rent
    time_s = steps * estimate.step_s
    hours = time_s * estimate.plan.num_devices / S_PER_HOUR
    cost = None if rent is None else hours * rent.device_hour_usd
    return WholeTraining(scenario.total_tokens, steps, time_s, hours, cost, None if energy is None else steps * energy)
