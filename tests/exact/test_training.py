"""Training the shipped examples: every way to share the work trains the same model, and it learns."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from mlp_by_hand import by_hand
from parsim import data
from parsim.data import Dataset
from parsim.estimator.estimate import stages_of
from parsim.estimator.totals import device_totals
from parsim.executor import calls
from parsim.executor.calls import KernelUse
from parsim.executor.evaluate import Score, whole_weights
from parsim.executor.run import Execution, execute
from parsim.executor.values import Values
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario, Training, load
from parsim_kernels import Machine
from parsim_kernels.signature import Array
from support import idle
from training_by_hand import accuracy_by_hand, adam_by_hand, initial_by_hand

SCENARIOS = Path(__file__).parents[2] / "scenarios"
NUM_STEPS = 20
OTHER = Training(learning_rate=0.01, beta1=0.8, beta2=0.95, eps=1e-4, weight_decay=0.1, max_norm=0.1)  # so short that most are cut
PLANS = ("data_parallel", "master", "layers", "columns_and_rows", "data_and_layers", "data_and_columns", "layers_and_columns")


def example(name: str) -> Scenario:
    if name.startswith("digits"):
        pytest.importorskip("sklearn", reason="scikit-learn (extra data) is not installed")
    return idle(load(SCENARIOS / f"{name}.yaml"))  # whose one rank leaves devices idle


def data_of(scenario: Scenario) -> Dataset:
    assert scenario.data is not None
    stated = scenario.data
    return data.load(stated.name, stated.validation_split, scenario.seed, scenario.model, scenario.batch.sequence_length)


def alone(scenario: Scenario) -> Plan:
    """The whole batch on one rank."""
    return Plan(micro_batch=scenario.batch.global_batch)


@cache
def trained(plan: str | None, num_steps: int = NUM_STEPS) -> Execution:
    """The MLP for digits after some steps of a plan; None: of one rank."""
    scenario = example("digits-mlp")
    return execute(scenario, plan or alone(scenario), num_steps=num_steps)


@cache
def translated() -> Execution:
    """The translator after three steps on one rank."""
    scenario = example("machine-translation")
    return execute(scenario, alone(scenario), num_steps=3)


def initial_weights(scenario: Scenario) -> dict[str, Array]:
    """Before the first step."""
    return initial_by_hand(execute(scenario, alone(scenario)).job)


def largest_difference(left: dict[str, Array], right: dict[str, Array]) -> float:
    assert left.keys() == right.keys()
    return max(float(np.abs(left[name] - right[name]).max()) for name in left)


def final(executed: Execution) -> dict[str, Array]:
    return whole_weights(executed.job, executed.weights)


def test_the_example_has_the_plans_that_are_tested() -> None:
    assert tuple(example("digits-mlp").plans) == PLANS


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_has_the_losses_and_weights_of_one_rank(plan: str) -> None:
    np.testing.assert_allclose(trained(plan).losses, trained(None).losses, rtol=1e-9, atol=0)
    assert largest_difference(final(trained(plan)), final(trained(None))) <= 1e-9


@pytest.mark.parametrize("training", [None, OTHER], ids=["as stated", "other settings"])
@pytest.mark.parametrize("name", ["digits-mlp", "digits-softmax"])
def test_losses_and_weights_are_those_of_an_mlp_trained_in_plain_numpy(name: str, training: Training | None) -> None:
    scenario = example(name)
    scenario = replace(scenario, training=training or scenario.training)
    executed = execute(scenario, next(iter(scenario.plans)), num_steps=NUM_STEPS)
    losses, weights = adam_by_hand(scenario, data_of(scenario), initial_weights(scenario), NUM_STEPS)
    np.testing.assert_allclose(executed.losses, losses, rtol=1e-9, atol=0)
    assert largest_difference(final(executed), weights) <= 1e-9


def test_averaged_gradients_of_the_parts_are_the_gradient_of_the_full_batch() -> None:
    scenario = example("digits-mlp")
    found, rows = data_of(scenario), data_of(scenario).rows(0, 64, scenario.seed)
    weights, layers = initial_weights(scenario), scenario.model.num_layers
    features, labels = found.train["features"][:, 0], found.train["row_labels"][:, 0]
    _, full = by_hand(weights, features[rows], labels[rows], layers)
    parts = [by_hand(weights, features[part], labels[part], layers)[1] for part in np.split(rows, 4)]
    for plan in ("data_parallel", "master"):
        for rank, executed in enumerate(trained(plan, 1).gradients):
            if plan == "master" and rank:
                continue  # only the master holds the sum
            assert executed.keys() == full.keys()
            for name, gradient in executed.items():
                np.testing.assert_allclose(gradient, np.mean([part[name] for part in parts], axis=0), rtol=0, atol=1e-15)
                np.testing.assert_allclose(gradient, full[name], rtol=0, atol=1e-15)  # sums in another order


def test_master_and_all_reduce_give_the_same_weights_and_send_what_was_predicted_of_each() -> None:
    shared, master = trained("data_parallel"), trained("master")
    assert largest_difference(final(shared), final(master)) <= 1e-12
    scenario = example("digits-mlp")
    for plan, executed in (("data_parallel", shared), ("master", master)):
        stages = stages_of(scenario, scenario.plan(plan))
        for rank, ledger in enumerate(executed.ledgers):
            (predicted,) = device_totals(stages, executed.job.mesh.coordinates(rank))
            assert ledger.sent_bytes["dp"] == NUM_STEPS * predicted.sent_bytes["dp"]
    widths = ((64, 64), (64, 128), (128, 64), (64, 128), (128, 64), (64, 10))
    gradient_bytes = 4 * sum(into * out + out for into, out in widths)  # fp32
    # To the master and back, each way once from each of 3; or around a ring, 2 x 3/4 of it from each of 4: as much in all, but shared.
    assert [ledger.sent_bytes["dp"] // NUM_STEPS for ledger in master.ledgers] == [3 * gradient_bytes, *[gradient_bytes] * 3]
    assert sum(ledger.sent_bytes["dp"] for ledger in shared.ledgers) == NUM_STEPS * 2 * 3 * gradient_bytes


def scored(name: str, num_steps: int, plan: str | None = None) -> tuple[Execution, list[Score]]:
    """An example trained on one rank, or by a plan, measured on what was held back half way and at the end."""
    scenario, scores = example(name), []

    def keep(step: int, loss: float, score: Score | None) -> None:
        if score:
            scores.append(score)

    done = execute(scenario, plan or alone(scenario), num_steps=num_steps, evaluate_every=num_steps // 2, progress=keep)
    return done, scores


def test_accuracy_on_digits_that_were_held_back_rises_above_nine_in_ten() -> None:
    executed, (half, end) = scored("digits-mlp", 110, "data_and_columns")  # 5 epochs
    assert end.accuracy > 0.9 and end.accuracy > half.accuracy and end.loss < half.loss
    held_back = data_of(example("digits-mlp")).validation
    by_arithmetic = accuracy_by_hand(final(executed), held_back["features"][:, 0], held_back["row_labels"][:, 0], 2)
    assert end.accuracy == by_arithmetic


@pytest.mark.slow  # an encoder learns beside a decoder below
def test_an_encoder_learns_from_which_part_of_a_text_words_are() -> None:
    executed, (_, end) = scored("text-classification", 56)  # 4 epochs
    assert np.mean(executed.losses[-5:]) < 0.75 * np.log(4)  # of 4 equally likely sections nothing is known at log 4
    assert end.accuracy > 0.5  # twice that of guessing


@pytest.mark.slow  # text is classified above
def test_an_encoder_learns_what_no_bag_of_words_tells() -> None:
    executed, (_, end) = scored("sentiment", 80)
    assert executed.losses[0] > 0.5 and np.mean(executed.losses[-5:]) < 0.1
    assert end.accuracy > 0.95


@pytest.mark.slow
def test_an_encoder_learns_who_did_what_to_whom() -> None:
    _, (_, end) = scored("semantic-roles", 100)
    held_back = data_of(example("semantic-roles")).validation["token_labels"]
    assert end.accuracy > 0.95 > 0.8 > np.mean(held_back == 0)  # what whoever names no role gets right


@pytest.mark.slow  # its first steps are below
def test_an_encoder_and_a_decoder_learn_to_translate() -> None:
    _, (half, end) = scored("machine-translation", 100)
    assert half.exact is not None and end.exact is not None
    assert half.exact < 0.5 and end.exact > 0.9 and end.accuracy > 0.98


@pytest.mark.parametrize("plan", example("machine-translation").plans)
def test_every_plan_translates_as_one_rank_does(plan: str) -> None:
    together, apart = translated(), execute(example("machine-translation"), plan, num_steps=3)
    np.testing.assert_allclose(apart.losses, together.losses, rtol=1e-9, atol=0)
    whole, found = final(together), final(apart)
    tables = [found.pop(name) for name in found.keys() - whole.keys()]  # of the rank where the decoder begins
    assert all(np.array_equal(table, found["embedding/word.weight"]) for table in tables)
    assert largest_difference(found, whole) <= 1e-9


def test_a_tiny_gpt_learns_more_than_how_common_each_character_is() -> None:
    scenario = example("tiny-gpt-pydoc")
    executed = execute(scenario, alone(scenario), num_steps=60)
    counts = np.bincount(data_of(scenario).train["tokens"].reshape(-1))
    shares = counts[counts > 0] / counts.sum()
    entropy = -float(np.sum(shares * np.log(shares)))  # the least loss of whoever looks at no other character
    assert executed.losses[0] > entropy > np.mean(executed.losses[-10:])


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory between processes is Linux's")
@pytest.mark.parametrize(("name", "plan"), [("digits-mlp", "data_and_columns"), ("text-classification", "layers")])
def test_processes_train_as_the_ranks_of_one_process_do(name: str, plan: str) -> None:
    scenario = example(name)
    processes = execute(scenario, plan, num_steps=3, transport="shared_memory", deadline_s=60)
    together = execute(scenario, plan, num_steps=3)
    np.testing.assert_allclose(processes.losses, together.losses, rtol=1e-12, atol=0)
    assert largest_difference(final(processes), final(together)) <= 1e-12


def _first_micro_batch(self: Values, instance: str, name: str, micro_batch: int, shape: Sequence[int]) -> Array:
    return _DRAWN(self, instance, name, micro_batch // 4 * 4, shape)  # of 4 in a step


def _first_epoch(self: Dataset, step: int, global_batch: int, seed: int) -> NDArray[np.int64]:
    return _ROWS(self, step % self.steps_per_epoch(global_batch), global_batch, seed)


def _always_the_first(self: KernelUse, machine: Machine, now: Mapping[str, int] | None = None) -> None:
    _RUN(self, machine, now and {"step": 1})


def _attributes_without_clip(self: calls._WeightKernel) -> dict[str, object]:
    return {**_ATTRIBUTES(self), **({"max_norm": math.inf} if self.task.kernel == "clip" else {})}


_DRAWN, _ROWS, _RUN, _ATTRIBUTES = Values.draw, Dataset.rows, KernelUse.run, calls._WeightKernel.attributes

# What a wrong training may do, the object and the name that are replaced, and the steps after which it must show.
MUTANTS: dict[str, tuple[type, str, Callable[..., object], int]] = {
    "Adam takes each step for the first": (KernelUse, "run", _always_the_first, 3),
    "long gradients are not shortened": (calls._WeightKernel, "attributes", _attributes_without_clip, 3),
    "every micro_batch has the sequences of the first": (Values, "draw", _first_micro_batch, 1),
    "every epoch has the order of the first": (Dataset, "rows", _first_epoch, 23),
}


@pytest.mark.parametrize("mutant", [None, *MUTANTS])
def test_a_training_that_goes_wrong_differs_from_plain_numpy(mutant: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = replace(example("digits-mlp"), training=OTHER)
    weights, num_steps = initial_weights(scenario), 1
    if mutant:
        where, name, wrong, num_steps = MUTANTS[mutant]
        monkeypatch.setattr(where, name, wrong)
    losses = execute(scenario, "layers", num_steps=num_steps).losses
    by_hand_losses, _ = adam_by_hand(scenario, data_of(scenario), weights, num_steps)
    assert np.allclose(losses, by_hand_losses, rtol=1e-9, atol=0) == (mutant is None)
