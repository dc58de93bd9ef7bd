"""TensorFlow: replicas of an MLP of Keras by tf.distribute, a program with its plan at its head and a TF_CONFIG for each task.

Gradients that all replicas average are a MirroredStrategy on one node and a MultiWorkerMirroredStrategy on several.  A master that updates
for all is a CentralStorageStrategy, which one node can have.  A ParameterServerStrategy is another thing: its workers update the weights
one after another, not together.  So that is a target of its own, which takes what says `gradient_sync: master`.
Source: TensorFlow 2.21, tensorflow/python/distribute; Keras 3.15.1, keras/src/backend/tensorflow (trainer.py, optimizer.py).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from parsim.errors import PlanError
from parsim.targets.entries import Entry, Keys, same
from parsim.targets.programs import mlp_data, mlp_faults, mlp_weights, settings_in, stated, text_of, with_settings
from parsim.targets.target import TARGETS, KeyValue, Launch, NotExpressible, Setup, Target

NAME, PARAMETER_SERVER = "tensorflow", "tensorflow-parameter-server"
VERSIONS: Final = ("2.21",)
PORT: Final = 12345
PLAN: Final = ("data_parallel", "micro_batch", "gradient_sync", "optimizer")
BATCH: Final = ("global_batch", "sequence_length", "dtype")
MODEL: Final = ("family", "num_layers", "hidden_size", "ffn_hidden_size", "num_features", "num_labels", "activation", "bias")
TRAINING: Final = ("epochs", "learning_rate", "beta1", "beta2", "eps", "weight_decay", "momentum", "max_norm")
OPTIMIZERS: Final = ("adamw", "sgd_momentum")
DTYPES: Final = ("fp32", "tf32")
MIRRORED, MULTI_WORKER, CENTRAL, SERVER = "mirrored", "multi_worker_mirrored", "central_storage", "parameter_server"


def num_nodes(setup: Setup) -> int:
    """Of the replicas."""
    return -(-setup.plan.num_devices // setup.cluster.node.devices_per_node)


def strategy_of(setup: Setup, target: str = NAME) -> str:
    """The strategy of tf.distribute that does what the plan says."""
    if target == PARAMETER_SERVER:
        return SERVER
    if setup.plan.gradient_sync == "master":
        return CENTRAL
    return MULTI_WORKER if num_nodes(setup) > 1 else MIRRORED


def _layout(target: str) -> Entry:
    """What follows from plan and cluster, said for the program's sake."""

    def write(setup: Setup) -> dict[str, KeyValue]:
        said = {"scenario": setup.scenario.name, "plan": setup.name, "seed": setup.scenario.seed}
        layout = {"strategy": strategy_of(setup, target), "tensor_float_32": setup.dtype == "tf32"}
        return {f"parsim.{key}": each for key, each in said.items()} | {f"layout.{key}": each for key, each in layout.items()}

    def read(keys: Keys) -> dict[str, Any]:
        for key in ("parsim.scenario", "parsim.plan", "parsim.seed", "layout.strategy", "layout.tensor_float_32"):
            keys.take(key)
        return {}

    return Entry((), write, read)


def entries(target: str, version: str) -> tuple[Entry, ...]:
    """The settings, under parsim's own names."""
    return (
        *(same(f"plan.{name}", f"plan.{name}") for name in PLAN),
        *(same(f"batch.{name}", f"batch.{name}") for name in BATCH),
        *stated("model", MODEL),
        *stated("training", TRAINING),
        _layout(target),
    )


def tasks_of(setup: Setup, target: str) -> Mapping[str, list[str]]:
    """The tasks that a job has, by kind, with their addresses; none on one node."""
    strategy, ranks = strategy_of(setup, target), setup.plan.num_devices
    if strategy == SERVER:
        hosts = iter(f"node{number}:{PORT}" for number in range(ranks + 2))
        return {"chief": [next(hosts)], "ps": [next(hosts)], "worker": list(hosts)}
    return {"worker": [f"node{number}:{PORT}" for number in range(num_nodes(setup))]} if strategy == MULTI_WORKER else {}


def write(target: str, keys: Mapping[str, KeyValue], setup: Setup, version: str) -> Launch:
    """The program with the weights and data that `parsim execute` takes, and the TF_CONFIG of each task."""
    program = with_settings(text_of("tensorflow", "train.py"), {"parsim.target": target, "parsim.version": version, **keys})
    texts = {"train.py": program, "network.py": text_of("tensorflow", "network.py")}
    notes, lines, cluster = [], [], tasks_of(setup, target)
    for kind, hosts in cluster.items():
        for index, host in enumerate(hosts):
            texts[f"{kind}-{index}.json"] = json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}, indent=2) + "\n"
            lines.append(f'TF_CONFIG="$(cat {kind}-{index}.json)" python train.py  # on {host.partition(":")[0]}')
    if cluster:
        notes.append("put the addresses of your hosts in place of node0, node1, ... in the .json files")
    if strategy_of(setup, target) == SERVER:
        notes.append("workers update the weights one after another: with more than one the losses are near those of parsim execute, not equal")
    data = {"weights.npz": lambda: mlp_weights(setup), "data.npz": lambda: mlp_data(setup)}
    return Launch(target, version, texts, "\n".join(lines) or "python train.py", tuple(notes), data)


def refuses(target: str, setup: Setup, version: str) -> Iterator[PlanError]:
    """What the program does not compute, or not as the plan says."""
    plan, each = setup.plan, setup.cluster.node.devices_per_node
    for field, why, remedy in mlp_faults(setup):
        yield NotExpressible(field, target, version, why, remedy)
    if setup.dtype not in DTYPES:
        field = "precision" if plan.precision else "batch.dtype"
        yield NotExpressible(field, target, version, f"it trains in {' and '.join(DTYPES)}, not in {setup.dtype}")
    if plan.optimizer not in OPTIMIZERS:
        yield NotExpressible("optimizer", target, version, f"it has {' and '.join(OPTIMIZERS)}")
    if target == PARAMETER_SERVER and plan.gradient_sync != "master":
        why = "a ParameterServerStrategy keeps the weights with a server, and averages nothing"
        yield NotExpressible("gradient_sync", target, version, why, f"Use --to {NAME}, or set gradient_sync = master.")
    if target == NAME and plan.gradient_sync == "master" and num_nodes(setup) > 1:
        why = "a CentralStorageStrategy has one node"
        remedy = f"Workers that update one after another: --to {PARAMETER_SERVER}."
        yield NotExpressible("gradient_sync", target, version, why, remedy)
    if target == NAME and num_nodes(setup) > 1 and plan.num_devices % each:
        why = f"its workers have {each} devices each, and {plan.num_devices} replicas do not fill them"
        yield NotExpressible("data_parallel", target, version, why, "Use whole nodes.")


def _register(target: str, title: str) -> None:
    own = functools.partial
    described = Target(
        target,
        VERSIONS,
        title,
        own(entries, target),
        own(write, target),
        lambda text, name: settings_in(text, target),
        own(refuses, target),
        __doc__ or "",
    )
    TARGETS.register(target, described)


_register(NAME, "a program of tf.distribute: MirroredStrategy, MultiWorkerMirroredStrategy, CentralStorageStrategy")
_register(PARAMETER_SERVER, "a program of tf.distribute: ParameterServerStrategy, whose workers do not wait for each other")
