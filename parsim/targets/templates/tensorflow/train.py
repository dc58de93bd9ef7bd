"""Trains an MLP of Keras by tf.distribute, as a plan of parsim says:  python train.py [--steps N].  Prints a line of JSON a step.

The losses are those of `parsim execute` in float32.  The loop of fit (batch_size, epochs, validation_data) is written out: that of
Keras 3.15.1 fails under MultiWorkerMirroredStrategy, and has nothing for a ParameterServerStrategy.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from network import Data, network_of, optimizer_of

# settings: written by parsim, and read back by `parsim import`
SETTINGS: dict[str, dict[str, Any]] = {}
# end of settings

STRATEGY, REPLICAS, MICRO_BATCH = SETTINGS["layout"]["strategy"], SETTINGS["plan"]["data_parallel"], SETTINGS["plan"]["micro_batch"]
GLOBAL_BATCH, LENGTH = SETTINGS["batch"]["global_batch"], SETTINGS["batch"]["sequence_length"]


class ClipsTheSum:
    """Clips the gradients' sum over replicas together; all of Keras' ways to clip come before that sum."""

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> list[Any]:
        summed = super()._all_reduce_sum_gradients(grads_and_vars)  # type: ignore[misc]
        norm = tf.linalg.global_norm([gradient for gradient, _ in summed])
        share = tf.minimum(1.0, SETTINGS["training"]["max_norm"] / (norm + 1e-6))
        return [(gradient * share, variable) for gradient, variable in summed]


assert hasattr(keras.optimizers.Optimizer, "_all_reduce_sum_gradients"), (
    f"Keras {keras.__version__} sums gradients elsewhere; 3.15.1 is known"
)


def devices() -> list[str]:
    """This task's devices: its GPUs, or parts of its CPU."""
    if gpus := tf.config.list_logical_devices("GPU"):
        return [each.name for each in gpus][:REPLICAS]
    return [f"CPU:{number}" for number in range(REPLICAS)]


def split_cpu() -> None:
    """Where there is no GPU, a logical CPU for each replica of this task."""
    if STRATEGY in ("mirrored", "central_storage") and not tf.config.list_physical_devices("GPU"):
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * REPLICAS)


def serve() -> None:
    """What a worker or a parameter server does: the coordinator's bidding, until it is ended."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    task = {"job_name": resolver.task_type, "task_index": resolver.task_id}
    tf.distribute.Server(resolver.cluster_spec(), protocol="grpc", start=True, **task).join()


def strategy_of() -> tf.distribute.Strategy:
    """How replicas share weights and sum gradients."""
    if STRATEGY == "multi_worker_mirrored":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if STRATEGY == "parameter_server":
        return tf.distribute.ParameterServerStrategy(tf.distribute.cluster_resolver.TFConfigClusterResolver())
    if STRATEGY == "central_storage":  # the first device holds and updates the weights, the others copy them
        return tf.distribute.experimental.CentralStorageStrategy(devices(), devices()[0])
    return tf.distribute.MirroredStrategy(devices())


def gradients_of(network: keras.Model, features: Any, labels: Any) -> tuple[Any, list[Any]]:
    """A replica's part of the loss, and its gradients, of its rows of the batch, micro_batch by micro_batch."""
    loss, gradients = 0.0, [tf.zeros_like(weight) for weight in network.trainable_weights]
    for first in range(0, features.shape[0], MICRO_BATCH * LENGTH):
        rows = slice(first, first + MICRO_BATCH * LENGTH)
        with tf.GradientTape() as tape:
            losses = keras.losses.categorical_crossentropy(labels[rows], network(features[rows], training=True))
            part = tf.reduce_sum(losses) / (GLOBAL_BATCH * LENGTH)
        own = tape.gradient(part, network.trainable_weights)
        loss, gradients = loss + part, [total + each for total, each in zip(gradients, own, strict=True)]
    return loss, gradients


