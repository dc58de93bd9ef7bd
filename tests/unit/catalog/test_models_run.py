"""Every decoder whose figures are those of a released config gives a step on a node, and on several with its heads and experts cut."""

from __future__ import annotations

import pytest

import parsim
from hf_configs import PUBLISHED
from parsim import catalog, scenario

ROWS = [name for name in catalog.names("models") if name in PUBLISHED and "family" not in catalog.row("models", name)]
FIRST = ("gemma-2-9b", "gemma-4-26b-a4b", "glm-4.5", "exaone-4.0-32b", "opt-13b", "bloom-176b", "mpt-7b", "gpt-j-6b", "command-r")
BATCH = {"global_batch": 128, "sequence_length": 1024, "dtype": "bf16"}
SEVERAL = {"node": "hgx-h100-80gb", "num_nodes": 8, "fabric": "ib-ndr-8rail"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in FIRST else pytest.mark.slow) for name in ROWS])
def test_a_released_model_gives_a_step_on_a_node_and_on_several(name: str) -> None:
    row = catalog.row("models", name)
    cut = {} if row["num_heads"] % 2 else {"tensor_parallel": 2, "sequence_parallel": True}
    cut |= {"expert_parallel": 4, "expert_tensor_parallel": 1} if row.get("num_experts") else {}
    whole = {"zero_stage": 3, "recompute": "full"}
    for cluster, plan in (({"node": "hgx-h100-80gb"}, whole), (SEVERAL, {**cut, "zero_stage": 1})):
        told = scenario.from_mapping({"model": name, "cluster": cluster, "batch": BATCH, "plans": {"a": plan}})
        assert parsim.estimate(told, told.plan("a")).step_s > 0
