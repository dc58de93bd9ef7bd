"""Communicators of a plan, blocks of an allocator and pools of graphs in the memory of a rank, by arithmetic on the page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import parsim
from parsim.errors import ScenarioError
from parsim.estimator.blocks import LastingBlocks
from parsim.estimator.communicators import communicators_of
from parsim.estimator.estimate import estimates, stages_of
from parsim.parallel.group import Group
from parsim.parallel.plan import Plan

MIB = 2**20
# Every matrix is a multiple of 512 bytes; norms have 64 elements, 2 in each layer and one behind them.
MODEL = {
    **{"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96, "num_heads": 4, "vocab_size": 128, "max_positions": 32},
    **{"norm": "rms_norm", "bias": False, "activation": "swiglu", "positions": "rotary"},
}


def _scenario(stack: Any, node: Any = "hgx-h200", nodes: int = 1, **model: Any) -> parsim.Scenario:
    cluster = {"node": node} if nodes == 1 else {"node": node, "num_nodes": nodes, "fabric": "ib-ndr-8rail"}
    batch = {"global_batch": 64 * nodes, "sequence_length": 32, "dtype": "bf16"}
    return parsim.from_mapping({"model": {**MODEL, **model}, "cluster": cluster, "batch": batch, "stack": stack, "plans": {"a": {}}})


def _memory(stack: Any, plan: Plan, node: str = "hgx-h200", **model: Any) -> list[dict[str, int]]:
    """Of the ranks of a plan that fills a node of as many devices."""
    few = {"base": node, "name": "few", "devices_per_node": plan.num_devices, "source": "a test"}
    return [dict(each) for each in parsim.estimate(_scenario(stack, few, **model), plan).memory_bytes]


def _stack(base: str, **keys: Any) -> dict[str, Any]:
    return {"base": base, "name": "of a test", "source": "a test", **keys}


def test_a_plan_has_a_communicator_for_each_group_that_its_step_uses_and_one_of_all_ranks() -> None:
    plan = Plan(data_parallel=4, tensor_parallel=4, pipeline_parallel=2, sequence_parallel=True, zero_stage=1)
    found = communicators_of(stages_of(_scenario("megatron-core", nodes=4), plan).workload.step)
    assert {group.axes for group in found} == {("pp", "dp", "tp"), ("dp",), ("tp",), ("pp",)}
    sums = frozenset({"all_reduce", "all_gather", "reduce_scatter"})
    assert found[Group(("dp",))].operations == found[Group(("tp",))].operations == sums
    assert found[Group(("pp",))].neighbours == 2


def test_their_bytes_add_up_in_the_memory_of_every_rank() -> None:
    """On 4 H200: all by rings and trees of 24 channels, dp and tp, of 2 each, by rings, which are their trees."""
    found = _memory("pytorch-2.11", Plan(data_parallel=2, tensor_parallel=2))
    assert [each["communicators"] for each in found] == [24 * (12 + 12) * MIB + 2 * 24 * 12 * MIB]


def test_two_stages_hold_connections_to_each_other_for_messages_beside_those_for_sums() -> None:
    """One communicator is that of all ranks and of the pipeline: 24 channels of rings and trees, 32 of messages.  One sums tied tables."""
    tied = 24
    assert [each["communicators"] for each in _memory("pytorch-2.11", Plan(pipeline_parallel=2))] == [(24 + 32 + tied) * 12 * MIB] * 2


@pytest.mark.parametrize(
    ("stack", "node", "expected"),
    [
        (_stack("pytorch-2", communicator_memory="7 MB"), "hgx-h200", 14_000_000),
        (_stack("pytorch-2", communicator_memory="0 B"), "hgx-h200", 0),
        (_stack("pytorch-2", nccl=[]), "hgx-h200", 0),
        ("pytorch-2", "mi300x-8", 2 * 688_000_000),
    ],
)
def test_what_a_stack_states_is_of_each_axis_and_so_is_what_is_assumed_of_other_makers(stack: Any, node: str, expected: int) -> None:
    assert [each["communicators"] for each in _memory(stack, Plan(data_parallel=4, tensor_parallel=2), node)] == [expected]


@pytest.mark.parametrize("settings", [["no_switch"], ["eager", "lazy"]])
def test_a_stack_whose_communicators_connect_at_no_time_or_at_two_is_refused(settings: list[str]) -> None:
    with pytest.raises(ScenarioError, match="does not say when NCCL connects ranks: give eager or lazy"):
        _scenario(_stack("pytorch-2", nccl=settings))


def test_plans_that_differ_in_the_order_of_their_ranks_hold_other_communicators_together_and_alone() -> None:
    """Tensor parallelism over the nodes needs few channels, but a NIC's connections."""
    chosen = _scenario("pytorch-2.11", nodes=4)
    plans = [Plan(data_parallel=8, tensor_parallel=4, rank_order=order) for order in ("tp-dp-pp", "dp-tp-pp")]
    alone = [parsim.estimate(chosen, plan) for plan in plans]
    assert estimates(chosen, plans).peak_bytes.tolist() == [each.peak_bytes for each in alone]
    assert len({each.memory_bytes[0]["communicators"] for each in alone}) == 2