def train_mirrors(
    strategy: tf.distribute.Strategy, network: keras.Model, optimizer: keras.optimizers.Optimizer, data: Data
) -> Iterator[float]:
    """The loss of each step of replicas that sum their gradients and then update."""
    assert strategy.num_replicas_in_sync == REPLICAS, f"{strategy.num_replicas_in_sync} replicas run, and the plan has {REPLICAS}"

    def step(features: Any, labels: Any) -> Any:
        loss, gradients = gradients_of(network, features, labels)
        optimizer.apply(gradients, network.trainable_weights)  # which sums them first
        return loss

    @tf.function
    def together(features: Any, labels: Any) -> Any:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(step, args=(features, labels)), axis=None)

    for rows in data.rows:
        own = [data.take(each) for each in np.split(rows, REPLICAS)]

        def part(place: int, own: list[Any] = own) -> Any:
            return strategy.experimental_distribute_values_from_function(lambda replica: own[replica.replica_id_in_sync_group][place])

        yield float(together(part(0), part(1)))


def train_by_server(
    strategy: tf.distribute.Strategy, network: keras.Model, optimizer: keras.optimizers.Optimizer, data: Data
) -> Iterator[float]:
    """The same of workers whose gradients a parameter server sums; it updates once all of them have come."""
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        sums = [tf.Variable(tf.zeros(each.shape), aggregation=tf.VariableAggregation.SUM) for each in network.trainable_weights]

    def add(features: Any, labels: Any) -> Any:
        loss, gradients = gradients_of(network, features, labels)
        for total, gradient in zip(sums, gradients, strict=True):
            total.assign_add(gradient)
        return loss

    def update() -> None:
        optimizer.apply([total.read_value() for total in sums], network.trainable_weights)
        for total in sums:
            total.assign(tf.zeros(total.shape))

    added = tf.function(lambda features, labels: strategy.run(add, args=(features, labels)))
    updated = tf.function(lambda: strategy.run(update))
    for rows in data.rows:
        parts = [data.take(each) for each in np.split(rows, REPLICAS)]
        losses = [coordinator.schedule(added, args=tuple(map(tf.constant, part))) for part in parts]
        coordinator.join()
        coordinator.schedule(updated)
        coordinator.join()
        yield sum(float(loss.fetch()) for loss in losses)


def score(network: keras.Model, features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss and accuracy on the rows held back: the validation_data of fit."""
    found = network(features, training=False)
    loss = tf.reduce_mean(keras.losses.categorical_crossentropy(labels, found))
    accuracy = tf.reduce_mean(keras.metrics.categorical_accuracy(labels, found))
    return {"validation_loss": float(loss), "accuracy": float(accuracy)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="so many; all epochs where left out")
    asked = parser.parse_args()
    task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {"type": "chief", "index": 0})
    tf.config.experimental.enable_tensor_float_32_execution(SETTINGS["layout"]["tensor_float_32"])
    split_cpu()
    if STRATEGY == "parameter_server" and task["type"] != "chief":
        serve()
    strategy, data = strategy_of(), Data(SETTINGS)
    with strategy.scope():
        network, optimizer = network_of(SETTINGS), optimizer_of(SETTINGS, ClipsTheSum)
        optimizer.build(network.trainable_variables)
    data.rows = data.rows[: asked.steps]
    start = time.perf_counter()
    run = train_by_server if STRATEGY == "parameter_server" else train_mirrors
    for step, loss in enumerate(run(strategy, network, optimizer, data), 1):
        said = {"step": step, "loss": loss, "seconds": time.perf_counter() - start}
        if data.held_back and step % data.steps_per_epoch == 0:  # an epoch has ended
            said |= score(network, *data.held_back)
        if task["type"] == "chief" or task["index"] == 0:
            print(json.dumps(said), flush=True)
        start = time.perf_counter()


if __name__ == "__main__":
    main()
