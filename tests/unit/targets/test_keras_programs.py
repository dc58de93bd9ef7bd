"""Programs of TensorFlow and Keras: which strategy a plan is, what each task is told, what is refused, and that a program says its plan."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim import Plan
from parsim.cluster.cluster import Cluster
from parsim.model.families.dense import ACTIVATIONS, DenseSpec
from parsim.parallel.plan import KEYS
from parsim.scenario import Scenario
from parsim.targets import NotExpressible, Setup, export_plan, find, read_job
from parsim.targets.exporting import export_setup
from parsim.targets.programs import MODELS
from random_plans import drawn
from round_trips import unnoticed

FABRIC = parsim.load("scenarios/table5-175b.yaml").cluster.fabric
NAMES = ("tensorflow", "tensorflow-parameter-server", "keras")


def mlp(num_nodes: int = 1, per_node: int = 4, **changes: Any) -> Scenario:
    scenario = parsim.load("scenarios/digits-mlp.yaml")
    node = replace(scenario.cluster.node, devices_per_node=per_node)
    return replace(scenario, cluster=Cluster(node, num_nodes, FABRIC if num_nodes > 1 else None), **changes)


def chain(*units: int, **others: Any) -> DenseSpec:
    return DenseSpec.of(name="a chain", num_features=64, units=units, num_labels=10, **others)


def settings(program: str) -> dict[str, Any]:
    found = next(each for each in ast.parse(program).body if isinstance(each, ast.AnnAssign))
    return ast.literal_eval(found.value)  # type: ignore[arg-type, no-any-return]


@pytest.mark.parametrize(
    ("target", "nodes", "per_node", "sync", "strategy"),
    [
        ("tensorflow", 1, 4, "all_reduce", "mirrored"),
        ("tensorflow", 2, 2, "all_reduce", "multi_worker_mirrored"),
        ("tensorflow", 1, 4, "master", "central_storage"),
        ("tensorflow", 2, 2, "master", "parameter_server"),
        ("tensorflow-parameter-server", 1, 4, "master", "parameter_server"),
    ],
)
def test_the_strategy_follows_from_who_updates_and_where(target: str, nodes: int, per_node: int, sync: str, strategy: str) -> None:
    plan = Plan(data_parallel=4, micro_batch=16, gradient_sync=sync)
    assert settings(export_plan(mlp(nodes, per_node), plan, target).files["train.py"])["layout"]["strategy"] == strategy


def test_each_task_of_a_server_has_its_line_its_device_and_the_same_cluster() -> None:
    launch = export_plan(mlp(2, 2), Plan(data_parallel=4, micro_batch=16, gradient_sync="master"), "tensorflow")
    told = {name: json.loads(text) for name, text in launch.files.items() if name.endswith(".json")}
    assert len({json.dumps(each["cluster"]) for each in told.values()}) == 1 and len(launch.command.splitlines()) == len(told) == 6
    cluster = told["worker-3.json"]["cluster"]
    assert (
        cluster["worker"] == ["node0:12345", "node0:12346", "node1:12345", "node1:12346"]
        and len(cluster["ps"]) == len(cluster["chief"]) == 1
    )
    assert told["worker-3.json"]["task"] == {"type": "worker", "index": 3}
    assert launch.command.splitlines()[-1].startswith("CUDA_VISIBLE_DEVICES=1 ") and launch.command.endswith("on node1")


def test_a_worker_of_mirrored_replicas_is_a_node() -> None:
    launch = export_plan(mlp(2, 2), Plan(data_parallel=4, micro_batch=16), "tensorflow")
    assert json.loads(launch.files["worker-1.json"]) == {
        "cluster": {"worker": ["node0:12345", "node1:12345"]},
        "task": {"type": "worker", "index": 1},
    }


@pytest.mark.parametrize(
    ("target", "field", "plan"),
    [
        ("tensorflow", "pipeline_parallel", Plan(pipeline_parallel=4, micro_batch=16)),
        ("tensorflow", "tensor_parallel", Plan(tensor_parallel=4, micro_batch=64)),
        ("tensorflow", "zero_stage", Plan(data_parallel=4, micro_batch=16, zero_stage=1)),
        ("tensorflow", "recompute", Plan(data_parallel=4, micro_batch=16, recompute="full")),
        ("tensorflow", "optimizer", Plan(data_parallel=4, micro_batch=16, optimizer="adamw_8bit")),
        ("tensorflow", "precision", Plan(data_parallel=4, micro_batch=16, precision="bf16")),
        ("tensorflow-parameter-server", "gradient_sync", Plan(data_parallel=4, micro_batch=16)),
        ("keras", "gradient_sync", Plan(data_parallel=4, micro_batch=16, gradient_sync="master")),
        ("keras", "pipeline_parallel", Plan(pipeline_parallel=4, micro_batch=64)),
        ("keras", "micro_batch", Plan(data_parallel=2, tensor_parallel=2, micro_batch=16)),
    ],
)
def test_what_a_program_does_not_do_is_refused_by_name(target: str, field: str, plan: Plan) -> None:
    with pytest.raises(NotExpressible) as caught:
        export_plan(mlp(), plan, target)
    assert (caught.value.field, caught.value.target) == (field, target)


@pytest.mark.parametrize("target", NAMES)
def test_another_model_or_masks_that_nobody_can_repeat_are_refused(target: str) -> None:
    plan = Plan(data_parallel=4, micro_batch=1, gradient_sync="all_reduce" if target == "keras" else "master")
    with pytest.raises(NotExpressible, match="of family transformer"):
        export_plan(parsim.load("scenarios/tiny.yaml"), plan, target)
    dropped = mlp(model=replace(mlp().model, dropout=0.1))
    for each in (dropped, mlp(model=chain(8, dropout=0.1))):
        with pytest.raises(NotExpressible, match=r"^model\.dropout|parsim execute"):
            export_plan(each, replace(plan, micro_batch=16), target)


def test_weights_and_data_have_the_names_and_shapes_of_dense(tmp_path: Any) -> None:
    launch = export_plan(mlp(), "data_parallel", "tensorflow")
    for name, make in launch.data.items():
        (tmp_path / name).write_bytes(make())
    weights, data = (np.load(tmp_path / name) for name in ("weights.npz", "data.npz"))
    shapes = {
        name: weights[name].shape for name in ("embedding_input/kernel", "layer1_down/kernel", "head_label/kernel", "head_label/bias")
    }
    assert shapes == {
        "embedding_input/kernel": (64, 64),
        "layer1_down/kernel": (128, 64),
        "head_label/kernel": (64, 10),
        "head_label/bias": (10,),
    }
    assert data["rows"].shape == (220, 64) and len(data["held_features"]) == len(data["held_row_labels"]) == 359


@pytest.mark.parametrize(
    ("units", "columns", "rows"),
    [
        ((48,), ["embedding_input"], ["head_label"]),
        ((48, 32), ["embedding_input"], ["layer0_dense"]),
        ((48, 32, 20), ["embedding_input", "layer1_dense"], ["layer0_dense", "head_label"]),
        ((8,) * 12, ["embedding_input", *(f"layer{n}_dense" for n in (1, 3, 5, 7, 9))], [f"layer{n}_dense" for n in (0, 2, 4, 6, 8, 10)]),
    ],
)
def test_a_chain_is_split_by_columns_and_by_rows_in_turn(units: tuple[int, ...], columns: list[str], rows: list[str]) -> None:
    launch = export_plan(mlp(model=chain(*units)), Plan(data_parallel=2, tensor_parallel=2, micro_batch=32), "keras")
    sharded = settings(launch.files["train.py"])["layout"]["sharded"]

    def axes(weight: str) -> list[list[str | None]]:
        return [own for pattern, own in sharded.items() if re.search(pattern, weight)]

    assert all((axes(f"s/{name}/kernel"), axes(f"s/{name}/bias")) == ([[None, "model"]], [["model"]]) for name in columns)
    assert all((axes(f"s/{name}/kernel"), axes(f"s/{name}/bias")) == ([["model", None]], []) for name in rows)
    names = {"embedding_input", "head_label", *(f"layer{place}_dense" for place in range(len(units) - 1))}
    assert not any(axes(f"s/{name}/{kind}") for name in names - {*columns} - {*rows} for kind in ("kernel", "bias"))


def test_a_softmax_regression_has_the_weights_of_one_layer(tmp_path: Any) -> None:
    launch = export_plan(parsim.load("scenarios/digits-regression.yaml"), "replicas", "tensorflow")
    (tmp_path / "weights.npz").write_bytes(launch.data["weights.npz"]())
    weights = np.load(tmp_path / "weights.npz")
    assert {name: weights[name].shape for name in weights} == {"head_label/kernel": (64, 10), "head_label/bias": (10,)}


def _drawn(rng: Random, target: str) -> Setup:
    """A plan of replicas, and of columns where the target has them, or any plan of any model."""
    if rng.random() < 0.3:
        case = drawn(rng.randrange(10**6))
        return Setup("drawn", case.scenario, case.plan)
    dp, tp = rng.choice((1, 2, 3, 4, 8)), rng.choice((1, 2)) if target == "keras" else 1
    count, micro_batch = 1 if target == "keras" else rng.choice((1, 1, 2)), rng.choice((1, 3))
    sync = "all_reduce" if target == "keras" else rng.choice(("all_reduce", "master"))
    each = dp * tp if target == "keras" else rng.choice([count for count in range(1, dp * tp + 1) if dp * tp % count == 0])
    sizes = {"num_layers": rng.choice((0, 1, 2)), "hidden_size": 2 * rng.randint(1, 9), "activation": rng.choice(("relu", "gelu", "tanh"))}
    scenario = mlp(dp * tp // each, each)
    batch = replace(scenario.batch, global_batch=dp * count * micro_batch, dtype=rng.choice(("fp32", "fp32", "tf32", "bf16")))
    model = _chain(rng, tp) if rng.random() < 0.5 else replace(scenario.model, bias=rng.random() < 0.5, **sizes)
    scenario = replace(scenario, model=model, batch=batch)
    optimizer = rng.choice(("adamw", "sgd_momentum"))
    plan = Plan(data_parallel=dp, tensor_parallel=tp, micro_batch=micro_batch, gradient_sync=sync, optimizer=optimizer)
    return Setup("drawn", scenario, plan)


def _chain(rng: Random, tp: int) -> DenseSpec:
    units = [2 * rng.randint(1, 4) for _ in range(rng.randint(int(tp > 1), 5))]
    each = tuple(rng.choice(ACTIVATIONS) for _ in units) if rng.random() < 0.5 else ()
    return chain(*units, activation=rng.choice(ACTIVATIONS), activations=each, bias=rng.random() < 0.5)


def round_trips(target: str, count: int) -> Counter[str]:
    """Draws by what became of them until so many came back: "same", or the field that was refused; no more than four times as many."""
    described, version = find(target)
    rng, found = Random(0), Counter[str]()
    while found["same"] < count and found.total() < 4 * count:
        setup = _drawn(rng, target)
        try:
            launch = export_setup(described, version, setup)
        except NotExpressible as error:
            assert error.target == target and error.field.split(".")[0] in {*KEYS, "batch", "model"}, error
            found[error.field] += 1
            continue
        job = read_job(launch.files["train.py"], "train.py")
        stated = {key.removeprefix("plan."): value for key, value in job.keys.items() if key.startswith("plan.")}
        assert (job.target, job.version, job.left) == (target, version, ()) and replace(Plan(), **stated) == setup.plan
        assert all(job.keys[f"model.{name}"] == getattr(setup.model, name) for name in MODELS[setup.model.family])
        assert all(job.keys[f"batch.{name}"] == getattr(setup.batch, name) for name in ("global_batch", "sequence_length", "dtype"))
        found["same"] += 1
    return found


@pytest.mark.parametrize("target", NAMES)
def test_twenty_drawn_plans_come_back_as_they_were(target: str) -> None:
    assert round_trips(target, 20)["same"] == 20


@pytest.mark.slow
@pytest.mark.parametrize("target", NAMES)
def test_five_hundred_drawn_plans_come_back_and_others_are_refused_by_many_fields(target: str) -> None:
    found = round_trips(target, 500)
    assert found["same"] == 500 and len(found) > 5, found


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text.replace('"mirrored"', "__import__('os')"),
        lambda text: text.replace("# end of settings", ""),
        lambda text: text.replace("SETTINGS: dict", "SETTINGS = 1  #", 1),
        lambda text: text.replace('"plan": {', '"plan": {' + "[" * 5000),
        lambda text: text.replace('"target": "tensorflow"', '"target": "another"'),
    ],
)
def test_a_program_is_read_as_a_literal_and_never_run(harm: Any) -> None:
    target, _ = find("tensorflow")
    program = export_plan(mlp(), "data_parallel", "tensorflow").files["train.py"]
    assert target.read(program, "train.py") and target.read(harm(program), "train.py") is None


def test_only_what_pytorch_takes_is_sent_there() -> None:
    for model, sent in (("llama2-7b", True), ("t5-small", False), ("bert-base", False), ("mixtral-8x7b", False)):
        batch = {"global_batch": 8, "sequence_length": 128, **({"source_length": 128} if model == "t5-small" else {})}
        scenario = parsim.from_mapping({"model": model, "cluster": {"node": "hgx-h100-80gb"}, "batch": batch, "plans": {"p": {}}})
        with pytest.raises(NotExpressible) as caught:
            export_plan(scenario, "p", "keras")
        assert ("--to pytorch" in str(caught.value)) == sent


@pytest.mark.slow
@pytest.mark.parametrize("target", NAMES)
def test_no_entry_could_be_silent_or_deaf_without_notice(target: str) -> None:
    assert not unnoticed(target, (_drawn(Random(seed), target) for seed in range(60)))