def test_tensors_that_last_take_multiples_of_512_bytes_of_an_allocator_and_segments_are_whole() -> None:
    """Norms of 128 bytes, gradients of as many, and 768 of states: 384, 384 and 256 more, of 5 norms.  All are small tensors."""
    caching, expandable, other = (
        _memory(_stack("pytorch-2", allocator=name), Plan(data_parallel=8))[0] for name in ("caching", "expandable", "other")
    )
    assert caching["rounding"] == expandable["rounding"] == 5 * (384 + 384 + 256)
    lasting = sum(caching[name] for name in ("parameters", "gradients", "optimizer", "rounding"))
    assert caching["fragments"] == expandable["fragments"] == -lasting % (2 * MIB)
    assert other == {**caching, "rounding": 0, "fragments": 0}


def test_large_tensors_have_segments_of_their_own_and_those_between_share_20_mib() -> None:
    found = LastingBlocks(*(np.array([each * MIB]) for each in (0, 3, 25, 1)))  # rounding, small, medium, tails
    assert found.segment_bytes("caching", lambda each: each).tolist() == [(1 + 15 + 1) * MIB]
    assert found.segment_bytes("expandable", lambda each: each).tolist() == [1 * MIB]
    assert found.segment_bytes("other", lambda each: each).tolist() == [0]


def test_a_pool_of_graphs_cannot_share_blocks_with_what_no_graph_replays() -> None:
    """On the first stage that is the table's result, 32 tokens x 64 x 2 bytes, which makes way for layers where nothing is captured."""
    plain, graphs = (_memory(_stack("megatron-core", graphs=each), Plan(pipeline_parallel=2)) for each in ({}, {"any": "all"}))
    assert [each["graph_pools"] for each in plain] == [0, 0]
    assert graphs[0] == {**plain[0], "graph_pools": 32 * 64 * 2}


def test_a_head_that_needs_more_adds_what_layers_need_and_no_more() -> None:
    """However large the vocabulary, since blocks of layers are what stays in their pool."""
    stack = _stack("megatron-core", graphs={"any": "all"})
    large, larger = (_memory(stack, Plan(pipeline_parallel=2), vocab_size=size)[1]["graph_pools"] for size in (2**12, 2**16))
    assert 0 < large == larger


def test_around_experts_what_they_hold_of_tokens_is_not_captured() -> None:
    experts = {"num_experts": 4, "experts_per_token": 2}
    some, all_, none = (
        _memory(_stack("megatron-core", graphs=each), Plan(), **experts)[0] for each in ({"any": "around_experts"}, {"any": "all"}, {})
    )
    assert none["graph_pools"] == 0 < some["graph_pools"]
    assert {**some, "graph_pools": 0} == {**all_, "graph_pools": 0} == none


@pytest.mark.parametrize("degrees", [{}, {"pipeline_parallel": 2}, {"data_parallel": 2, "expert_parallel": 2}])
def test_a_step_that_is_one_graph_or_none_has_one_pool(degrees: dict[str, int]) -> None:
    experts = {"num_experts": 4, "experts_per_token": 2} if "expert_parallel" in degrees else {}
    plan, graphs = Plan(**degrees), ({}, {"any": "unsplit"})
    none, unsplit = (_memory(_stack("megatron-core", graphs=each), plan, **experts) for each in graphs)
    assert none == unsplit


