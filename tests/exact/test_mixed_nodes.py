"""Pipelines over nodes of several kinds: all readers agree, each stage takes its own kind's time, a message that of its slower end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim.cluster.cluster import Cluster, Node, NodeGroup
from parsim.cost import workloads
from parsim.cost.shape import StageKind
from parsim.cost.workload import Workload
from parsim.estimator.estimate import stages_of
from parsim.estimator.pipeline import rank_ends
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import Scenario
from parsim.step.task import Send
from parsim.verify import verify_plan
from support import FABRIC, GPT, LINK, NODE, STACKS, TOY, enough, forget_steps, scenario, tiered

# Half of everything a second, and twice as long to start anything.
HALF = replace(
    TOY,
    name="half",
    peak_flops_per_s={dtype: rate / 2 for dtype, rate in TOY.peak_flops_per_s.items()},
    hbm_bandwidth_bytes_per_s=TOY.hbm_bandwidth_bytes_per_s / 2,
    gemm=replace(TOY.gemm, launch_s=2 * TOY.gemm.launch_s),
    attention=replace(TOY.attention, launch_s=2 * TOY.attention.launch_s),
    elementwise=replace(TOY.elementwise, launch_s=2 * TOY.elementwise.launch_s),
)
SLOT = replace(LINK, name="narrow slot", bandwidth_bytes_per_s=2e7)  # less than the NIC, 5e7
OLD = replace(NODE, name="old node", accelerator=HALF, nic_link=SLOT)
ADDING = replace(NODE, name="new node", switch_adds=True)  # where all_reduce sends less than round a ring


def cluster(*nodes: Node, **others: Any) -> Cluster:
    return Cluster.of_groups([NodeGroup(node, 1) for node in nodes], FABRIC, **others)


def part(node: Node, devices: int) -> Node:
    return replace(node, devices_per_node=devices)


TWO, HALVES = cluster(NODE, OLD), (part(NODE, 2), part(OLD, 2))
PLANS: dict[str, tuple[dict[str, object], Cluster]] = {
    "pp": ({"pipeline_parallel": 2, "tensor_parallel": 4}, TWO),
    "uneven": ({"pipeline_parallel": 4, "tensor_parallel": 2, "layers_per_stage": (1, 1, 1, 1)}, TWO),
    "zero": ({"pipeline_parallel": 2, "data_parallel": 4, "zero_stage": 1}, cluster(OLD, NODE)),
    "vpp": ({"pipeline_parallel": 2, "virtual_pipeline": 2, "data_parallel": 4, "schedule": "interleaved_1f1b"}, TWO),
    "dual": ({"pipeline_parallel": 2, "virtual_pipeline": 2, "data_parallel": 4, "schedule": "dual_pipe_v"}, TWO),
    "mirrored": ({"pipeline_parallel": 2, "data_parallel": 2, "schedule": "dual_pipe"}, cluster(*HALVES)),
    "zb": ({"pipeline_parallel": 4, "data_parallel": 2, "schedule": "zero_bubble_h1"}, TWO),
    "middle": ({"pipeline_parallel": 3, "data_parallel": 4, "layers_per_stage": (1, 2, 1)}, cluster(NODE, OLD, NODE)),
    "turns": ({"pipeline_parallel": 2, "tensor_parallel": 2, "data_parallel": 2, "rank_order": "tp-pp-dp"}, cluster(*HALVES, *HALVES)),
    "switch": ({"pipeline_parallel": 2, "tensor_parallel": 4, "data_parallel": 2}, cluster(part(ADDING, 8), part(OLD, 8))),
}  # fmt: skip


def over(name: str, **others: Any) -> tuple[Scenario, Plan]:
    axes, nodes = PLANS[name]
    plan = Plan(**axes)  # type: ignore[arg-type]
    return scenario(batch=enough(plan), cluster=nodes, **others), plan


@pytest.mark.parametrize("name", [tiered(name, name, slow=name not in ("pp", "turns")) for name in PLANS])
def test_readers_agree_on_stages_of_two_kinds(name: str) -> None:
    assert [check for check in verify_plan(*over(name, stack=STACKS[1]), name) if not check.ok] == []


@pytest.mark.parametrize("name", [tiered(name, name, slow=name not in ("vpp", "middle")) for name in PLANS])
def test_estimate_is_simulate_on_two_kinds(name: str) -> None:
    for stack in STACKS[1:3]:
        toy, plan = over(name, stack=stack)
        assert parsim.estimate(toy, plan).step_s == parsim.simulate(toy, plan).step_s == parsim.simulate(toy, plan, spans=True).step_s


def test_kinds_in_two_sites_agree() -> None:
    toy, plan = over("pp")
    apart = replace(toy, cluster=replace(toy.cluster, num_sites=2, site_link=replace(LINK, bandwidth_bytes_per_s=1e6, latency_s=3e-4)))
    near, far = (parsim.estimate(each, plan).step_s for each in (toy, apart))
    assert near < far == parsim.simulate(apart, plan).step_s


def times_of(node: Node, plan: Plan, batch: Batch, model: ModelSpec) -> tuple[list[list[int]], list[int]]:
    """Picoseconds of forward and backward of each stage where all nodes are of a kind, and of the messages either way."""
    stages = stages_of(scenario(model=model, batch=batch, cluster=Cluster(node, 2, FABRIC)), plan)
    shape, phases = stages.workload.shape, stages.workload.phases
    kinds = [shape.classes[index].kind for index in shape.index.tolist()]
    both = [[int(stages.total_ps(kind, phase)[0]) for kind in kinds] for phase in phases]
    first, last = (
        next(task for task in stages.pass_of(kind, phase).epilogue if isinstance(task, Send))
        for kind, phase in zip((kinds[0], kinds[-1]), phases, strict=True)
    )
    return both, [int(stages.workload.ps(task)[0]) for task in (first, last)]


def end_by_hand(plan: Plan, batch: Batch, nodes: tuple[Node, Node], model: ModelSpec) -> int:
    """When the passes of two stages end under 1F1B, from the times of each kind by itself: F0 F1 B0 F2 B1 ... and F0 B0 F1 B1 ..."""
    (((f0, _), (b0, _)), sent), (((_, f1), (_, b1)), sent_back) = (times_of(node, plan, batch, model) for node in nodes)
    there, back = (max(each) for each in zip(sent, sent_back, strict=True))  # by the slower end
    first = second = left = left_back = 0
    arrivals = []
    for m in range(-2, plan.num_micro_batches(batch)):
        if m >= 0:
            second = max(second, arrivals[m]) + f1 + b1
            left_back = max(second, left_back) + back
            first = max(first, left_back) + b0
        if len(arrivals) < plan.num_micro_batches(batch):
            first += f0
            left = max(first, left) + there
            arrivals.append(left)
    return max(first, second)


SPLITS = {"even": (3, 3), "balanced": (4, 2)}


def passes_ps(nodes: tuple[Node, Node], layers: tuple[int, ...], micro_batches: int) -> tuple[int, int]:
    """When the passes end, as estimated and by hand."""
    plan, batch = Plan(pipeline_parallel=2, tensor_parallel=4, layers_per_stage=layers), Batch(micro_batches, 8)
    model = replace(GPT, num_layers=sum(layers))
    (ends,) = rank_ends([stages_of(scenario(model=model, batch=batch, cluster=cluster(*nodes)), plan)])
    return int(ends.ends.max()), end_by_hand(plan, batch, nodes, model)


@pytest.mark.parametrize("name", SPLITS)
def test_a_step_is_played_by_hand_from_the_times_of_each_kind_by_itself(name: str) -> None:
    for nodes in ((NODE, OLD), (OLD, NODE)):
        for count in (1, 5):
            estimated, by_hand = passes_ps(nodes, SPLITS[name], count)
            assert estimated == by_hand


def test_layers_in_proportion_to_speed_beat_as_many_of_each() -> None:
    even, balanced = (passes_ps((NODE, OLD), layers, 16)[0] for layers in SPLITS.values())
    assert balanced < even
    even, balanced = (passes_ps((NODE, NODE), layers, 16)[0] for layers in SPLITS.values())
    assert even < balanced


def _first_kind_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "_nodes", lambda plans, cluster: ([(0, 0)], np.zeros(plans.num_plans, dtype=np.int64)))


def _own_end_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StageKind, "ends", lambda kind, phase: (kind.node,))


@pytest.mark.parametrize("mutate", [_first_kind_alone, _own_end_alone])
def test_mutants_that_price_all_by_one_kind_are_noticed(mutate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()
    mutate(monkeypatch)
    estimated, by_hand = passes_ps((NODE, OLD), SPLITS["even"], 2)
    forget_steps()
    assert estimated < by_hand


def test_a_mutant_simulator_that_lays_all_ranks_on_the_first_kind_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    toy, plan = over("pp")
    monkeypatch.setattr(Workload, "node_of", lambda workload, rank: 0)
    assert parsim.simulate(toy, plan).step_s < parsim.estimate(toy, plan).step_s


def test_links_that_are_shared_are_those_of_the_nodes_at_their_ends() -> None:
    toy, plan = over("pp")
    found = parsim.simulate(toy, plan, contention=True)
    assert found.step_s >= parsim.estimate(toy, plan).step_s
    names = {str(each) for each in found.links}
    assert any("toy nic" in each and "node 0" in each for each in names) and any(
        "narrow slot" in each and "node 1" in each for each in names
    )
