"""TensorFlow: replicas of an MLP of Keras by tf.distribute, a program with its plan at its head and a TF_CONFIG for each task.

Gradients that all replicas average are a MirroredStrategy on one node and a MultiWorkerMirroredStrategy on several.  A master that updates
for all is a CentralStorageStrategy on one node; on several it is the server of a ParameterServerStrategy, which workers push gradients to
and which updates once the coordinator has seen all of them come, so that no worker computes on old weights.
Source: TensorFlow 2.21, tensorflow/python/distribute; Keras 3.15.1, keras/src/backend/tensorflow (trainer.py, optimizer.py).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct

from parsim.errors import PlanError
from parsim.targets.programs import mlp_data, mlp_entries, mlp_faults, mlp_weights, settings_in, text_of, with_settings
from parsim.targets.target import TARGETS, KeyValue, Launch, NotExpressible, Setup, Target

NAME, PARAMETER_SERVER = "tensorflow", "tensorflow-parameter-server"
PORT: Final = 12345
PLAN: Final = ("data_parallel", "micro_batch", "gradient_sync", "optimizer")
MIRRORED, MULTI_WORKER, CENTRAL, SERVER = "mirrored", "multi_worker_mirrored", "central_storage", "parameter_server"


class TensorFlowTask(Struct, frozen=True):
    """One process of a job."""

    kind: str
    index: int
    node: int
    port: int = PORT
    device: str | None = None  # the one that it may see; None: all of its node

    @property
    def address(self) -> str:
        """Under a name that stands for the node's."""
        return f"node{self.node}:{self.port}"

    @property
    def line(self) -> str:
        """What starts it."""
        sees = "" if self.device is None else f"CUDA_VISIBLE_DEVICES={self.device} "
        return f'{sees}TF_CONFIG="$(cat {self.kind}-{self.index}.json)" python train.py  # on node{self.node}'


def num_nodes(setup: Setup) -> int:
    """Of the replicas."""
    return -(-setup.plan.num_devices // setup.cluster.node.devices_per_node)


def strategy_of(target: str, setup: Setup) -> str:
    """The strategy of tf.distribute that does what the plan says.

    Mirrored and central storage are one process, the others a process a node and a process a replica.
    """
    several = num_nodes(setup) > 1
    if target == PARAMETER_SERVER or (setup.plan.gradient_sync == "master" and several):
        return SERVER
    return CENTRAL if setup.plan.gradient_sync == "master" else MULTI_WORKER if several else MIRRORED


def tasks_of(target: str, setup: Setup) -> tuple[TensorFlowTask, ...]:
    """The tasks that TF_CONFIG names, the first that which speaks; none of a strategy in one process."""
    strategy, each = strategy_of(target, setup), setup.cluster.node.devices_per_node
    if strategy == SERVER:
        workers = (
            TensorFlowTask("worker", rank, rank // each, PORT + rank % each, str(rank % each)) for rank in range(setup.plan.num_devices)
        )
        return (TensorFlowTask("chief", 0, 0, PORT - 2, ""), TensorFlowTask("ps", 0, 0, PORT - 1, ""), *workers)
    return tuple(TensorFlowTask("worker", node, node) for node in range(num_nodes(setup))) if strategy == MULTI_WORKER else ()


def write(target: str, keys: Mapping[str, KeyValue], setup: Setup, version: str) -> Launch:
    """The program with the weights and data that `parsim execute` takes, and the TF_CONFIG of each task."""
    program = with_settings(text_of("tensorflow", "train.py"), {"parsim.target": target, "parsim.version": version, **keys})
    texts = {"train.py": program, "network.py": text_of("tensorflow", "network.py")}
    tasks, notes = tasks_of(target, setup), []
    cluster = {kind: [task.address for task in tasks if task.kind == kind] for kind in dict.fromkeys(task.kind for task in tasks)}
    for task in tasks:
        said = {"cluster": cluster, "task": {"type": task.kind, "index": task.index}}
        texts[f"{task.kind}-{task.index}.json"] = json.dumps(said, indent=2) + "\n"
    if tasks:
        notes.append("put the names of your hosts in place of node0, node1, ... in the .json files; each line is a process of its own")
    if strategy_of(target, setup) == SERVER:
        notes.append("the server is a process of the first host's CPU, beside the master's device that the prediction is of")
    data = {"weights.npz": lambda: mlp_weights(setup), "data.npz": lambda: mlp_data(setup)}
    return Launch(target, version, texts, "\n".join(task.line for task in tasks) or "python train.py", tuple(notes), data)


def refuses(target: str, setup: Setup, version: str) -> Iterator[PlanError]:
    """What the program does not compute, or not as the plan says."""
    yield from mlp_faults(target, setup, version)
    if target == PARAMETER_SERVER and setup.plan.gradient_sync != "master":
        why = "a ParameterServerStrategy has a server that updates for all, and averages nothing"
        yield NotExpressible("gradient_sync", target, version, why, f"Use --to {NAME}, or set gradient_sync = master.")


def _register(target: str, title: str) -> None:
    def layout(setup: Setup) -> dict[str, KeyValue]:
        return {"strategy": strategy_of(target, setup), "tensor_float_32": setup.dtype == "tf32"}

    def read(text: str, name: str) -> tuple[Mapping[str, KeyValue], str] | None:
        return settings_in(text, target)

    entries = mlp_entries(PLAN, layout)
    writes, faults = functools.partial(write, target), functools.partial(refuses, target)
    TARGETS.register(target, Target(target, ("2.21",), title, lambda version: entries, writes, read, faults, __doc__ or ""))


_register(NAME, "a program of tf.distribute, by the plan: Mirrored, MultiWorkerMirrored, CentralStorage or ParameterServer")
_register(PARAMETER_SERVER, "a program of tf.distribute with a ParameterServerStrategy, on one node, too")
