"""Every registered data set gives what the blocks of its models draw, and all of it comes from the seed."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from dataset_models import MODELS
from msgspec.structs import replace

from parsim import data
from parsim.data import DATASETS, Dataset
from parsim.errors import ParsimError, ScenarioError
from parsim.model.spec import ModelSpec

LENGTH = {
    "digits": 1,
    "digit-images": 17,
    "digit-words": 22,
    "praise": 12,
    "pydoc-sections": 16,
    "pydoc-topics": 16,
    "roles": 24,
    "translation": 9,
}


def loaded(name: str, seed: int = 3, validation_split: float = 0.2) -> Dataset:
    if name.startswith("digit"):
        pytest.importorskip("sklearn", reason="scikit-learn (extra data) is not installed")
    return data.load(name, validation_split, seed, MODELS[name], LENGTH[name])


def all_rows(dataset: Dataset, name: str) -> np.ndarray:
    return np.concatenate([dataset.train[name], dataset.validation[name]])


def as_rows(dataset: Dataset) -> list[bytes]:
    """One text a sequence, of all that it holds."""
    parts = [all_rows(dataset, name) for name in sorted(dataset.train)]
    return [b"".join(part[i].tobytes() for part in parts) for i in range(len(parts[0]))]


@pytest.mark.parametrize("name", data.names())
def test_a_data_set_holds_what_its_model_draws_at_extents_and_values_that_fit(name: str) -> None:
    model, length, found = MODELS[name], LENGTH[name], loaded(name)
    shapes = {
        "features": (length, model.extents.get("I")),
        "patches": (model.extents.get("x"), model.extents.get("I")),
        "image_labels": (),
        "row_labels": (length,),
        "tokens": (length - model.image_tokens,),
        "source_tokens": (8,),
        "labels": (length,),
        "text_labels": (),
        "token_labels": (length,),
        "token_types": (length,),
    }
    most = {
        "tokens": model.extents.get("V"),
        "source_tokens": model.extents.get("V"),
        "labels": model.extents.get("V"),
        **dict.fromkeys(("text_labels", "token_labels"), model.num_labels),
        **dict.fromkeys(("row_labels", "image_labels"), model.num_labels),
        "token_types": model.extents.get("U"),
    }
    for part, count in ((found.train, found.num_train), (found.validation, found.num_validation)):
        assert set(part) == set(DATASETS.get(name).gives) | ({"token_types"} if model.extents.get("U") else set())
        for each, array in part.items():
            assert array.shape == (count, *shapes[each]) and not array.flags.writeable
            assert array.dtype == (np.float64 if each in ("features", "patches") else np.int64)
            assert array.min() >= (-1 if each == "labels" and model.image_tokens else 0) and array.max() < most.get(each, np.inf)


@pytest.mark.parametrize("name", data.names())
def test_a_data_set_says_its_source(name: str) -> None:
    assert len(loaded(name).source) > 20 and loaded(name).source == DATASETS.get(name).source


@pytest.mark.parametrize("name", data.names())
def test_the_same_seed_gives_the_same_split_and_another_seed_another(name: str) -> None:
    first, again, other = (loaded(name, seed) for seed in (3, 3, 4))
    key = DATASETS.get(name).gives[0]
    np.testing.assert_array_equal(first.train[key], again.train[key])
    assert not np.array_equal(first.train[key], other.train[key])


@pytest.mark.parametrize("name", data.names())
def test_the_split_keeps_every_sequence_once_and_holds_back_its_share(name: str) -> None:
    whole, split = loaded(name, validation_split=0.0), loaded(name, validation_split=0.25)
    assert whole.num_validation == 0
    assert split.num_validation == whole.num_train // 4  # rounded down
    assert sorted(as_rows(split)) == sorted(as_rows(whole))


@pytest.mark.parametrize(("share", "held_back"), [(0.29, 1160), (0.5005, 2002), (0.00024, 0), (0.9999, 3999)])
def test_a_share_is_rounded_down_to_sequences_as_decimals_are_read(share: float, held_back: int) -> None:
    found = loaded("praise", validation_split=share)  # of 4,000; in binary 0.5005 x 4000 is below 2002
    assert (found.num_train, found.num_validation) == (4000 - held_back, held_back)


def toy(num_train: int) -> Dataset:
    rows = {"tokens": np.arange(num_train)[:, None]}
    return Dataset("toy", "made up", rows, {"tokens": np.zeros((0, 1), np.int64)})


def test_an_epoch_takes_each_sequence_at_most_once_and_drops_the_remainder() -> None:
    found = toy(11)
    assert (found.steps_per_epoch(3), found.num_steps(5, 3)) == (3, 15)  # 11 = 3 x 3 + 2
    for epoch in range(4):
        taken = np.concatenate([found.rows(3 * epoch + i, 3, seed=0) for i in range(3)])
        assert len(set(taken.tolist())) == 9 and set(taken.tolist()) < set(range(11))


def test_an_epoch_of_whole_batches_takes_every_sequence() -> None:
    found = toy(12)
    assert sorted(np.concatenate([found.rows(step, 4, seed=7) for step in range(3, 6)]).tolist()) == list(range(12))


def test_each_epoch_and_each_seed_has_an_order_of_its_own() -> None:
    found = toy(64)
    orders = [found.rows(step, 64, seed).tolist() for step, seed in ((0, 0), (1, 0), (0, 1))]
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0] == found.rows(0, 64, 0).tolist()
    assert orders[1] == np.random.default_rng([0, 1]).permutation(64).tolist()  # the stated rule: of [seed, epoch]


def test_the_same_sequences_make_a_step_however_it_is_cut_into_epochs_before() -> None:
    found = toy(20)
    by_halves = np.concatenate([found.rows(0, 10, 5), found.rows(1, 10, 5)])
    np.testing.assert_array_equal(by_halves, found.rows(0, 20, 5))


def test_a_batch_larger_than_the_data_set_is_told_with_the_largest_that_fits() -> None:
    with pytest.raises(ScenarioError, match=r'batch.global_batch: global_batch = 12 is above the 11 sequences that data set "toy"'):
        toy(11).rows(0, 12, 0)
    with pytest.raises(ScenarioError, match="Legal: at most 11"):
        toy(11).num_steps(1, 12)


def test_an_unknown_data_set_names_the_nearest() -> None:
    with pytest.raises(ParsimError, match=r"unknown data set 'digit' \(did you mean 'digits'\?\)"):
        data.load("digit", 0.2, 0, MODELS["digits"], 1)


def test_a_share_that_leaves_nothing_to_train_on_is_told() -> None:
    with pytest.raises(ScenarioError, match=r"data\.validation_split: must be at least 0 and below 1, not 1"):
        data.load("praise", 1, 0, MODELS["praise"], 12)


def test_without_scikit_learn_the_digits_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ParsimError) as caught:
        data.load("digits", 0.2, 0, MODELS["digits"], 1)
    assert str(caught.value) == 'data.name: data set "digits" needs scikit-learn\n  Install it: pip install "parsim-llm[data]".'


def test_without_the_help_topics_of_python_their_data_sets_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ParsimError, match=r"data.name: this Python comes without the module pydoc_data.topics"):
        data.load("pydoc-topics", 0.2, 0, MODELS["pydoc-topics"], 16)


def misfits() -> list[tuple[str, ModelSpec, int, str]]:
    mlp, gpt, encoder = MODELS["digits"], MODELS["pydoc-topics"], MODELS["pydoc-sections"]
    return [
        ("digits", replace(mlp, num_features=784), 1, "num_features = 784 of model"),
        ("digits", replace(mlp, num_labels=9), 1, "num_labels = 9 of model"),
        ("digits", gpt, 16, "takes labels and tokens, which it has not"),
        ("pydoc-topics", mlp, 1, "takes features and row_labels, which it has not"),
        ("pydoc-topics", encoder, 16, "takes text_labels, which it has not"),
        ("pydoc-topics", replace(gpt, vocab_size=127), 16, "vocab_size = 127 of model"),
        ("pydoc-topics", replace(gpt, causal=False), 16, "has head = next_token and causal = false"),
        ("pydoc-topics", replace(gpt, causal=False, head="masked_token"), 16, "has head = masked_token"),
        ("pydoc-sections", replace(encoder, vocab_size=63), 16, "vocab_size = 63 of model"),
        ("pydoc-sections", replace(encoder, num_labels=3), 16, "num_labels = 3 of model"),
        ("pydoc-sections", replace(encoder, causal=True), 16, "its first token sees no other"),
        ("pydoc-sections", encoder, 3, "sequence_length = 3 must be at least 4"),
        ("praise", replace(encoder, vocab_size=34), 16, "vocab_size = 34 of model"),
        ("praise", encoder, 7, "sequence_length = 7 must be at least 8"),
        ("praise", replace(encoder, head="token"), 16, "takes token_labels, which it has not"),
        ("roles", replace(MODELS["roles"], num_token_types=1), 24, "num_token_types = 1 of model"),
        ("roles", MODELS["roles"], 22, "sequence_length = 22 must be at least 23"),
        ("translation", replace(MODELS["translation"], vocab_size=60), 9, "vocab_size = 60 of model"),
        ("translation", MODELS["translation"], 8, "sequence_length = 8 must be at least 9"),
    ]


@pytest.mark.parametrize(("name", "model", "length", "message"), misfits())
def test_a_model_that_does_not_fit_is_told_at_data_name(name: str, model: ModelSpec, length: int, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        data.load(name, 0.2, 0, model, length)
    assert str(caught.value).startswith(f'data.name: data set "{name}" trains ') and message in str(caught.value)


def test_a_data_set_of_ones_own_takes_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DATASETS, "_values", dict(DATASETS._values))
    counted = data.Origin(
        "made up",
        "a decoder",
        ("tokens", "labels"),
        lambda model, length: "",
        lambda model, length, seed: {
            "tokens": np.arange(6)[:, None] + np.arange(length),
            "labels": np.arange(6)[:, None] + np.arange(1, length + 1),
        },
    )
    DATASETS.register("counting", counted)
    found = data.load("counting", 0.5, 0, MODELS["pydoc-topics"], 4)
    assert (found.num_train, found.num_validation) == (3, 3)
    assert "counting" in data.names()
