"""The exactness contract on chains of dense layers of any widths, from a softmax regression on."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from mlp_by_hand import MLP
from parsim.errors import ScenarioError
from parsim.estimator.estimate import estimate
from parsim.executor.run import execute
from parsim.model.families.dense import ACTIVATIONS, DenseSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario import from_mapping
from parsim.verify import shrunk, verify_plan
from support import FEATURES, STACKS, enough, feature_sets, scenario, tiered

ROWS = Batch(12, 1, "bf16")  # a row a sample


def toy(*units: int, **others: Any) -> DenseSpec:
    return DenseSpec.of(name="toy chain", num_features=6, units=units, num_labels=3, **others)


CHAINS = {
    "regression": toy(),
    "one": toy(8, activation="sigmoid"),
    "two": toy(8, 12, activation="silu", dropout=0.25),
    "three": toy(8, 6, 16, bias=False),
    "six": toy(8, 6, 16, 4, 8, 10, activations=("relu", "linear", "tanh", "gelu", "squared_relu", "sigmoid")),
}
DEFAULT = [("regression", ("zero3",)), ("one", ("tp",)), ("two", ("sp", "full")), ("three", ("tp", "zero1")), ("six", ("tp", "pp"))]
NAMES = [names for names in ((), *feature_sets(2)) if not {"gqa", "untied", "uneven"} & set(names)]


def plan_of(names: tuple[str, ...]) -> Plan:
    fields: dict[str, Any] = {}
    for name in (*names, *(["vpp"] if "vpp" in names else [])):
        fields |= FEATURES[name]
    return Plan(**fields)


def fits(model: DenseSpec, names: tuple[str, ...]) -> bool:
    plan = plan_of(names)
    return plan.num_stages <= max(1, model.num_layers) and (bool(model.units) or plan.tensor_parallel == 1)


CASES = DEFAULT + [
    (name, names) for name, model in CHAINS.items() for names in NAMES if fits(model, names) and (name, names) not in DEFAULT
]


def wrong(model: DenseSpec, names: tuple[str, ...], stack: Stack) -> list[object]:
    plan = plan_of(names)
    batch = enough(plan, 8 if "sp" in names else 1)
    return [check for check in verify_plan(scenario(model=model, stack=stack, batch=batch), plan, model.name) if not check.ok]


@pytest.mark.parametrize("index", [tiered(i, "-".join((model, *names)), slow=i >= len(DEFAULT)) for i, (model, names) in enumerate(CASES)])
def test_prediction_and_execution_of_a_chain_agree_on_every_pair_of_features(index: int) -> None:
    model, names = CASES[index]
    assert not wrong(CHAINS[model], names, STACKS[index % len(STACKS)])


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stack", range(len(STACKS)))
def test_every_nonlinearity_agrees_on_every_stack(activation: str, stack: int) -> None:
    assert not wrong(toy(8, 6, 16, activation=activation, dropout=0.25), ("tp", "zero3"), STACKS[stack])


def test_flops_of_a_chain_are_its_matmuls_its_biases_and_what_stands_between() -> None:
    units, rows = (8, 6, 16), 12
    flops = estimate(scenario(model=toy(*units), batch=ROWS), Plan(micro_batch=rows, optimizer="sgd_momentum")).flops[0]
    matrices = [entering * leaving for entering, leaving in pairwise((6, *units, 3))]
    matmuls = rows * (2 * 3 * sum(matrices) - 2 * matrices[0])  # forward and two gradients, but none of the features
    biases, nonlinearities = 2 * rows * (sum(units) + 3), 2 * rows * sum(units)  # each forward and backward
    # A logit: row_max 1, shifted_exp 2, row_sum 1, normalize 1, its gradient 2.  A row: token_loss 3, loss_sum 1.
    loss = rows * (3 * 7 + 3 + 1)
    update = (sum(matrices) + sum(units) + 3) * (1 + 2 + 1 + 4)  # into the step's buffer, norm, clip, momentum
    assert flops == matmuls + biases + nonlinearities + loss + update


def test_a_chain_whose_widths_take_turns_does_what_the_mlp_of_them_does() -> None:
    chain = toy(12, 16, 12)
    plan = Plan(data_parallel=2, micro_batch=6)
    ours, theirs = (estimate(scenario(model=model, batch=ROWS), plan) for model in (chain, replace(MLP, num_layers=1)))
    assert (ours.flops, ours.sent_bytes) == (theirs.flops, theirs.sent_bytes)


def test_tensor_parallelism_of_a_chain_reduces_behind_rows_and_before_columns() -> None:
    sent = estimate(scenario(model=toy(8, 6, 16), batch=ROWS), Plan(tensor_parallel=2, micro_batch=12)).sent_bytes[0]["tp"]
    units = 6 + 6 + 3  # behind the second layer, its gradient before the third, logits; the features' gradient nobody asks for
    assert sent == 12 * units * 2 + 4  # rows, bf16, and the norm of the gradients; of 2 ranks a ring all-reduce sends the payload once


def test_a_softmax_regression_has_the_loss_and_gradient_of_the_formula() -> None:
    executed = execute(scenario(model=toy(), batch=ROWS), Plan(micro_batch=12))
    values = executed.job.values
    x, labels = values.draw("embedding", "features", 0, [12, 1, 6])[:, 0], values.draw("head", "row_labels", 0, [12, 1])[:, 0]
    weight = values.weight("head", "label.weight", "normal", [3, 6])
    odds = np.exp(x @ weight.T)
    shares = odds / odds.sum(axis=1, keepdims=True)
    assert executed.loss == pytest.approx(-np.log(shares[range(12), labels]).mean(), rel=1e-12)
    expected = (shares - np.eye(3)[labels]).T @ x / 12
    np.testing.assert_allclose(executed.gradients[0]["head/label.weight"], expected, rtol=0, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{"tensor_parallel": 2}, {"pipeline_parallel": 2, "micro_batch": 64}, {"data_parallel": 32, "zero_stage": 3}]
)
@pytest.mark.parametrize("units", [(), (8192,), (8192, 4096), (8192, 4096, 16384, 64)])
def test_a_large_chain_is_shrunk_to_one_that_can_be_executed(units: tuple[int, ...], fields: dict[str, Any]) -> None:
    large, plan = DenseSpec.of(name="large", num_features=784, units=units, num_labels=10), Plan(**fields)
    if plan.num_stages > max(1, large.num_layers) or (not units and plan.tensor_parallel > 1):
        return
    small = shrunk(scenario(model=large, batch=Batch(32768, 1)), plan)
    assert small.was_shrunk or not units
    assert all(check.ok for check in verify_plan(small.scenario, small.plan, "small"))


REST = {"cluster": {"node": "dgx-a100-80gb"}, "batch": {"global_batch": 1024, "sequence_length": 1}}
CHAIN = {"family": "dense", "num_features": 64, "units": [128, 60, 32], "num_labels": 10}


def test_a_scenario_states_the_units_of_a_chain_and_all_else_follows() -> None:
    model = from_mapping({"model": CHAIN, **REST, "plans": {"a": {"micro_batch": 128}}}).model
    assert isinstance(model, DenseSpec)
    assert (model.units, model.num_layers, model.dims) == ((128, 60, 32), 2, ("F0", "D", "F1"))


@pytest.mark.parametrize(
    ("model", "plan", "message"),
    [
        (CHAIN, {"tensor_parallel": 64}, 'tensor_parallel = 64 does not divide a width among units = 32 of model "inline". Legal: 1, 2, 4'),
        ({**CHAIN, "units": []}, {"tensor_parallel": 2}, "has one layer, that of its labels, which is not split. Legal: 1"),
        ({**CHAIN, "units": [8, 0]}, {}, "model.units.1: must be above 0, not 0"),
        ({**CHAIN, "num_layers": 3}, {}, "num_layers = 3, but it follows from units as 2; leave it out"),
        ({**CHAIN, "activations": ["relu"]}, {}, "activations has 1 names, and units 3 layers"),
        ({**CHAIN, "activations": ["relu", "rleu", "relu"]}, {}, "model.activations.1: cannot be 'rleu' (did you mean 'relu'?)"),
        ({**CHAIN, "units": [*range(1, 20)]}, {}, "units has 10 widths at its first, third and so on place, more than the 8"),
    ],
)
def test_what_a_chain_is_not_is_told_in_a_sentence(model: dict[str, Any], plan: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        from_mapping({"model": model, **REST, "plans": {"a": {"micro_batch": 16, **plan}}})
    assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("units", [[], [48], [128, 64], [48, 20, 32, 16, 8]])
def test_every_plan_trains_a_chain_on_digits_with_the_losses_of_one_rank(units: list[int]) -> None:
    pytest.importorskip("sklearn")
    plans: dict[str, dict[str, Any]] = {
        "one": {"micro_batch": 32},
        "replicas": {"data_parallel": 4, "micro_batch": 8},
        "sharded": {"data_parallel": 4, "micro_batch": 8, "zero_stage": 3},
        "columns": {"tensor_parallel": 4, "micro_batch": 32},
        "layers": {"pipeline_parallel": 2, "micro_batch": 8},
        "both": {"pipeline_parallel": 2, "tensor_parallel": 2, "micro_batch": 8},
    }
    node = {"base": "one-cpu-generic", "name": "four", "devices_per_node": 4, "source": "chosen"}
    losses = {}
    for name, plan in plans.items():
        degrees = plan.get("data_parallel", 1) * plan.get("pipeline_parallel", 1) * plan.get("tensor_parallel", 1)
        if ("pipeline_parallel" in plan and len(units) < 3) or ("tensor_parallel" in plan and not units):
            continue
        told = {"model": {**CHAIN, "units": units}, "cluster": {"node": {**node, "devices_per_node": degrees}}, "plans": {name: plan}}
        batch = {"global_batch": 32, "sequence_length": 1, "dtype": "fp32"}
        losses[name] = parsim.execute(from_mapping({**told, "batch": batch, "data": {"name": "digits"}}), name, num_steps=5).losses
    for name, found in losses.items():
        np.testing.assert_allclose(found, losses["one"], rtol=1e-12, err_msg=name)
