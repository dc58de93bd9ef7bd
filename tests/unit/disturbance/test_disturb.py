"""Steps as distributions against closed forms worked by hand, within the error of so many samples."""

from __future__ import annotations

from collections.abc import Callable
from math import comb, sqrt

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim.disturbance import Disturbed, disturb, draws, monte_carlo
from parsim.disturbance.documents import Documents
from parsim.disturbance.monte_carlo import DisturbedPlan
from parsim.errors import ParsimError
from parsim.estimator.fold import levels_of
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import Disturbance, Jitter, Scenario, Stragglers
from support import CLUSTER, FABRIC, GPT, scenario

FAR = 4.5  # standard errors
REPLICAS = Plan(data_parallel=8)
NOTHING = Disturbance(imbalance=False, samples=1)


def work_s(toy: Scenario, plan: Plan) -> float:
    """What a device computes in a step, which its factor lengthens."""
    parts = parsim.estimate(toy, plan).breakdown_s
    return parts["compute"] + parts["optimizer"]


def test_the_step_of_replicas_waits_for_the_slowest_by_the_harmonic_number():
    # A factor a device and step: all that a replica does is F times as long, and the sum of gradients waits for the largest F of 8.
    toy, slow = scenario(), Disturbance(Jitter("exponential", 0.2, per="step"), samples=4000)
    found = disturb(toy, REPLICAS, slow)
    largest = 1 + 0.2 * (sum(1 / k for k in range(1, 9)) - 1)
    deviation = 0.2 * sqrt(sum(1 / k**2 for k in range(1, 9)))  # of the largest of 8 exponential numbers
    error = work_s(toy, REPLICAS) * deviation / sqrt(4000)
    assert abs(found.mean_s - (found.step_s + work_s(toy, REPLICAS) * (largest - 1))) < FAR * error


def test_devices_of_a_tensor_parallel_group_wait_for_one_another_in_each_pass():
    toy, plan = scenario(), Plan(tensor_parallel=4, data_parallel=1)
    found = disturb(toy, plan, Disturbance(Jitter("uniform", 0.1), samples=4000))
    largest, half = 4 / 5, 0.1 * sqrt(3)  # of the way from 1 - half to 1 + half
    deviation = 2 * half * sqrt(4 / (5**2 * 6))
    error = work_s(toy, plan) * deviation / sqrt(4000)  # of one draw a step; of several a step it is less
    assert abs(found.mean_s - found.step_s - work_s(toy, plan) * half * (2 * largest - 1)) < FAR * error


def test_a_step_straggles_where_any_of_its_devices_does():
    toy, often = scenario(), Stragglers(0.05, 3.0)
    found = disturb(toy, REPLICAS, Disturbance(stragglers=often, samples=4000))
    slow = 1 - (1 - often.probability) ** 8
    share = sum(step_s > found.step_s for step_s in found.steps_s) / 4000
    assert abs(share - slow) < FAR * sqrt(slow * (1 - slow) / 4000)
    assert sorted({*found.steps_s}) == pytest.approx([found.step_s, found.step_s + 2 * work_s(toy, REPLICAS)], abs=1e-11)


def test_one_slow_device_holds_up_all_that_wait_for_it():
    toy = scenario()
    for plan in (Plan(), REPLICAS, Plan(tensor_parallel=4, data_parallel=2)):
        found = disturb(toy, plan, Disturbance(slow_devices={plan.num_devices - 1: 1.5}, samples=2))
        assert found.mean_s == pytest.approx(found.step_s + 0.5 * work_s(toy, plan), abs=1e-11)  # two ends are rounded
        assert {each.step_s for each in found.slow_devices if each.factor == 1.5} == {found.mean_s}


def test_a_slow_device_that_a_plan_does_not_use_costs_nothing():
    found = disturb(scenario(), REPLICAS, Disturbance(slow_devices={8: 9.0}, slow_nodes={3: 9.0}, slow_links={3: 0.1}, samples=1))
    assert found.mean_s == found.step_s


def test_a_ring_is_as_fast_as_its_slowest_edge():
    # Replicas on 4 nodes: with one NIC at half its bandwidth the sum of gradients takes as long as with all NICs at half.
    toy, plan = scenario(batch=Batch(16, 8)), Plan(data_parallel=16)
    nic = replace(FABRIC.nic, bandwidth_bytes_per_s=FABRIC.nic.bandwidth_bytes_per_s / 2)
    all_slow = replace(toy, cluster=replace(CLUSTER, fabric=replace(FABRIC, nic=nic)))
    found = disturb(toy, plan, Disturbance(slow_links={2: 0.5}, samples=1))
    assert found.mean_s == parsim.estimate(all_slow, plan).step_s > found.step_s


def test_steps_differ_by_the_documents_that_replicas_draw():
    # Rows of one document of 8 tokens, or of two of 4; a quarter of the rows are of one.  A step takes as long as the row with most pairs.
    batch = Batch(4, 8, packing="packed", lengths=(8, *[4] * 6))
    toy, plan = scenario(batch=batch, stack=replace(scenario().stack, attention="flash")), Plan(data_parallel=4)
    one, two = (parsim.estimate(replace(toy, batch=replace(batch, lengths=each)), plan).step_s for each in ((8,), (4, 4)))
    found = disturb(toy, plan, Disturbance(samples=4000))
    assert found.step_s == two < one and {*found.steps_s} == {one, two}
    slow = 1 - 0.75**4
    assert abs(sum(step_s == one for step_s in found.steps_s) / 4000 - slow) < FAR * sqrt(slow * (1 - slow) / 4000)


