"""Replicas that train apart: a period is exact in all readers, and its numbers are those of the papers."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim import Plan
from parsim.estimator.estimate import stages_of
from parsim.estimator.memory import counted_peak_bytes
from parsim.executor.evaluate import whole_weights
from parsim.model.families.mlp import MlpSpec
from parsim.model.parameters import num_parameters
from parsim.parallel.optimizer import LOCAL_SGD
from parsim.parallel.plan import Batch
from parsim.report.explain import explain
from parsim.scenario.types import Training
from parsim.targets import NotExpressible, export_plan
from support import STACKS, reds, scenario

MLP = MlpSpec(name="toy mlp", num_layers=2, hidden_size=8, ffn_hidden_size=8, num_features=4, num_labels=4, activation="relu")
TWO = {"data_parallel": 2, "gradient_sync": LOCAL_SGD}
NESTEROV = {**TWO, "outer_optimizer": "nesterov"}


def mlp(**training: float):
    return replace(scenario(model=MLP, batch=Batch(8, 1, "bf16"), plans={}), training=Training(**{"max_norm": inf, **training}))


PLANS = {
    "average": Plan(**TWO, local_steps=2, optimizer="sgd_momentum"),
    "nesterov": Plan(**NESTEROV, local_steps=2),
    "nesterov tp": Plan(**NESTEROV, local_steps=3, tensor_parallel=2, sequence_parallel=True),
    "average tp": Plan(**TWO, tensor_parallel=2, recompute="full"),
    "nesterov pp": Plan(**NESTEROV, local_steps=2, pipeline_parallel=2),
    "nesterov vpp": Plan(**NESTEROV, pipeline_parallel=2, virtual_pipeline=2, schedule="interleaved_1f1b", optimizer="sgd_momentum"),
    "nesterov cp": Plan(**NESTEROV, local_steps=2, context_parallel=2),
    "groups": Plan(**{**NESTEROV, "data_parallel": 4}, zero_group=2, local_steps=2),
    **{
        f"groups that shard{' more' * (stage > 1)}{', parameters too' * (stage > 2)}": Plan(
            **{**NESTEROV, "data_parallel": 4}, zero_group=2, zero_stage=stage, local_steps=2
        )
        for stage in (1, 2, 3)
    },
    "average 8 bits": Plan(**TWO, local_steps=2, optimizer="adamw_8bit"),
}


@pytest.mark.slow
@pytest.mark.parametrize("stack", range(len(STACKS)))
@pytest.mark.parametrize("name", PLANS)
def test_periods_of_a_transformer_are_exact_and_by_hand(name, stack):
    assert not reds(scenario(batch=Batch(12, 8, "bf16"), stack=STACKS[stack]), replace(PLANS[name], micro_batch=1))


@pytest.mark.parametrize("name", ["average", "nesterov", "groups that shard"])
def test_periods_of_an_mlp_are_exact_and_by_hand(name):
    assert not reds(mlp(), PLANS[name])


def test_one_step_a_period_plain_averages_and_plain_sgd_are_synchronous_data_parallelism():
    toy = mlp(momentum=0.0, learning_rate=0.1)
    runs = [
        parsim.execute(toy, Plan(data_parallel=4, optimizer="sgd_momentum", gradient_sync=how), num_steps=3)
        for how in ("all_reduce", LOCAL_SGD)
    ]
    for rank in range(4):
        for name, weight in runs[0].weights[rank].items():
            assert np.abs(weight - runs[1].weights[rank][name]).max() <= 1e-12
    assert np.allclose(runs[0].losses, runs[1].losses, rtol=1e-12, atol=0)


def test_a_period_sends_the_weights_once_whatever_its_steps():
    toy, sent = mlp(), num_parameters(MLP) * 4  # float32 weights; of two ranks each sends 2 (n - 1) / n of them
    for steps in (1, 3):
        plan = Plan(**TWO, local_steps=steps)
        assert {ledger.sent_bytes["dp"] for ledger in parsim.execute(toy, plan, num_steps=2 * steps).ledgers} == {2 * sent}
        assert parsim.estimate(toy, plan).sent_bytes[0]["dp"] == sent


def test_nesterov_keeps_two_copies_of_float32_weights_and_averages_none():
    toy = mlp()
    peaks = [int(counted_peak_bytes(stages_of(toy, plan))[0, 0]) for plan in (Plan(data_parallel=2), Plan(**TWO), Plan(**NESTEROV))]
    assert [peak - peaks[0] for peak in peaks] == [0, 0, 2 * 4 * num_parameters(MLP)]


def test_a_step_is_the_mean_of_a_period_in_all_readers():
    toy, found = mlp(), {}
    for steps in (1, 2, 5):
        plan = Plan(**NESTEROV, local_steps=steps)
        estimate, trace, run = parsim.estimate(toy, plan), parsim.simulate(toy, plan), parsim.execute(toy, plan, num_steps=steps)
        assert trace.period_ps == run.end_ps and estimate.step_s == trace.step_s == run.end_ps / steps / 1e12
        assert parsim.estimates(toy, [plan]).step_s[0] == estimate.step_s == pytest.approx(sum(estimate.breakdown_s.values()))
        found[steps] = run.end_ps
    assert found[5] - found[2] == 3 * (found[2] - found[1])


def test_what_is_measured_between_two_sums_is_the_mean_of_the_replicas():
    run = parsim.execute(mlp(), Plan(**TWO, local_steps=2), num_steps=1)
    one, other = run.weights
    name = "head/label.weight"
    assert np.abs(one[name] - other[name]).max() > 0
    assert np.abs(whole_weights(run.job, run.weights)[name] - (one[name] + other[name]) / 2).max() <= 1e-15


def test_what_ends_a_period_is_explained_apart_from_what_ends_a_step():
    toy = replace(mlp(), plans={"apart": Plan(**NESTEROV, local_steps=4)})
    titles = [note.title for name in ("sum_weights", "outer_update", "clip") for note in explain(toy, "apart", name)]
    assert titles == ["end of a period: sum_weights", "end of a period: outer_update", "end of the step: clip"]


@pytest.mark.parametrize("target", ["pytorch", "tensorflow", "keras", "torchtitan", "maxtext"])
def test_no_program_has_replicas_that_train_apart(target):
    with pytest.raises(NotExpressible, match="gradient_sync"):
        export_plan(parsim.load("scenarios/digits-mlp.yaml"), Plan(data_parallel=4, micro_batch=16, gradient_sync=LOCAL_SGD), target)


@pytest.mark.slow
def test_processes_train_apart_as_lockstep_does():
    plan = Plan(**NESTEROV, local_steps=2)
    one, other = (parsim.execute(mlp(), plan, num_steps=4, transport=how) for how in ("lockstep", "shared_memory"))
    assert (one.losses, one.ends_ps) == (other.losses, other.ends_ps)
    assert all(np.array_equal(each, other.weights[1][name]) for name, each in one.weights[0].items())


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(gradient_sync=LOCAL_SGD), "data_parallel = 1"),
        (Plan(**TWO, zero_stage=1), "zero_stage = 1 shares them out"),
        (Plan(**TWO, optimizer="paged_adamw"), "optimizer = paged_adamw is not built"),
        (Plan(**TWO, offload_optimizer=True), "offload_optimizer = true is not built"),
        (Plan(**TWO, optimizer_in_backward=True), "optimizer_in_backward = true is not built"),
        (Plan(data_parallel=2, local_steps=2), "local_steps = 2 is of replicas that train apart"),
        (Plan(data_parallel=2, outer_optimizer="nesterov"), "outer_optimizer = nesterov is of replicas"),
        (Plan(**TWO, precision="fp8_current"), "is not built in fp8_current"),
        (Plan(**TWO, local_steps=0), "local_steps = 0 is not a positive whole number"),
    ],
    ids=str,
)
def test_what_replicas_that_train_apart_cannot_do_is_refused_in_a_sentence(plan, said):
    with pytest.raises(parsim.ParsimError) as refused:
        parsim.estimate(mlp(), plan)
    assert said in str(refused.value)
