"""The sections `data` and `training` of a scenario: what they become, and what is said where they are wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from msgspec.structs import asdict

from parsim import data, scenario
from parsim.scenario import DataSpec, Training

ROOT = Path(__file__).parents[3]
MINIMAL = """\
model: digits-mlp
cluster: {node: one-cpu-generic}
batch: {global_batch: 32, sequence_length: 1, dtype: fp32}
plans: {one: {micro_batch: 32}}
"""
EXAMPLES = [path for path in sorted((ROOT / "scenarios").glob("*.yaml")) if "\ndata: " in path.read_text()]


def written(tmp_path: Path, more: str, rest: str = MINIMAL) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(rest + more)
    return path


def faults(tmp_path: Path, more: str, rest: str = MINIMAL) -> list[str]:
    return [str(each).removeprefix(f"{tmp_path}/") for each in scenario.check(written(tmp_path, more, rest))]


def test_a_scenario_without_the_sections_has_no_data_and_adam_as_published(tmp_path: Path) -> None:
    found = scenario.load(written(tmp_path, ""))
    assert found.data is None
    settings = found.training
    # Kingma and Ba 2015 (arXiv:1412.6980), algorithm 1.
    assert (settings.learning_rate, settings.beta1, settings.beta2, settings.eps) == (0.001, 0.9, 0.999, 1e-8)
    assert (settings.weight_decay, settings.epochs) == (0, 1)


def test_the_sections_become_what_they_say(tmp_path: Path) -> None:
    more = "data: {name: digits, validation_split: 0.1}\n"
    more += "training: {epochs: 5, learning_rate: 0.01, beta1: 0.8, beta2: 0.9, eps: 1.0e-6, weight_decay: 0.1, momentum: 0, max_norm: 5}\n"
    found = scenario.load(written(tmp_path, more))
    assert found.data == DataSpec("digits", 0.1)
    assert found.training == Training(5, 0.01, 0.8, 0.9, 1e-6, 0.1, 0, 5)
    assert pickle.loads(pickle.dumps(found)) == found


def test_every_setting_of_training_is_a_key_with_the_same_default() -> None:
    properties = scenario.schema()["definitions"]["TrainingSection"]["properties"]
    assert {name: each["default"] for name, each in properties.items()} == {**asdict(Training()), "total_tokens": None}


def test_the_json_schema_lists_the_data_sets() -> None:
    properties = scenario.schema()["definitions"]["DataSection"]["properties"]
    assert tuple(properties["name"]["enum"]) == data.names()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            "data: {name: digit}\n",
            "5:8: data.name: unknown data set 'digit' (did you mean 'digits'?); known: digit-images, digit-words, digits, praise",
        ),
        ("data: {validation_split: 0.2}\n", "5:1: data.name: missing; give the data set"),
        ("data: {name: digits, validation_split: 1}\n", "5:22: data.validation_split: must be below 1, not 1"),
        ("data: {name: digits, split: 0.2}\n", "5:22: data.split: unknown key (did you mean 'validation_split'?)"),
        ("data: digits\n", "5:1: data: must be a mapping, not 'digits'"),
        ("data: {name: praise}\n", '5:8: data.name: data set "praise" trains an encoder (causal = false, head = text) with num_labels'),
        ("training: {learning_rate: 0}\n", "5:12: training.learning_rate: must be above 0, not 0"),
        ("training: {learning_rate: 1 ms}\n", "5:12: training.learning_rate: must be a number, not '1 ms'"),
        ("training: {beta2: 1.0}\n", "5:12: training.beta2: must be below 1, not 1.0"),
        ("training: {lr: 0.1}\n", "5:12: training.lr: unknown key (did you mean 'learning_rate'?)"),
        ("training: {max_norm: .inf}\n", "5:12: training.max_norm: must be a finite number, not inf"),
        ("training: {epochs: 0}\n", "5:12: training.epochs: must be above 0, not 0"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_its_place(tmp_path: Path, more: str, expected: str) -> None:
    (found,) = faults(tmp_path, more)
    assert found.startswith(f"s.yaml:{expected}")


def test_faults_of_both_sections_and_of_others_are_told_at_once(tmp_path: Path) -> None:
    more = "data: {name: digits, validation_split: -1}\ntraining: {epochs: 1.5, momentum: 2}\n"
    found = faults(tmp_path, more, MINIMAL.replace("micro_batch: 32", "micro_batch: 33"))
    assert [each.split(": ")[1] for each in found] == [
        "plans.one.micro_batch",
        "data.validation_split",
        "training.epochs",
        "training.momentum",
    ]


def test_a_model_that_the_data_does_not_fit_is_told_where_the_data_is_named(tmp_path: Path) -> None:
    rest = MINIMAL.replace("model: digits-mlp", "model: mnist-mlp-3x1024")
    (found,) = faults(tmp_path, "data: {name: digits}\n", rest)
    assert found.startswith("s.yaml:5:8: data.name:") and 'num_features = 784 of model "mnist-mlp-3x1024" must be 64' in found


def test_the_shipped_examples_name_every_data_set() -> None:
    assert {scenario.load(path).data.name for path in EXAMPLES} == set(data.names())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_shipped_example_opens_with_what_it_shows_and_fills_a_batch_of_its_data(path: Path) -> None:
    assert path.read_text().startswith("# ")
    found = scenario.load(path)
    assert found.data is not None
    if found.data.name == "digits":
        pytest.importorskip("sklearn", reason="scikit-learn (extra data) is not installed")
    loaded = data.load(found.data.name, found.data.validation_split, found.seed, found.model, found.batch.sequence_length)
    assert loaded.num_steps(found.training.epochs, found.batch.global_batch) >= 20
    assert loaded.num_validation >= 100