def test_micro_batches_of_a_replica_add_what_their_documents_cost():
    batch = Batch(3, 8, packing="packed", lengths=(8, 4, 4))
    toy = scenario(batch=batch, stack=replace(scenario().stack, attention="flash"))
    one, two = (parsim.estimate(replace(toy, batch=replace(batch, lengths=each)), Plan()).step_s for each in ((8,), (4, 4)))
    found = disturb(toy, Plan(), Disturbance(samples=4000))
    for count in range(4):
        step_s, chance = two + (one - two) * count / 3, comb(3, count) / 8
        share = sum(each == pytest.approx(step_s, abs=1e-11) for each in found.steps_s) / 4000
        assert abs(share - chance) < FAR * sqrt(chance * (1 - chance) / 4000), count


def test_a_cause_has_the_same_draws_alone_and_with_others():
    toy, jitter = scenario(), Jitter("gamma", 0.1)
    found = disturb(toy, REPLICAS, Disturbance(jitter, Jitter("gamma", 0.3), samples=50, seed=4))
    alone = disturb(toy, REPLICAS, Disturbance(jitter, samples=50, seed=4))
    assert [each.name for each in found.causes] == ["jitter of kernels", "jitter of links"]
    assert found.causes[0].mean_s == alone.mean_s == alone.causes[0].mean_s < found.mean_s
    assert disturb(toy, REPLICAS, Disturbance(jitter, samples=50, seed=5)).mean_s != alone.mean_s


def test_a_thousand_samples_take_as_many_rounds_as_one():
    # 1F1B's critical path: 2 (m + p - 1) actions, each of which is one round of all ranks and samples.
    toy = scenario(model=replace(GPT, num_layers=16), batch=Batch(64, 8))
    made = DisturbedPlan.of(toy, Plan(pipeline_parallel=16), NOTHING)
    assert len([*levels_of(made.usual.rounds, made.usual.loops)]) == 2 * (64 + 16 - 1)
    assert made.usual.num_actions == 2 * 16 * 64


def test_a_result_goes_to_plain_values_and_back():
    found = disturb(scenario(), REPLICAS, Disturbance(Jitter("gamma", 0.1), samples=5))
    assert Disturbed.from_dict(found.to_dict()) == found
    assert [row["step_s"] for row in found.records()] == [*found.steps_s]
    assert found.p50_s == sorted(found.steps_s)[2] and found.p99_s == max(found.steps_s)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ParsimError, match="nothing disturbs a step\\n  Add a section: disturbance"):
        disturb(scenario(), REPLICAS)
    with pytest.raises(ParsimError, match=r"slow_devices\.99: there is no device 99"):
        disturb(scenario(), REPLICAS, Disturbance(slow_devices={99: 2.0}))
    with pytest.raises(ParsimError, match=r"Lower disturbance\.samples"):
        disturb(scenario(batch=Batch(4096, 8)), REPLICAS, Disturbance(Jitter("gamma", 0.1), samples=1_000_000))


def test_samples_that_are_drawn_in_parts_are_as_many(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("parsim.disturbance.monte_carlo._MOST_VALUES", 60)
    found = disturb(scenario(), REPLICAS, Disturbance(Jitter("gamma", 0.1), samples=50))
    assert len({*found.steps_s}) == 50 and np.mean(found.steps_s) == pytest.approx(found.mean_s)


def _one_device_stands_for_its_group(patch: pytest.MonkeyPatch) -> None:
    right = draws.draw_slowest
    patch.setattr(draws, "draw_slowest", lambda jitter, rng, shape, count: right(jitter, rng, shape, 1))


def _all_devices_lie_where_the_first_pipeline_does(patch: pytest.MonkeyPatch) -> None:
    right = monte_carlo.DisturbedPlan.run_of
    patch.setattr(monte_carlo.DisturbedPlan, "run_of", lambda self, disturbance, pipeline: right(self, disturbance, 0))


def _documents_are_the_usual_ones(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Documents, "of", lambda batch: None)


def _replicas_draw_the_same(patch: pytest.MonkeyPatch) -> None:
    right = draws.Draws.factors
    patch.setattr(draws.Draws, "factors", lambda self, pipeline, part, num_samples: right(self, 0, part, num_samples))


MUTANTS = {
    _one_device_stands_for_its_group: test_devices_of_a_tensor_parallel_group_wait_for_one_another_in_each_pass,
    _all_devices_lie_where_the_first_pipeline_does: test_a_ring_is_as_fast_as_its_slowest_edge,
    _documents_are_the_usual_ones: test_micro_batches_of_a_replica_add_what_their_documents_cost,
    _replicas_draw_the_same: test_the_step_of_replicas_waits_for_the_slowest_by_the_harmonic_number,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_wrong_disturbance_is_found(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch):
    mutant(monkeypatch)
    with pytest.raises((AssertionError, ValueError)):
        MUTANTS[mutant]()
