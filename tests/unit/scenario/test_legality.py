"""A plan that does not fit names the field, the reason and what would fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import parsim
from parsim.errors import ParsimError, PlanError
from parsim.model.transformer import TransformerSpec
from parsim.parallel.fault import divisors
from parsim.parallel.legality import faults, legal_degrees
from parsim.parallel.plan import Batch, Plan
from support import scenario

MODEL = TransformerSpec(
    name="m", num_layers=12, hidden_size=64, ffn_hidden_size=256, num_heads=8, num_kv_heads=4, head_dim=8, vocab_size=128, max_positions=64
)
BATCH = Batch(48, 64)


def found(plan, num_devices=None, model=MODEL, batch=BATCH):
    return [(each.field, str(each)) for each in faults(plan, model, batch, num_devices or plan.num_devices)]


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(tensor_parallel=4, sequence_parallel=True, data_parallel=3, pipeline_parallel=2),
        Plan(pipeline_parallel=5),  # 12 layers on 5 stages: a split rule applies
        Plan(pipeline_parallel=2, virtual_pipeline=3, schedule="interleaved_1f1b"),
        Plan(pipeline_parallel=3, layers_per_stage=(3, 5, 4)),
        Plan(pipeline_parallel=12),
        Plan(data_parallel=6, micro_batch=8, recompute="full", gradient_sync="master"),
    ],
)
def test_a_plan_that_fits_has_no_fault(plan):
    assert found(plan) == []


@pytest.mark.parametrize(
    ("plan", "field", "said"),
    [
        (Plan(tensor_parallel=3), "tensor_parallel", 'tensor_parallel = 3 does not divide num_kv_heads = 4 of model "m". Legal: 1, 2, 4'),
        (Plan(tensor_parallel=16), "tensor_parallel", 'not divide num_heads = 8 of model "m". Legal: 1, 2, 4, 8 (above 4, kv heads are'),
        (Plan(sequence_parallel=True), "sequence_parallel", "but tensor_parallel = 1. Set tensor_parallel above 1"),
        (
            Plan(pipeline_parallel=13),
            "pipeline_parallel",
            '13 stages are more than the 12 layers of model "m". Legal pipeline_parallel: at most 12',
        ),
        (
            Plan(pipeline_parallel=4, virtual_pipeline=4, schedule="interleaved_1f1b"),
            "virtual_pipeline",
            "Legal virtual_pipeline: at most 3",
        ),
        (
            Plan(pipeline_parallel=2, virtual_pipeline=2),
            "schedule",
            "Set schedule = breadth_first or combined_1f1b or combined_1f1b_delayed or",
        ),
        (Plan(virtual_pipeline=2, schedule="interleaved_1f1b"), "virtual_pipeline", "needs a pipeline, but pipeline_parallel = 1"),
        (
            Plan(micro_batch=5),
            "micro_batch",
            "= 1 x 5 = 5 does not divide global_batch = 48. Legal micro_batch: 1, 2, 3, 4, 6, 8, 12, 16, 24, 48",
        ),
        (Plan(data_parallel=5), "data_parallel", "Legal data_parallel: 1, 2, 3, 4, 6, 8, 12, 16, 24, 48"),
        (Plan(pipeline_parallel=2, layers_per_stage=(6, 5)), "layers_per_stage", "Give 2 numbers that sum to 12"),
        (Plan(pipeline_parallel=2, layers_per_stage=(12,)), "layers_per_stage", "has 1 entries that sum to 12"),
        (Plan(pipeline_parallel=2, layers_per_stage=(12, 0)), "layers_per_stage", "positive whole number"),
        (Plan(schedule="1f1"), "schedule", "unknown schedule '1f1' (did you mean '1f1b'?). Legal: 1f1b, breadth_first, combined"),
        (Plan(recompute="some"), "recompute", "Legal: none, selective, full"),
        (Plan(gradient_sync="sum"), "gradient_sync", "Legal: all_reduce, master"),
        (Plan(tensor_parallel=0), "tensor_parallel", "tensor_parallel = 0 is not a positive whole number"),
        (Plan(micro_batch=True), "micro_batch", "micro_batch = True is not of type int"),
    ],
)
def test_a_plan_that_does_not_fit_has_one_fault_that_names_what_would(plan, field, said):
    ((where, text),) = found(plan)
    assert where == field and said in text


def test_interleaving_needs_micro_batches_in_rounds_of_the_pipeline():
    # 48 sequences over 3 replicas in micro batches of 16: one each, which 2 pipeline ranks do not share.
    plan = Plan(data_parallel=3, pipeline_parallel=2, virtual_pipeline=2, micro_batch=16, schedule="interleaved_1f1b")
    ((field, text),) = found(plan)
    assert field == "virtual_pipeline" and "a replica has 1. Make global_batch 96, or choose another micro_batch" in text


def test_a_wrong_number_of_replicas_names_the_right_one():
    ((field, text),) = found(Plan(tensor_parallel=4, data_parallel=3), num_devices=8)
    assert field == "data_parallel"
    assert "= 3 x 4 x 1 = 12, but the cluster has 8 devices. Set data_parallel = 2, or leave it out" in text


def test_degrees_that_no_number_of_replicas_completes_are_told_which_do():
    ((field, text),) = found(Plan(tensor_parallel=2, pipeline_parallel=3), num_devices=8)
    assert field == "pipeline_parallel"
    assert "2 x 3 = 6 does not divide the 8 devices of the cluster. Legal pipeline_parallel: 1, 2, 4" in text


def test_the_first_degree_that_the_devices_do_not_hold_is_named():
    ((field, text),) = found(Plan(tensor_parallel=2, context_parallel=8), num_devices=8)
    assert field == "context_parallel"
    assert "2 x 1 x 8 = 16 does not divide the 8 devices of the cluster. Legal context_parallel: 1, 2, 4" in text


def test_parts_of_a_sequence_too_short_for_runs_of_experts_name_a_length_that_is_legal():
    model = replace(MODEL, num_experts=4, experts_per_token=2, load_skew=0.5)
    plan = Plan(context_parallel=2)
    ((field, text),) = found(plan, model=model, batch=Batch(48, 64))
    assert field == "context_parallel"
    assert text.endswith("Make sequence_length a multiple of 1024, or context_parallel 1")  # 2 ranks hold 2 chunks each
    for length, legal in ((512, False), (1024, True)):
        assert bool(found(plan, model=replace(model, max_positions=length), batch=Batch(48, length))) is not legal


def test_all_faults_are_told_at_once():
    plan = Plan(tensor_parallel=3, pipeline_parallel=13, sequence_parallel=True)
    assert [field for field, _ in found(plan)] == ["tensor_parallel", "pipeline_parallel", "sequence_parallel"]
    said = [text for _, text in found(plan)]
    assert "num_kv_heads" in said[0] and "12 layers" in said[1] and "sequence_length" in said[2]


def test_without_a_model_what_needs_none_is_still_checked():
    assert [each.field for each in faults(Plan(tensor_parallel=3), None, BATCH, 8)] == ["tensor_parallel"]
    assert faults(Plan(tensor_parallel=3), None, None, None) == []


def test_legal_degrees_are_those_that_divide():
    assert legal_degrees("tensor_parallel", MODEL, BATCH, 24) == (1, 2, 4)
    assert legal_degrees("pipeline_parallel", MODEL, BATCH, 24) == (1, 2, 3, 4, 6, 8, 12)
    assert legal_degrees("data_parallel", MODEL, BATCH, 20) == (1, 2, 4)
    assert legal_degrees("micro_batch", MODEL, BATCH, 20) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 48)
    assert legal_degrees("virtual_pipeline", MODEL, BATCH, 20) == (1, 2, 3, 4, 5, 6)
    with pytest.raises(ParsimError, match=r"did you mean 'micro_batch'\?"):
        legal_degrees("microbatch", MODEL, BATCH, 20)


@pytest.mark.parametrize("axis", ["tensor_parallel", "pipeline_parallel", "data_parallel", "micro_batch"])
def test_a_legal_degree_fits_by_itself(axis):
    for degree in legal_degrees(axis, MODEL, BATCH, 48):
        plan = replace(Plan(), **{axis: degree})
        assert found(plan) == []


@given(st.integers(min_value=1, max_value=5000))
def test_divisors_are_all_that_divide(number):
    assert divisors(number) == tuple(each for each in range(1, number + 1) if number % each == 0)


@pytest.mark.parametrize("ask", [parsim.estimate, lambda toy, plan: parsim.estimates(toy, [Plan(), plan]), parsim.simulate, parsim.execute])
def test_a_schedule_that_cannot_run_the_pipeline_is_refused_whoever_is_asked(ask):
    plan = Plan(pipeline_parallel=2, virtual_pipeline=2)
    with pytest.raises(PlanError, match=r"'1f1b' runs one chunk .*, but virtual_pipeline = 2\. Set .*, or virtual_pipeline = 1"):
        ask(scenario(), plan)
    with pytest.raises(PlanError, match="Make global_batch 16, or choose another micro_batch"):
        ask(scenario(), replace(plan, schedule="interleaved_1f1b", micro_batch=8))
