"""Contention on: never earlier than the estimate, the same to the picosecond where nothing overlaps, and every loss accounted for."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from msgspec.structs import replace
from test_estimate_equals_simulate import plans

from parsim.cluster.link import CollectiveLaw, Link
from parsim.estimator.estimate import estimate
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import Scenario
from parsim.simulator import Trace, simulate
from parsim.simulator.network import SharedLinks
from support import CLUSTER, FABRIC, FREE_NODE, STACK, examples, hold, scenario

OVERLAPPED = replace(STACK, gradient_overlap=True, tensor_overlap=True)


@st.composite
def contended(draw: st.DrawFn) -> tuple[Scenario, Plan]:
    """A drawn plan on a cluster whose NICs, leaves and node wires are slow enough to meet on."""
    chosen, plan = draw(plans())
    rate = draw(st.sampled_from([1e6, 1e8]))
    node = replace(
        FREE_NODE, topology=draw(st.sampled_from(["switched_node", "pcie_tree"])), law=CollectiveLaw(1e-6, 1e-6, rate, rate, 1e-9)
    )
    nic = replace(FABRIC.nic, bandwidth_bytes_per_s=draw(st.sampled_from([1e5, 1e7])))
    over = draw(st.sampled_from([1.0, 3.0]))
    fabric = replace(FABRIC, nic=nic, topology="fat_tree", oversubscription=over, nodes_per_leaf=2, ramp_s_per_sqrt_byte=1e-8)
    sites = draw(st.sampled_from([1, 16]))
    sea = Link("sea", draw(st.sampled_from([1e5, 1e8])), 1e-4)
    return replace(chosen, cluster=replace(CLUSTER, node=node, fabric=fabric, num_sites=sites, site_link=sea)), plan


def communication_ps(trace: Trace) -> Counter[tuple[int, str, str]]:
    """Picoseconds by rank, stream and name of all that is sent."""
    found: Counter[tuple[int, str, str]] = Counter()
    for span in trace.spans:
        if span.stream != "compute" or ":" in span.name:
            found[span.rank, span.stream, span.name] += span.end_ps - span.start_ps
    return found


@examples(8, 80)
def test_sharing_never_ends_a_step_earlier_and_every_picosecond_lost_has_a_link(num_examples: int) -> None:
    hold(accounted_for, contended(), num_examples)


def accounted_for(drawn: tuple[Scenario, Plan]) -> None:
    """Every picosecond that a step with sharing takes longer is."""
    alone, shared = simulate(*drawn, spans=True), simulate(*drawn, contention=True)
    assert round(estimate(*drawn).step_s * 1e12) == alone.step_ps <= shared.step_ps
    assert (alone.peak_bytes, alone.flops) == (shared.peak_bytes, shared.flops)
    before, after = communication_ps(alone), communication_ps(shared)
    assert all(after[key] >= ps for key, ps in before.items())
    lost, rounding = sum(loss.lost_ps for loss in shared.losses), len(shared.spans) + 1e-9 * shared.step_ps
    assert abs(after.total() - before.total() - lost) <= rounding
    if not shared.losses:
        assert shared.spans == alone.spans


@examples(6, 40)
def test_without_overlap_sharing_changes_no_picosecond(num_examples: int) -> None:
    hold(unchanged, contended(), num_examples)


def unchanged(drawn: tuple[Scenario, Plan]) -> None:
    """A step in which nothing overlaps is, with sharing or without."""
    chosen, plan = drawn
    quiet = replace(chosen, stack=replace(chosen.stack, gradient_overlap=False, tensor_overlap=False))
    one_stage = replace(plan, pipeline_parallel=1, virtual_pipeline=1, schedule="1f1b", layers_per_stage=None)
    alone, shared = simulate(quiet, one_stage, spans=True), simulate(quiet, one_stage, contention=True)
    assert (shared.step_ps, shared.spans, shared.losses) == (alone.step_ps, alone.spans, ())


def crowded() -> tuple[Scenario, Plan]:
    """Two stages on nodes of their own, whose gradients leave by the NICs by which activations and their gradients come."""
    nic = replace(FABRIC.nic, bandwidth_bytes_per_s=1e5)
    cluster = replace(CLUSTER, node=FREE_NODE, fabric=replace(FABRIC, nic=nic, efficiency=1.0, p2p_efficiency=1.0))
    plan = Plan(tensor_parallel=4, pipeline_parallel=2, data_parallel=2, virtual_pipeline=2, schedule="interleaved_1f1b")
    return scenario(cluster=cluster, stack=OVERLAPPED, batch=Batch(8, 8)), plan


def test_gradients_and_messages_on_the_same_nics_delay_each_other() -> None:
    chosen, plan = crowded()
    shared = simulate(chosen, plan, contention=True)
    assert shared.step_ps > simulate(chosen, plan).step_ps
    assert {("dp", "send_B"), ("send_B", "dp")} <= {(stream, other) for _, stream, other in shared.lost_s()}
    assert {link for link, _, _ in shared.lost_s()} == {"toy nic"}
    assert shared.lost_s("send").keys() == {key for key in shared.lost_s() if key[1].startswith("send")}
    assert 0 < shared.busy_s()["toy nic"] <= shared.step_s


@pytest.mark.parametrize("algorithm", ["tree", "ring", "halving_doubling"])
def test_a_collective_by_an_algorithm_that_the_stack_names_shares_links_too(algorithm: str) -> None:
    chosen, plan = crowded()
    named = replace(chosen, stack=replace(chosen.stack, collectives={"all_reduce": algorithm}))
    shared = simulate(named, plan, contention=True)
    assert shared.step_ps > simulate(named, plan).step_ps
    assert ("toy nic", "dp", "send_B") in shared.lost_s()


def test_what_passes_between_a_device_and_its_host_meets_nobody() -> None:
    chosen, plan = crowded()
    apart = replace(chosen, stack=STACK), replace(plan, offload_optimizer=True)
    alone, shared = simulate(*apart), simulate(*apart, contention=True)
    assert {span.name for span in shared.spans if span.stream == "host"} == {"gradients_to_host", "update", "weights_from_host"}
    assert shared.step_ps >= alone.step_ps
    assert not any(loss.stream == "host" for loss in shared.losses)


def test_two_simulations_of_one_step_are_alike_to_the_last_event() -> None:
    assert simulate(*crowded(), contention=True) == simulate(*crowded(), contention=True)


def test_mutant_a_network_without_links_turns_the_delay_of_gradients_and_messages_red(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SharedLinks.carry
    monkeypatch.setattr(SharedLinks, "carry", lambda self, leg, *names: right(self, leg._replace(loads=()), *names))
    chosen, plan = crowded()
    assert simulate(chosen, plan, contention=True).step_ps == simulate(chosen, plan).step_ps
