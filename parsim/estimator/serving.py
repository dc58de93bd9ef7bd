"""The step of plans whose weights parameter servers hold: what their workers compute, and what servers and ports let through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from parsim.asynchrony.bounds import Served, cycle_of
from parsim.asynchrony.protocol import Terms
from parsim.asynchrony.service import ServedWeights, Service, service_of
from parsim.estimator.memory import elements_of
from parsim.estimator.streams import exposure
from parsim.parallel.plan import Plan
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.estimator.passes import Stages
    from parsim.estimator.result import Estimate


def service_in(stages: Stages, plan: Plan) -> Service:
    """What servers do for the workers of the only plan."""
    workload = stages.workload
    elements = int((workload.shape.own @ elements_of(stages, "whole"))[0, 0])
    weights = ServedWeights.of(workload.step.structure, workload.sizes, elements)
    return service_of(workload.model.cluster, Terms.of(plan), weights)


def served_in(stages: Stages, plan: Plan, compute_ps: int) -> Served:
    """How fast the only plan goes, of which a worker computes a gradient in so long."""
    return cycle_of(service_in(stages, plan), compute_ps)


def with_servers(found: Estimate, of_servers: Served) -> Estimate:
    """The estimate of what a worker does by itself, with what it waits for, and the hosts of servers."""
    step_s = of_servers.step_ps / PS_PER_S
    others = {exposure("servers"): of_servers.others_ps / PS_PER_S}
    sent = tuple({**each, "servers": of_servers.push_bytes} for each in found.sent_bytes)
    hosts = {"host_memory_bytes": dict(of_servers.server_bytes)}
    return replace(found.with_step(step_s), breakdown_s={**found.breakdown_s, **others}, sent_bytes=sent, served=of_servers, **hosts)
