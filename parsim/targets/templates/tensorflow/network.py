"""The network, its optimizer and its numbers, whatever shares the work out: a plain MLP of Keras, for categorical cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

HERE = Path(__file__).parent
ACTIVATIONS = {
    "relu": "relu",
    "tanh": "tanh",
    "gelu": lambda x: ops.gelu(x, approximate=True),
    "squared_relu": lambda x: ops.square(ops.relu(x)),
    "sigmoid": "sigmoid",
    "silu": "silu",
    "linear": "linear",
}


class Adam(keras.optimizers.Adam):
    """Adam as Kingma and Ba 2015 (arXiv:1412.6980) write algorithm 1.

    Keras adds epsilon to another root, and rounds 1 - beta**step in float32: a step is 1e-5 longer or shorter, and losses differ soon.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        place, step = self._get_variable_index(variable), ops.cast(self.iterations + 1, "float32")
        m, v = self._momentums[place], self._velocities[place]
        root = ops.sqrt(-ops.expm1(step * math.log(self.beta_2)))
        rate = learning_rate * root / -ops.expm1(step * math.log(self.beta_1))
        self.assign(m, self.beta_1 * m + (1 - self.beta_1) * gradient)
        self.assign(v, self.beta_2 * v + (1 - self.beta_2) * ops.square(gradient))
        self.assign_sub(variable, rate * m / (ops.sqrt(v) + self.epsilon * root))


OPTIMIZERS = {
    "adamw": (Adam, {"beta_1": "beta1", "beta_2": "beta2", "epsilon": "eps", "weight_decay": "weight_decay"}),
    "sgd_momentum": (keras.optimizers.SGD, {"momentum": "momentum"}),
}


def optimizer_of(settings: Mapping[str, Any], *mixins: type, **others: Any) -> keras.optimizers.Optimizer:
    """The optimizer of the plan; `mixins`: what comes before it, such as another way to clip."""
    kind, names = OPTIMIZERS[settings["plan"]["optimizer"]]
    training = settings["training"]
    kept = {ours: training[name] for ours, name in names.items() if name != "weight_decay" or training[name]}
    return type("Optimizer", (*mixins, kind), {})(learning_rate=training["learning_rate"], **kept, **others)


def network_of(settings: Mapping[str, Any], last: str = "softmax") -> keras.Sequential:
    """Input -> Dense ... -> Dense softmax, with the weights of weights.npz; `last`: linear where the loss takes logits."""
    model = settings["model"]
    if model["family"] == "dense":  # of any widths, or none
        units = model["units"]
        widths = list(zip(["embedding_input", *(f"layer{layer}_dense" for layer in range(len(units) - 1))], units, strict=False))
    else:
        widths = [("embedding_input", model["hidden_size"])]
        for layer in range(model["num_layers"]):
            widths += [(f"layer{layer}_up", model["ffn_hidden_size"]), (f"layer{layer}_down", model["hidden_size"])]
    active = [ACTIVATIONS[name] for name in model.get("activations") or [model["activation"]] * len(widths)]
    hidden = [
        keras.layers.Dense(width, activation=each, use_bias=model["bias"], name=name)
        for (name, width), each in zip(widths, active, strict=True)
    ]
    labels = keras.layers.Dense(model["num_labels"], activation=last, use_bias=model["bias"], name="head_label")
    network = keras.Sequential([keras.Input((model["num_features"],)), *hidden, labels])
    with np.load(HERE / "weights.npz") as weights:
        for weight in network.weights:
            weight.assign(weights[weight.path.removeprefix(f"{network.name}/")])
    return network


class Data:
    """Rows of features and their labels, one-hot; each step takes those that `rows` says."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.num_labels = settings["model"]["num_labels"]
        with np.load(HERE / "data.npz") as arrays:
            self.rows = arrays["rows"]  # [num_steps, global_batch]: sequences
            self.features, self.labels = arrays["features"], arrays["row_labels"]
            self.held_back = self._rows(arrays["held_features"], arrays["held_row_labels"]) if "held_features" in arrays else None
        self.epochs = settings["training"]["epochs"]
        self.steps_per_epoch = len(self.rows) // self.epochs if self.held_back else len(self.rows)

    def _rows(self, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return features.reshape(-1, features.shape[-1]), keras.utils.to_categorical(labels.reshape(-1), self.num_labels)

    def take(self, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features [rows, num_features] and labels [rows, num_labels] of some sequences."""
        return self._rows(self.features[sequences], self.labels[sequences])
