"""What is said of exchanges with experts, of their weights, and of keys that change nothing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cluster.ports import device_nic_rate, fabric_of
from parsim.cluster.price import explain_collective, load_of
from parsim.cost.exchange import exchanges_of
from parsim.cost.timing import task_price
from parsim.estimator.estimate import stages_of
from parsim.parallel.plan import Batch, Plan
from parsim.report.explain import METRICS
from parsim.scenario import load
from parsim.schedules.phase import Phase
from parsim.step.task import Collective
from support import CLUSTER, MOE, STACK, scenario

MODEL = replace(MOE, num_experts=16, experts_per_token=2)
PLAN = Plan(data_parallel=16, expert_parallel=16)


def priced(dispatch: str):  # type: ignore[no-untyped-def]
    toy = scenario(model=MODEL, batch=Batch(64, 4096), stack=replace(STACK, dispatch=dispatch), cluster=replace(CLUSTER, num_nodes=4))
    workload = stages_of(toy, PLAN).workload
    task = next(each for each in workload.step.segments["expert_layer"].phases[Phase.F] if isinstance(each, Collective))
    return task, workload, task_price(task, workload.sizes, workload.model)


def test_an_all_to_all_is_told_by_what_passes_each_link() -> None:
    """12 of 15 other ranks are on the other 3 of 4 nodes of 4."""
    text = explain_collective(priced("all_to_all")[2])
    rates = re.findall(r"([0-9.]+) (.)B/s reached of ([0-9.]+) (.)B/s, by 20 % of the bytes", text)
    assert "by 80 % of the bytes" in text
    ((reached, one, peak, other),) = rates
    assert one == other and 0 < float(reached) <= float(peak)


def test_an_exchange_by_nodes_loads_nics_with_what_passes_between_them() -> None:
    task, workload, price = priced("per_node")
    found = exchanges_of(task, workload.sizes, workload.model)
    assert found
    between = float(found.busiest()[1][0]) * workload.sizes.itemsize_bytes[task.source.dtype]
    load = load_of(price)
    passed = float(load.nic_bytes_per_s[0]) * float(load.transfer_ps[0]) / 1e12
    assert passed == pytest.approx(between, rel=1e-6)
    assert float(np.max(load.nic_bytes_per_s)) <= device_nic_rate(CLUSTER, fabric_of(CLUSTER))


def test_mfu_counts_experts_that_a_token_chooses() -> None:
    assert "without the input embedding and the experts that a token does not choose" in METRICS["mfu"]


@pytest.mark.parametrize(("degree", "told"), [(1, 1), (2, 0)])
def test_a_kind_of_context_parallelism_without_any_is_noted(degree: int, told: int, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "model: tiny-llama\ncluster: {node: {base: dgx-a100-80gb, devices_per_node: 4}}\nbatch: {global_batch: 8, sequence_length: 8}\n"
        f"plans: {{a: {{context_parallel: {degree}, context_kind: all_gather}}}}\n"
    )
    said = [note for note in load(tmp_path / "a.yaml").notes if note == "plans.a.context_kind does nothing, since context_parallel = 1"]
    assert len(said) == told
