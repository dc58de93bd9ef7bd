"""An odd number of tokens costs nothing by being odd; an odd width does where the device was seen to."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim import catalog, estimate
from parsim.cluster import Cluster
from parsim.cost import gemms
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario.rows import read
from support import Toy

PLANS = {"one": Plan(micro_batch=1), "tp2-pp2": Plan(tensor_parallel=2, pipeline_parallel=2, micro_batch=1, schedule="1f1b")}


def step_s(node: str, stack: Stack, plan: Plan, sequence_length: int, hidden_size: int = 2048) -> float:
    model = TransformerSpec.of(name="gpt", num_layers=4, hidden_size=hidden_size, num_heads=16, vocab_size=51200, max_positions=2048)
    itemsize = {name: read("dtypes", name) for name in catalog.names("dtypes")}
    batch = Batch(4, sequence_length, "fp16")
    return estimate(Toy("odd", model, Cluster(read("nodes", node)), batch, stack, {"p": plan}, {}, {}, 0, "", itemsize), "p").step_s


@pytest.mark.parametrize("node", ["dgx-a100-80gb", "hgx-h100-80gb", "dgx-1v-32gb", "pcie4-8x-l40s"])
@pytest.mark.parametrize("attention", ["flash", "fused_softmax"])
@pytest.mark.parametrize("plan", PLANS)
def test_a_step_at_sequence_2047_is_never_slower_than_at_2048(node: str, attention: str, plan: str) -> None:
    stack = replace(read("stacks", "megatron-2022"), attention=attention)
    assert step_s(node, stack, PLANS[plan], 2047) <= step_s(node, stack, PLANS[plan], 2048)


@pytest.mark.parametrize("node", ["dgx-a100-80gb", "hgx-h100-80gb", "dgx-1v-32gb", "pcie4-8x-l40s", "mi300x-8"])
@pytest.mark.parametrize("tensor_parallel", [1, 8])
def test_a_token_more_is_never_faster(node: str, tensor_parallel: int) -> None:
    """At 128 and 129 blocks of flash attention would be 1 and 2 a head, were they rounded up."""
    stack, plan = replace(read("stacks", "megatron-2022"), attention="flash"), Plan(tensor_parallel=tensor_parallel, micro_batch=1)
    for whole in (128, 512, 1024, 1536):
        before, at, after = (step_s(node, stack, plan, each) for each in (whole - 1, whole, whole + 1))
        assert before <= at <= after, whole


def test_a_factor_for_odd_tokens_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemms, "TOKEN_DIMS", frozenset())
    stack = read("stacks", "megatron-2022")
    assert step_s("dgx-a100-80gb", stack, PLANS["one"], 2047) > 1.1 * step_s("dgx-a100-80gb", stack, PLANS["one"], 2048)


def test_odd_widths_cost_time_on_the_a100_alone() -> None:
    """1808 = 16 x 113 columns are fewer than 1920 = 64 x 30, yet slower where a width off 64 is."""
    stack = read("stacks", "megatron-2022")
    for node, slower in (("dgx-a100-80gb", True), ("hgx-h100-80gb", False)):
        assert (step_s(node, stack, PLANS["one"], 2048, 1808) > step_s(node, stack, PLANS["one"], 2048, 1920)) is slower
