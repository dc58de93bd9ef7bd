"""Trains an MLP of Keras by its distribution API on JAX, as a plan of parsim says:  python train.py [--steps N].  A line of JSON a step.

The losses are those of `parsim execute` in float32.  A (batch, model) mesh of devices: rows are split over one axis, the weights that
LAYOUT names over the other.  On a machine without accelerators:  XLA_FLAGS=--xla_force_host_platform_device_count=8 python train.py
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
from network import Data, network_of, optimizer_of

# settings: written by parsim, and read back by `parsim import`
SETTINGS: dict[str, dict[str, Any]] = {}
# end of settings

REPLICAS, COLUMNS = SETTINGS["plan"]["data_parallel"], SETTINGS["plan"]["tensor_parallel"]
GLOBAL_BATCH, LENGTH = SETTINGS["batch"]["global_batch"], SETTINGS["batch"]["sequence_length"]


class Losses(keras.callbacks.Callback):
    """Prints the loss of each step; Keras' own is a mean since the epoch began."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.step = first
        self.said: list[dict[str, float]] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.reset_metrics()
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        self.said.append({"step": self.step, "loss": float(logs["loss"]), "seconds": time.perf_counter() - self.start})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if "val_loss" in logs:
            self.said[-1] |= {"validation_loss": float(logs["val_loss"]), "accuracy": float(logs["val_accuracy"])}
        for each in self.said:
            print(json.dumps(each), flush=True)


# Of Keras 3.15.1: backend/tensorflow/distribution_lib.py begins "!!!DO NOT USE!!!"; backend/torch has no DTensor yet (keras#23366).
NOT_SPLIT = {
    "tensorflow": "would leave the layers of ModelParallel whole: `parsim export --to tensorflow` writes a program for it",
    "torch": "ends in an AttributeError: `parsim export --to pytorch` writes a program for it",
}


def distribution_of() -> keras.distribution.Distribution:
    """How rows and weights lie on the devices."""
    names = keras.distribution.list_devices()
    assert len(names) >= REPLICAS * COLUMNS, f"the plan has {REPLICAS * COLUMNS} devices, and JAX sees {len(names)}"
    used = names[: REPLICAS * COLUMNS]
    if COLUMNS == 1:
        return keras.distribution.DataParallel(devices=used, auto_shard_dataset=False)
    mesh = keras.distribution.DeviceMesh((REPLICAS, COLUMNS), ("batch", "model"), used)
    layout = keras.distribution.LayoutMap(mesh)
    for name, axes in SETTINGS["layout"]["sharded"].items():
        layout[name] = tuple(axes)
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False)


def pad(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows held back, with rows of no weight behind them, so that replicas have equal parts."""
    count = len(features)
    rest = -count % REPLICAS
    weights = np.pad(np.full(count, (count + rest) / count, np.float32), (0, rest))  # Keras divides by all rows
    return np.pad(features, ((0, rest), (0, 0))), np.pad(labels, ((0, rest), (0, 0))), weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="so many; all epochs where left out")
    asked = parser.parse_args()
    if (backend := keras.backend.backend()) != "jax":
        parser.error(f"KERAS_BACKEND is {backend}, which {NOT_SPLIT.get(backend, 'has no distribution')}; jax splits")
    jax.config.update("jax_default_matmul_precision", SETTINGS["layout"]["matmul"])
    keras.distribution.set_distribution(distribution_of())
    data, network = Data(SETTINGS), network_of(SETTINGS, last="linear")
    norm = SETTINGS["training"]["max_norm"]
    optimizer = optimizer_of(SETTINGS, global_clipnorm=norm if norm < math.inf else None)  # it multiplies an infinite one by 0
    # Of probabilities the JAX backend takes none below 1e-7, which cuts the loss off at 16; a softmax behind this network gives them.
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    network.compile(optimizer, loss=loss, weighted_metrics=["accuracy"])
    data.rows = data.rows[: asked.steps]
    held_back = pad(*data.held_back) if data.held_back else None
    for epoch, first in enumerate(range(0, len(data.rows), data.steps_per_epoch)):
        rows = data.rows[first : first + data.steps_per_epoch]
        features, labels = data.take(rows.reshape(-1))
        network.fit(
            features,
            labels,
            batch_size=GLOBAL_BATCH * LENGTH,
            epochs=epoch + 1,
            initial_epoch=epoch,
            shuffle=False,  # `rows` has the order
            validation_data=held_back if len(rows) == data.steps_per_epoch else None,
            validation_batch_size=held_back and len(held_back[0]),
            callbacks=[Losses(first)],
            verbose=0,
        )
    for weight in network.weights if COLUMNS > 1 else ():
        say_where(weight)


def say_where(weight: Any) -> None:
    """The part of a weight that a device holds, for all who doubt that it is split."""
    held = weight.value.addressable_shards[0].data.shape
    print(json.dumps({"weight": weight.path.partition("/")[2] or weight.path, "shape": list(weight.shape), "held": list(held)}), flush=True)


if __name__ == "__main__":
    main()