def test_buffers_that_a_compiler_plans_have_no_pools() -> None:
    found = [_memory(_stack("megatron-core", graphs=each, allocator="other"), Plan(pipeline_parallel=2)) for each in ({}, {"any": "all"})]
    assert found[0] == found[1]


def test_what_xla_and_synapse_run_whole_has_no_pools_and_nothing_of_nccl_on_tpu() -> None:
    slice_ = {"base": "tpu-v6e-16x16", "name": "v6e-4", "devices_per_node": 4, "torus": [2, 2], "num_nics": 2, "source": "a test"}
    (tpu,) = parsim.estimate(_scenario("jax-xla-tpu", slice_), Plan(data_parallel=4)).memory_bytes
    (gaudi,) = _memory("megatron-deepspeed-gaudi", Plan(data_parallel=4), "hls-gaudi2-8")
    assert (tpu["graph_pools"], tpu["rounding"], gaudi["graph_pools"], gaudi["rounding"]) == (0, 0, 0, 0)
    assert tpu["communicators"] == 0 < gaudi["communicators"]


def test_only_devices_whose_kernels_are_captured_have_pools_of_graphs() -> None:
    cluster = {"nodes": [{"node": name, "count": 1} for name in ("hgx-h200", "dgx-a100-80gb")], "fabric": "ib-hdr-8rail"}
    batch = {"global_batch": 64, "sequence_length": 32, "dtype": "bf16"}
    stack = _stack("megatron-core", graphs={"a100-sxm4-80gb": "all"})
    found = parsim.from_mapping(
        {"model": MODEL, "cluster": cluster, "batch": batch, "stack": stack, "plans": {"a": {"pipeline_parallel": 2}}}
    )
    plan = Plan(data_parallel=8, pipeline_parallel=2)
    first, last = parsim.estimate(found, plan).memory_bytes
    assert first["graph_pools"] == 0 < last["graph_pools"]
    assert estimates(found, [plan]).peak_bytes.tolist() == [parsim.estimate(found, plan).peak_bytes]


@pytest.mark.parametrize(
    "stack",
    [_stack("nemo-mlperf", graphs={"any": "all"}), *(pytest.param(each, marks=pytest.mark.slow) for each in ("aleph-alpha", "torchtitan"))],
)
def test_many_plans_have_the_peaks_that_each_has_alone(stack: Any) -> None:
    """Several stages a rank, uneven ones, and more ranks than a node has."""
    plans = [
        Plan(data_parallel=8, tensor_parallel=2, pipeline_parallel=2),
        Plan(data_parallel=2, tensor_parallel=8, pipeline_parallel=2, recompute="full"),
        Plan(data_parallel=32),
        Plan(data_parallel=8, pipeline_parallel=4),
    ]
    chosen = _scenario(stack, nodes=4, num_layers=4, num_heads=8)
    assert estimates(chosen, plans).peak_bytes.tolist() == [parsim.estimate(chosen, plan).peak_bytes for plan in plans]


def test_tokens_that_deepep_takes_to_experts_need_no_connections_of_nccl() -> None:
    """Of 4 ranks with an expert each: 3 peers, 32 channels and 12 MiB less."""
    plan = Plan(data_parallel=4, expert_parallel=4)
    straight, by_node = (
        _memory(_stack("megatron-core", dispatch=name), plan, num_experts=4, experts_per_token=2)[0] for name in ("all_to_all", "per_node")
    )
    assert straight["communicators"] - by_node["communicators"] == 3 * 32 * 12 * MIB


def test_a_stack_that_turns_the_switch_off_has_no_buffers_there() -> None:
    plan = Plan(data_parallel=8)
    on, off = (_memory(_stack("megatron-core", nccl=names), plan)[0]["communicators"] for names in (["lazy"], ["lazy", "no_switch"]))
    assert on - off == 8 * 16 * 2 * MIB


def test_a_stack_connects_at_once_or_for_what_needs_it_and_not_both() -> None:
    with pytest.raises(ScenarioError, match="give eager or lazy, one of them"):
        _scenario(_stack("pytorch-2", nccl=["eager", "lazy"]))
