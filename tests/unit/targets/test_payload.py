"""The numbers that go with an exported program are those that `parsim execute` trains on."""

from __future__ import annotations

import io

import numpy as np
from msgspec.structs import replace

import parsim
from mlp_by_hand import by_hand
from parsim.executor.run import execute
from parsim.targets.payload import data_fit, npz, payload_of, weights_fit


def test_a_forward_by_hand_of_the_payload_has_the_first_loss_of_execute() -> None:
    scenario = replace(parsim.load("scenarios/digits-mlp.yaml"), data=None)  # whose features are drawn
    given, layers = payload_of(scenario), scenario.model.num_layers
    rows = given.rows[0]
    by_rows, _ = by_hand(dict(given.weights), given.train["features"][rows, 0], given.train["row_labels"][rows, 0], layers)
    executed = execute(scenario, "data_parallel", precision="float32").loss
    assert abs(by_rows - executed) < 1e-6 * executed  # float32, another order of sums


def test_drawn_tokens_are_those_of_the_steps_and_a_vocabulary_has_no_padding() -> None:
    scenario = parsim.load("scenarios/tiny.yaml")
    odd = replace(scenario, model=replace(scenario.model, vocab_size=30), stack=replace(scenario.stack, vocab_multiple=64))
    given = payload_of(odd)
    assert given.weights["embedding/word.weight"].shape == (30, 32) and "head/word.weight" not in given.weights
    assert given.train["tokens"].shape == (80, 8) and given.train["tokens"].max() < 30 and given.rows.tolist()[1] == [4, 5, 6, 7]
    assert given.train["tokens"][4].tolist() != given.train["tokens"][0].tolist()


def test_what_is_too_large_is_left_to_the_program() -> None:
    scenario = parsim.load("scenarios/tiny.yaml")
    assert weights_fit(scenario) and data_fit(scenario)
    assert not weights_fit(replace(scenario, model=replace(scenario.model, vocab_size=10**6)))
    assert not data_fit(replace(scenario, batch=replace(scenario.batch, global_batch=2**20)))


def test_a_file_of_numbers_is_the_same_each_time() -> None:
    arrays = {"layer0/up.bias": np.arange(3, dtype=np.float32)}
    assert npz(arrays) == npz(arrays) and np.load(io.BytesIO(npz(arrays)))["layer0/up.bias"].tolist() == [0, 1, 2]
