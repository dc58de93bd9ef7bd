"""Steps of Mamba-2 that others measured, to which the share of a scan's roofs is fitted.

Source: state-spaces/mamba, issue 904: 1.4B (48 layers of 2048), 4 sequences of 4096 tokens in bf16 on one device, its TFLOP/s taken as
6 FLOPs a parameter and token.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.cluster import efficiency
from parsim.cluster.cluster import Cluster, Node
from parsim.estimator.estimate import estimate_legal
from parsim.model.families.hybrid import HybridSpec
from parsim.model.parameters import num_parameters
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario.rows import read
from support import CLUSTER, scenario

MEASURED_FLOPS_PER_S = {"a100-sxm4-80gb": 102.5e12, "h200": 239.2e12, "gb200": 360.4e12}
NODES = {"a100-sxm4-80gb": "dgx-a100-80gb", "h200": "hgx-h200", "gb200": "gb200-nvl72"}


def step_error(name: str) -> float:
    node: Node = read("nodes", NODES[name])
    assert node.accelerator.name == name
    model: HybridSpec = replace(read("models", "mamba2-1.3b"), max_positions=4096)
    stack: Stack = read("stacks", "pytorch-2")
    cluster: Cluster = replace(CLUSTER, node=replace(node, devices_per_node=1), num_nodes=1)
    case = scenario(model=model, batch=Batch(4, 4096, "bf16"), cluster=cluster, stack=stack)
    measured_s = 6 * num_parameters(model) * 4 * 4096 / MEASURED_FLOPS_PER_S[name]
    return estimate_legal(case, Plan(micro_batch=4)).step_s / measured_s - 1


@pytest.mark.parametrize("name", MEASURED_FLOPS_PER_S)
def test_a_step_of_mamba_2_is_within_8_percent_of_the_measured_one(name: str) -> None:
    assert abs(step_error(name)) < 0.08


@pytest.mark.parametrize("name", MEASURED_FLOPS_PER_S)
def test_a_scan_that_reached_its_roofs_would_be_a_fifth_too_fast(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency, "SCAN_SHARE", 1.0)
    assert step_error(name) < -0.2
