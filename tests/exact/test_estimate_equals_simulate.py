"""estimate == simulate in integer picoseconds, on plans, stacks and hardware drawn by hypothesis."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from parsim.cluster.link import CollectiveLaw, Link
from parsim.estimator.estimate import estimate, estimates, stages_of
from parsim.estimator.memory import counted_peak_bytes
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario import Scenario
from parsim.schedules import names_for
from parsim.simulator import simulate
from support import CLUSTER, GPT, NODE, STACK, STACKS, examples, hold, scenario

FUSIONS = ("bias", "gelu", "swiglu", "rms_norm", "dropout_add", "gradient_accumulation", "loss_in_place", "narrow_loss")


@st.composite
def plans(draw: st.DrawFn) -> tuple[Scenario, Plan]:
    """A legal plan of a small GPT on a cluster of random speed."""
    tp, pp, dp = (draw(st.sampled_from([1, 2, 4])) for _ in range(3))
    vpp = draw(st.sampled_from([1, 2, 3])) if pp > 1 else 1
    plan = Plan(
        data_parallel=dp,
        tensor_parallel=tp,
        pipeline_parallel=pp,
        virtual_pipeline=vpp,
        sequence_parallel=tp > 1 and draw(st.booleans()),
        micro_batch=draw(st.sampled_from([1, 2])),
        schedule=draw(st.sampled_from(names_for(pp, vpp))),
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
        gradient_sync=draw(st.sampled_from(["all_reduce", "master"])),
        zero_stage=draw(st.sampled_from([0, 1, 2, 3])),
        optimizer=draw(st.sampled_from(["adamw", "adamw_8bit", "sgd_momentum"])),
        rank_order=draw(st.sampled_from(["tp-dp-pp", "pp-dp-tp", "dp-pp-tp"])),
    )
    rounds = draw(st.integers(1, 4))
    batch = Batch(rounds * pp * dp * plan.micro_batch, 8, draw(st.sampled_from(["bf16", "fp32"])))
    stack = Stack(
        "drawn",
        attention=draw(st.sampled_from(["unfused", "fused_softmax", "flash"])),
        fusions=tuple(f for f in FUSIONS if draw(st.booleans())),
        gradient_dtype=draw(st.sampled_from(["fp32", "compute"])),
        tensor_overlap=draw(st.booleans()),
        gradient_overlap=draw(st.booleans()),
        scatter_gather=draw(st.booleans()),
        layer_split=draw(st.sampled_from(["even", "embedding_and_head"])),
        vocab_multiple=8,
        host_launch_s=draw(st.sampled_from([0.0, 2e-6, 1e-4])),
    )
    model = replace(
        GPT,
        num_layers=draw(st.integers(pp * vpp, pp * vpp + 5)),
        tied_embedding=draw(st.booleans()),
        dropout=draw(st.sampled_from([0.0, 0.1])),
    )
    rate = draw(st.sampled_from([1e6, 1e8, 1e10]))
    sites = draw(st.sampled_from([1, 4, 16]))  # of 64, 16 or 4 devices
    sea = Link("sea", draw(st.sampled_from([1e5, 1e8])), draw(st.sampled_from([1e-6, 1e-3])))
    cluster = replace(CLUSTER, node=replace(NODE, law=CollectiveLaw(1e-6, 1e-6, rate, rate, 1e-9)), num_sites=sites, site_link=sea)
    assume(not faults(plan, model, batch, plan.num_devices))
    return scenario(model=model, batch=batch, stack=stack, cluster=cluster), plan


@examples(10, 150)
def test_estimate_equals_simulate_to_the_picosecond_and_to_the_byte(num_examples: int) -> None:
    hold(equal, plans(), num_examples)


def equal(drawn: tuple[Scenario, Plan]) -> None:
    """Estimate and simulation of a plan are."""
    chosen, plan = drawn
    trace, predicted = simulate(chosen, plan), estimate(chosen, plan)
    assert round(predicted.step_s * 1e12) == trace.step_ps
    assert trace.peak_bytes == tuple(counted_peak_bytes(stages_of(chosen, plan))[:, 0].tolist())
    assert trace.flops == predicted.flops


@settings(max_examples=20, deadline=None)
@given(plans())
def test_an_action_as_one_event_takes_the_time_of_its_streams(drawn: tuple[Scenario, Plan]) -> None:
    folded, walked = simulate(*drawn), simulate(*drawn, spans=True)
    assert replace(walked, spans=(), num_events=0) == replace(folded, num_events=0)
    assert (folded.spans, max(span.end_ps for span in walked.spans)) == ((), walked.step_ps)


SPLIT = ("0F0 0F1 0I0 0F2 0I1 0W0 0F3 0I2 0W1 0I3 0W2 0W3", "1F0 1I0 1W0 1F1 1I1 1W1 1F2 1I2 1W2 1F3 1I3 1W3")


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_backward_in_two_phases_takes_the_same_time_and_bytes_in_both(stack: Stack, zero_stage: int) -> None:
    plan = Plan(pipeline_parallel=2, data_parallel=2, zero_stage=zero_stage, schedule=SPLIT, recompute="selective")
    chosen = scenario(stack=stack)
    predicted, folded, walked = estimate(chosen, plan), simulate(chosen, plan), simulate(chosen, plan, spans=True)
    assert round(predicted.step_s * 1e12) == folded.step_ps == walked.step_ps
    assert folded.peak_bytes == tuple(counted_peak_bytes(stages_of(chosen, plan))[:, 0].tolist())
    assert folded.flops == predicted.flops


@settings(max_examples=30, deadline=None)
@given(plans())
def test_a_breakdown_accounts_for_every_picosecond_of_the_step_and_nothing_is_negative(drawn: tuple[Scenario, Plan]) -> None:
    predicted = estimate(*drawn)
    assert abs(sum(predicted.breakdown_s.values()) - predicted.step_s) < 1e-15 * len(predicted.breakdown_s) + 1e-12 * predicted.step_s
    assert all(value >= 0 for value in predicted.breakdown_s.values())


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]), st.sampled_from(["none", "full"])), min_size=2, max_size=6))
def test_a_plan_among_many_is_priced_as_it_is_alone(degrees: list[tuple[int, int, str]]) -> None:
    many = [Plan(tensor_parallel=tp, pipeline_parallel=pp, recompute=recompute) for tp, pp, recompute in degrees]
    chosen = scenario(stack=replace(STACK, gradient_overlap=True))
    together = estimates(chosen, many)
    for index, plan in enumerate(many):
        alone = estimate(chosen, plan)
        assert together.step_s[index] == alone.step_s
        assert together.peak_bytes[index] == alone.peak_bytes
