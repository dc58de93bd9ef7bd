"""What `training` says reaches each launcher by a key that comes back, or as a note with figure and value; else it is refused."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from msgspec.structs import replace

import parsim
from parsim import Plan
from parsim.scenario import Scenario
from parsim.scenario.types import Training
from parsim.targets import Launch, NotExpressible, export_plan, find, read_job
from parsim.targets.exporting import export_setup
from parsim.targets.target import Setup

ADAM = {"learning_rate": 0.0025, "beta1": 0.85, "beta2": 0.97, "eps": 1e-7, "weight_decay": 0.05, "max_norm": 0.5}
STEPS = 250
KEYS = ("megatron-lm@0.16.1", "megatron-lm", "megatron-bridge", "torchtitan", "torchtitan@main-2026-08", "torchtitan@0.2.2", "maxtext")
ALL = (*KEYS, "deepspeed", "accelerate")
CARRIES_STEPS = KEYS[:-1]
PLAN = Plan(data_parallel=8, zero_stage=3, recompute="full")


def scenario(**told: Any) -> Scenario:
    """Llama 3 on 8 devices, trained otherwise than by default."""
    cluster = {"node": "hgx-h100-80gb", "num_nodes": 1}
    batch = {"global_batch": 16, "sequence_length": 2048}
    made = parsim.from_mapping({"model": "llama3-8b", "cluster": cluster, "batch": batch, "plans": {"one": {}}}, name="figures")
    total = told.pop("total_tokens", None)
    return replace(made, training=replace(Training(), **told), total_tokens=total)


def exported(target: str, plan: Plan = PLAN, **told: Any) -> Launch:
    return export_plan(scenario(**told), plan, target)


def came_back(launch: Launch) -> dict[str, Any]:
    """The figures that the main file says."""
    name, text = next(iter(launch.files.items()))
    found = read_job(text, name).keys
    return {key.removeprefix("training."): value for key, value in found.items() if key.startswith("training.")}


@pytest.mark.parametrize("target", ALL)
def test_each_figure_of_adam_comes_back_from_a_launchers_file(target: str) -> None:
    assert came_back(exported(target, **ADAM)) == ADAM


@pytest.mark.parametrize("target", CARRIES_STEPS)
def test_the_tokens_of_the_whole_training_are_whole_steps_there(target: str) -> None:
    launch = exported(target, total_tokens=STEPS * 16 * 2048 - 1)
    assert came_back(launch)["total_tokens"] == STEPS * 16 * 2048
    assert str(STEPS) in next(iter(launch.files.values()))


def test_as_many_steps_as_the_stand_in_are_said_as_samples() -> None:
    text = exported("megatron-lm", total_tokens=100 * 16 * 2048).files["pretrain.sh"]
    assert "--train-samples 1600" in text and "--train-iters" not in text
    assert "--train-iters 100" in exported("megatron-lm").files["pretrain.sh"]


def test_the_samples_of_the_longest_published_trainings_are_read() -> None:
    text = (
        exported("megatron-lm", total_tokens=100 * 16 * 2048)
        .files["pretrain.sh"]
        .replace("--train-samples 1600", "--train-samples 1953125000")
    )
    assert read_job(text, "pretrain.sh", "megatron-lm").keys["training.total_tokens"] == 1_953_125_000 * 2048


@pytest.mark.parametrize(("target", "said"), [("maxtext", "steps: 250"), ("accelerate", "--max_steps 250")])
def test_steps_are_written_where_reading_them_takes_the_devices(target: str, said: str) -> None:
    assert said in next(iter(exported(target, total_tokens=STEPS * 16 * 2048).files.values()))


def test_how_far_a_loop_of_the_users_goes_is_a_note_with_the_value() -> None:
    notes = exported("deepspeed", total_tokens=STEPS * 16 * 2048).notes
    assert any("total_tokens = 8192000 (250 steps)" in each for each in notes)


@pytest.mark.parametrize("target", ALL)
def test_epochs_are_a_matter_of_the_launchers_data_and_told(target: str) -> None:
    assert any("training.epochs = 3" in each for each in exported(target, epochs=3).notes)
    assert not any("epochs" in each for each in exported(target).notes)


@pytest.mark.parametrize("target", ["megatron-lm", "deepspeed"])
def test_sgd_has_figures_of_its_own_and_no_decay(target: str) -> None:
    plan = Plan(data_parallel=8, optimizer="sgd_momentum", recompute="full")
    found = came_back(exported(target, plan, momentum=0.8, learning_rate=0.02, **{"beta1": 0.5, "weight_decay": 0.1}))
    assert (found["momentum"], found["learning_rate"], found.get("weight_decay", 0.0)) == (0.8, 0.02, 0.0) and "beta1" not in found


@pytest.mark.parametrize("target", ALL)
def test_a_scenario_that_clips_nothing_says_so(target: str) -> None:
    launch = exported(target, max_norm=inf)
    text = next(iter(launch.files.values()))
    assert "Infinity" not in text and "max_norm" not in came_back(launch)


@pytest.mark.parametrize("target", ["pytorch", "tensorflow", "keras"])
def test_a_program_that_clips_nothing_is_python_and_comes_back(target: str) -> None:
    scenario = parsim.load("scenarios/digits-async.yaml")  # workers push gradients, of which nobody knows the norm of all
    assert scenario.training.max_norm == inf
    text = parsim.export_plan(scenario, "all_reduce", target).files["train.py"]
    assert read_job(text, "train.py").keys["training.max_norm"] == inf


def test_a_norm_beside_an_update_in_the_backward_is_left_out_of_an_import_and_told() -> None:
    text = exported("torchtitan@0.2.2", **ADAM).files["torchtitan.toml"]
    early = text.replace("[optimizer]", "[optimizer]\nearly_step_in_backward = true")
    job = read_job(early, "torchtitan.toml")
    assert early != text and "training.max_norm" not in job.keys and "training.max_norm" in {each.key for each in job.left}


def test_a_launcher_without_a_key_for_a_figure_refuses_it() -> None:
    target, version = find("maxtext")
    table = tuple(each for each in target.entries(version) if each.fields != ("training.beta2",))
    less = replace(target, entries=lambda version: table)
    setup = Setup("one", scenario(**ADAM), PLAN)
    with pytest.raises(NotExpressible, match=r"training.beta2: .* it has no key for beta2 = 0.97"):
        export_setup(less, version, setup)


@pytest.mark.parametrize("target", ALL)
def test_no_figure_could_be_silent_or_deaf_without_notice(target: str) -> None:
    known, version = find(target)
    setup = Setup("one", scenario(**ADAM, total_tokens=STEPS * 16 * 2048), PLAN)
    table = known.entries(version)
    for entry in table:
        if entry.assumed or not any(each.startswith("training.") for each in entry.fields):
            continue
        if entry.fields == ("training.momentum",):
            continue  # of SGD
        for how in ({"write": lambda setup: {}}, {"read": lambda keys: {}}):
            mutant = tuple(replace(each, **how) if each is entry else each for each in table)
            with pytest.raises(NotExpressible):
                export_setup(replace(known, entries=lambda version, mutant=mutant: mutant), version, setup)
