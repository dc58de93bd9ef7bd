"""What the programs of TensorFlow and Keras train, for real on this machine, has the losses and the accuracy of `parsim execute`.

PARSIM_TENSORFLOW and PARSIM_KERAS name interpreters that have the packages of the extras [tensorflow] and [keras]; else this one's count.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from compare.run_exports import ALL, FIRST, run_export
from parsim import Plan
from parsim.cluster.cluster import Cluster
from parsim.executor.evaluate import Score
from parsim.executor.run import execute
from parsim.model.families.dense import DenseSpec
from parsim.scenario import Scenario
from parsim.targets import Launch, export_plan

pytestmark = pytest.mark.slow
SERVER = "tensorflow-parameter-server"
STEPS = 22  # an epoch of digits-mlp
FEW = 4


def python_for(target: str) -> Path:
    variable, package = ("PARSIM_KERAS", "jax") if target == "keras" else ("PARSIM_TENSORFLOW", "tensorflow")
    if not (named := os.environ.get(variable)) and not (find_spec(package) and find_spec("keras")):
        pytest.skip(f"neither {variable} nor this interpreter has {package} and keras")
    return Path(named or sys.executable)


def mlp(num_nodes: int, per_node: int) -> Scenario:
    """With tanh: a relu's unit that rounds to the other side of 0 makes another training, in numpy's float32 and float64, too."""
    scenario = parsim.load("scenarios/digits-mlp.yaml")
    fabric = parsim.load("scenarios/table5-175b.yaml").cluster.fabric if num_nodes > 1 else None
    cluster = Cluster(replace(scenario.cluster.node, devices_per_node=per_node), num_nodes, fabric)
    return replace(scenario, cluster=cluster, model=replace(scenario.model, activation="tanh"))


def chain(per_node: int, *units: int, **others: Any) -> Scenario:
    return replace(mlp(1, per_node), model=DenseSpec.of(name="a chain", num_features=64, units=units, num_labels=10, **others))


def differences(said: list[Any], scenario: Scenario, plan: Plan | str) -> tuple[list[float], list[Score | None]]:
    """Of the losses by step, relative, and the scores that parsim has after the last."""
    losses, scores = [each["loss"] for each in said if "loss" in each], list[Score | None]()
    every = {"clocks": False, "evaluate_every": len(losses), "progress": lambda step, loss, score: scores.append(score)}
    executed = execute(scenario, plan, num_steps=len(losses), **every).losses  # type: ignore[arg-type]
    return [abs(a - b) / b for a, b in zip(losses, executed, strict=True)], scores


@pytest.mark.parametrize(
    ("target", "num_nodes", "per_node", "plan"),
    [
        ("tensorflow", 1, 4, Plan(data_parallel=4, micro_batch=16)),
        ("tensorflow", 1, 2, Plan(data_parallel=2, micro_batch=8, optimizer="sgd_momentum")),
        ("tensorflow", 2, 1, Plan(data_parallel=2, micro_batch=16)),
        ("tensorflow", 1, 4, Plan(data_parallel=4, micro_batch=16, gradient_sync="master")),
        ("tensorflow", 2, 1, Plan(data_parallel=2, micro_batch=32, gradient_sync="master")),
        (SERVER, 1, 1, Plan(micro_batch=64, gradient_sync="master")),
        ("keras", 1, 4, Plan(data_parallel=4, micro_batch=16)),
        ("keras", 1, 4, Plan(tensor_parallel=4, micro_batch=64)),
        ("keras", 1, 8, Plan(data_parallel=4, tensor_parallel=2, micro_batch=16)),
        ("keras", 1, 2, Plan(data_parallel=2, micro_batch=32, optimizer="sgd_momentum")),
    ],
)
def test_an_epoch_has_the_losses_and_the_accuracy_of_execute(
    target: str, num_nodes: int, per_node: int, plan: Plan, tmp_path: Path
) -> None:
    scenario = mlp(num_nodes, per_node)
    said = run_export(export_plan(scenario, plan, target), tmp_path, python_for(target), STEPS)
    apart, scores = differences(said, scenario, plan)
    assert len(apart) == STEPS and apart[0] <= FIRST and max(apart) <= ALL
    held = next(each for each in said if "accuracy" in each)
    assert scores[-1] and abs(held["accuracy"] - scores[-1].accuracy) < 1e-6 and abs(held["validation_loss"] - scores[-1].loss) < 1e-5
    parts = {each["weight"]: each["shape"][-1] // each["held"][-1] for each in said if "weight" in each}
    assert not parts or (parts["layer0_up/kernel"], parts["head_label/kernel"]) == (plan.tensor_parallel, 1)


@pytest.mark.parametrize("target", ["tensorflow", "keras"])
def test_steps_that_clip_nothing_have_the_losses_of_execute(target: str, tmp_path: Path) -> None:
    scenario, plan = mlp(1, 2), Plan(data_parallel=2, micro_batch=32)
    scenario = replace(scenario, training=replace(scenario.training, max_norm=inf, learning_rate=0.01))
    apart, _ = differences(run_export(export_plan(scenario, plan, target), tmp_path, python_for(target), FEW), scenario, plan)
    assert len(apart) == FEW and apart[0] <= FIRST and max(apart) <= ALL


@pytest.mark.parametrize(
    ("target", "units", "activations", "plan"),
    [
        pytest.param("tensorflow", (), (), Plan(data_parallel=4, micro_batch=16), id="tensorflow-one_layer"),  # these two run in CI
        pytest.param("keras", (), (), Plan(micro_batch=64), id="keras-one_layer"),
        ("tensorflow", (48, 32, 20), ("sigmoid", "silu", "linear"), Plan(data_parallel=4, micro_batch=16)),
        (SERVER, (48, 32, 20), ("tanh", "tanh", "tanh"), Plan(micro_batch=64, gradient_sync="master")),
        ("keras", (48, 32, 20), ("sigmoid", "silu", "linear"), Plan(data_parallel=4, micro_batch=16)),
        ("keras", (48, 32, 20), ("tanh", "tanh", "tanh"), Plan(data_parallel=2, tensor_parallel=2, micro_batch=32)),
        ("keras", (48, 32), ("tanh", "gelu"), Plan(data_parallel=2, tensor_parallel=2, micro_batch=32)),
    ],
)
def test_a_chain_of_any_widths_has_the_losses_and_the_accuracy_of_execute(
    target: str, units: tuple[int, ...], activations: tuple[str, ...], plan: Plan, tmp_path: Path
) -> None:
    scenario = chain(plan.num_devices, *units, activations=activations)
    said = run_export(export_plan(scenario, plan, target), tmp_path, python_for(target), STEPS)
    apart, scores = differences(said, scenario, plan)
    assert len(apart) == STEPS and apart[0] <= FIRST and max(apart) <= ALL
    held = next(each for each in said if "accuracy" in each)
    assert scores[-1] and abs(held["accuracy"] - scores[-1].accuracy) < 1e-6 and abs(held["validation_loss"] - scores[-1].loss) < 1e-5
    parts = {each["weight"]: tuple(np.array(each["shape"]) // each["held"]) for each in said if "weight" in each}
    assert len(parts) == (0 if plan.tensor_parallel == 1 else 2 * len(units) + 2)
    assert not parts or (parts["embedding_input/kernel"] == (1, 2) and parts["layer0_dense/kernel"] == (2, 1))
    assert not parts or parts["head_label/kernel"] == (1 + len(units) % 2, 1)


def test_a_chain_with_another_nonlinearity_behind_a_layer_is_seen(tmp_path: Path) -> None:
    scenario, plan = chain(2, 48, 32, activation="relu", activations=("tanh", "silu")), Plan(data_parallel=2, micro_batch=32)
    launch, right = export_plan(scenario, plan, "tensorflow"), 'model.get("activations") or '
    assert right in launch.files["network.py"]
    files = {**launch.files, "network.py": launch.files["network.py"].replace(right, "")}
    said = run_export(Launch("", "", files, launch.command, data=launch.data), tmp_path, python_for("tensorflow"), 2)
    apart, _ = differences(said, scenario, plan)
    assert apart[0] > FIRST


def test_all_epochs_of_one_dense_layer_have_the_losses_of_execute(tmp_path: Path) -> None:
    scenario = parsim.load("scenarios/digits-softmax.yaml")
    said = run_export(export_plan(scenario, "one", "tensorflow"), tmp_path, python_for("tensorflow"), 220)
    apart, scores = differences(said, scenario, "one")
    assert len(apart) == 220 and max(apart[:20]) <= 1e-5 and max(apart) <= 1e-3
    assert scores[-1] and abs(said[-1]["accuracy"] - scores[-1].accuracy) < 1e-6


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("train.py", "(gradient * share, variable)", "(gradient, variable)"),  # no clipping
        ("train.py", "/ (GLOBAL_BATCH * LENGTH)", "/ (REPLICAS * GLOBAL_BATCH * LENGTH)"),
        ("network.py", "self.epsilon * root", "self.epsilon * 100"),
        ("network.py", "-ops.expm1(step * math.log(self.beta_1))", "1.0"),
    ],
)
def test_a_program_that_trains_otherwise_is_seen(file: str, right: str, wrong: str, tmp_path: Path) -> None:
    scenario, plan = mlp(1, 2), Plan(data_parallel=2, micro_batch=32)
    launch = export_plan(scenario, plan, "tensorflow")
    assert right in launch.files[file]
    files = {**launch.files, file: launch.files[file].replace(right, wrong)}
    said = run_export(Launch("", "", files, launch.command, data=launch.data), tmp_path, python_for("tensorflow"), STEPS)
    apart, _ = differences(said, scenario, plan)
    assert max(apart) > ALL


@pytest.mark.parametrize(("backend", "told"), [("torch", "--to pytorch"), ("tensorflow", "--to tensorflow")])
def test_other_backends_of_keras_are_refused(backend: str, told: str, tmp_path: Path) -> None:
    launch = export_plan(mlp(1, 4), Plan(data_parallel=4, micro_batch=16), "keras")
    with pytest.raises(RuntimeError, match=f"{told}|No module named '{backend}'"):
        run_export(launch, tmp_path, python_for("keras"), 1, {"KERAS_BACKEND": backend})
