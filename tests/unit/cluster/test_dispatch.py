"""Tokens that go to a node once: expected counts by enumeration, and never slower than a message a slot between nodes."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from parsim.cluster import network
from parsim.cluster.cluster import Cluster
from parsim.cluster.dispatch import per_node_s, share_that_meets
from parsim.cost import timing
from parsim.estimator.estimate import stages_of
from parsim.parallel.plan import ALL_TO_ALL, PER_NODE, Batch, Plan, Stack
from parsim.schedules.phase import Phase
from parsim.step.task import Collective
from support import CLUSTER, MOE, STACK, scenario


@pytest.mark.parametrize(("experts", "held", "chosen"), [(8, 2, 3), (6, 3, 2), (4, 1, 4), (8, 8, 1)])
def test_the_share_of_tokens_is_that_of_all_choices(experts: int, held: int, chosen: int) -> None:
    every = list(combinations(range(experts), chosen))
    assert float(share_that_meets(experts, held, chosen)) == pytest.approx(sum(min(each) < held for each in every) / len(every))


def across_s(cluster: Cluster, copies: float) -> float:
    """By hand: of 4 nodes of 4 devices, with a NIC each of 50 MB/s at 0.9; 1 MB of tokens a rank, 16 ranks."""
    return copies * 1e6 / (50e6 * 0.9)


def test_a_token_goes_to_a_node_once() -> None:
    """3 other nodes, which a token that chooses 4 of 16 experts meets with a chance of 1 - C(12, 4) / C(16, 4)."""
    wire = 4 * 1e6 * 15 / 16
    free = replace(CLUSTER, node=replace(CLUSTER.node, law=replace(CLUSTER.node.law, ring_bytes_per_s=1e12)))
    law = network.all_to_all_rates(free, *network.floats(16, 1, 4, 4)[1])
    found = float(per_node_s(free, wire, 16, 1, num_experts=16, experts_per_token=4)) - float(np.ravel(law[0])[0])
    assert found == pytest.approx(across_s(free, 3 * (1 - 495 / 1820)), rel=1e-9)


def exchanges_s(stack: Stack, ranks: int = 4) -> dict[str, float]:
    """Of a forward of a layer of 4 experts: 4 sequences of 8 tokens a rank that choose 2 each, 12 wide, in 2 bytes."""
    case = scenario(model=MOE, batch=Batch(4 * ranks, 8), stack=stack, cluster=replace(CLUSTER, num_nodes=1))
    workload = stages_of(case, Plan(data_parallel=ranks, expert_parallel=ranks, micro_batch=4)).workload
    tasks = [task for task in workload.step.segments["expert_layer"].phases[Phase.F] if isinstance(task, Collective)]
    return {task.name: int(workload.ps(task)[0]) * 1e-12 for task in tasks if task.operation == "all_to_all"}


def test_a_stack_says_so_and_only_seconds_change() -> None:
    slots, once = (sum(exchanges_s(replace(STACK, dispatch=each)).values()) for each in (ALL_TO_ALL, PER_NODE))
    assert 0 < once < slots


def order_s(monkeypatch: pytest.MonkeyPatch, ranks: int) -> float:
    """What tokens on their way to experts take longer than their exchange."""
    with_order = exchanges_s(STACK, ranks)["dispatch.all_to_all"]
    with monkeypatch.context() as patch:
        patch.setattr(timing, "_order_s", lambda *rest: 0.0)
        return with_order - exchanges_s(STACK, ranks)["dispatch.all_to_all"]


def test_messages_a_slot_are_put_in_order_of_experts_where_a_rank_has_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel reads and writes all slots of a rank: 1 us, and bytes at 0.8 of 1 GB/s."""
    assert order_s(monkeypatch, 2) == pytest.approx(1e-6 + 2 * (4 * 8 * 2 * 12 * 2) / (0.8 * 1e9), rel=1e-6)
    assert order_s(monkeypatch, 4) == 0


def test_what_layers_of_another_micro_batch_hide_is_a_share_of_exchanges() -> None:
    for dispatch in (ALL_TO_ALL, PER_NODE):
        stack = replace(STACK, dispatch=dispatch)
        shown, hidden = exchanges_s(stack), exchanges_s(replace(stack, hidden_exchanges={"toy": 0.25, "any": 0.5}))
        assert hidden == pytest.approx({name: 0.75 * each for name, each in shown.items()})
