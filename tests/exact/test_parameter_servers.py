"""Plans of parameter servers: two readers agree to the picosecond; bytes and times are those of one replica, and of arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim import Plan, Scenario, estimate, estimates, load, simulate
from parsim.cluster.cluster import HOST_MEMORY_BYTES_PER_S
from parsim.errors import PlanError
from parsim.model.parameters import num_parameters
from parsim.parallel.plan import KEYS

WAYS: dict[str, dict[str, Any]] = {
    "asynchronous": {},
    "bounded": {"staleness_bound": 2, "parameter_servers": 3},
    "synchronous": {"staleness_bound": 0, "parameter_servers": 2},
}
TWO_NODES = {
    "model": "gpt2-small",
    "cluster": {"node": "dgx-a100-80gb", "num_nodes": 2, "fabric": "ib-hdr-8rail"},
    "batch": {"global_batch": 32, "sequence_length": 1024},
}


def served(workers: int, **others: Any) -> Plan:
    return Plan(data_parallel=workers, gradient_sync="parameter_server", **others)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["digits-mlp", pytest.param("tiny-gpt-pydoc", marks=pytest.mark.slow), "two nodes"])
def test_estimate_and_events_agree_to_the_picosecond(name: str, way: str) -> None:
    scenario = parsim.from_mapping(TWO_NODES) if name == "two nodes" else load(f"scenarios/{name}.yaml")
    plan = served(scenario.cluster.num_devices, micro_batch=2, **WAYS[way])
    found, trace = estimate(scenario, plan), simulate(scenario, plan)
    assert found.served is not None and trace.served is not None
    assert found.step_s == trace.step_s
    several = estimates(scenario, [Plan(data_parallel=plan.data_parallel), plan])
    assert (several.step_s[1], several.host_peak_bytes[1]) == (found.step_s, found.host_peak_bytes)
    assert sum(found.breakdown_s.values()) == pytest.approx(found.step_s)
    assert parsim.Estimate.from_dict(found.to_dict()) == found and type(trace).from_dict(trace.to_dict()) == trace


def alone(scenario: Scenario, workers: int) -> Scenario:
    """One of the workers, with its part of the batch, on a device of its own."""
    node = replace(scenario.cluster.node, devices_per_node=1)
    batch = replace(scenario.batch, global_batch=scenario.batch.global_batch // workers)
    return replace(scenario, cluster=replace(scenario.cluster, node=node, num_nodes=1), batch=batch)


def test_a_worker_computes_what_a_replica_does_that_updates_nothing() -> None:
    scenario = load("scenarios/tiny-gpt-pydoc.yaml")
    found, whole = estimate(scenario, served(4, micro_batch=2)), estimate(alone(scenario, 4), Plan(micro_batch=2))
    assert found.served is not None
    assert found.served.compute_ps == round((whole.step_s - whole.breakdown_s["optimizer"]) * 1e12)
    (worker,), (replica,) = found.memory_bytes, whole.memory_bytes
    of_blocks = {name: worker[name] for name in ("rounding", "fragments")}  # in which no states of an optimizer lie
    assert {**replica, **of_blocks, "optimizer": 0} == {**worker} and worker["rounding"] < replica["rounding"]
    count = num_parameters(scenario.model)
    assert (found.served.pull_bytes, found.served.push_bytes, found.sent_bytes[0]["servers"]) == (4 * count,) * 3
    # In float32 AdamW has two states of 4 bytes; on one host lie gradients of four workers.
    assert found.host_memory_bytes == {"weights": 4 * count, "optimizer": 8 * count, "gradients": 16 * count}


def test_a_server_updates_at_the_pace_of_its_hosts_memory() -> None:
    """Weights in bf16 with float32 gradients, half of them on each of two: weight and two states both ways, gradient, and narrow copy."""
    scenario = parsim.from_mapping(TWO_NODES)
    plan = served(16, parameter_servers=2)
    found, count = estimate(scenario, plan), num_parameters(scenario.model)
    assert found.served is not None
    (weights,) = {found.served.pull_bytes // 2}
    assert weights * 2 == found.served.pull_bytes and weights >= count  # with the padding of the vocabulary
    memory = scenario.cluster.node.host_memory_bytes_per_s
    assert found.served.bounds_ps["server"] == pytest.approx(16 * (weights / 2) * (2 * 12 + 4 + 2) / memory * 1e12, rel=1e-9)
    assert found.served.server_bytes == {"weights": weights // 2 * 6, "optimizer": weights // 2 * 8, "gradients": weights // 2 * 4 * 16}
    fabric, node = scenario.cluster.fabric, scenario.cluster.node
    assert fabric is not None
    port = node.num_nics * min(fabric.nic.bandwidth_bytes_per_s, (node.nic_link or node.host_link).bandwidth_bytes_per_s)
    assert found.served.bounds_ps["server_takes"] == pytest.approx(16 * weights / 2 * 4 / (port * fabric.p2p_efficiency) * 1e12, rel=1e-9)
    assert HOST_MEMORY_BYTES_PER_S > 0


def test_no_more_servers_than_weights_and_no_workers_in_two_sites() -> None:
    scenario = load("scenarios/digits-mlp.yaml")
    with pytest.raises(PlanError, match=r"share out 37962 weights\s+Legal: at most 37962"):
        estimate(scenario, served(4, micro_batch=16, parameter_servers=40_000))


def test_the_planner_tries_parameter_servers_only_where_it_is_asked() -> None:
    assert "parameter_server" not in KEYS["gradient_sync"].auto
    asked = parsim.from_mapping({**TWO_NODES, "plans": {"a": {"gradient_sync": "parameter_server", "parameter_servers": [1, 2, 4]}}})
    rows = parsim.plan(asked, space="a").rows
    assert {row.plan.parameter_servers for row in rows} == {1, 2, 4}
    assert np.all(np.diff([row.step_s for row in rows]) >= 0)
