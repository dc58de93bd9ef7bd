"""Training a plain MLP a second time: gradients of mlp_by_hand.py, clipping and Adam in a few lines of numpy."""

from __future__ import annotations

import numpy as np

from mlp_by_hand import by_hand
from parsim.data import Dataset
from parsim.executor.job import Job
from parsim.executor.names import own_weights_of
from parsim.scenario import Scenario
from parsim_kernels.signature import Array


def initial_by_hand(job: Job) -> dict[str, Array]:
    """The weights before the first step, in the model's order: drawn from the seed alone."""
    return {
        f"{instance}/{w.name}": job.values.weight(instance, w.name, w.initial, [job.extent(dim) for dim in w.sharding.dims])
        for instance, w in own_weights_of(job.copies(0))
    }


def adam_by_hand(scenario: Scenario, data: Dataset, weights: dict[str, Array], num_steps: int) -> tuple[list[float], dict[str, Array]]:
    """Losses of so many steps from these weights, and the weights after them.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), algorithm 1, with the decay of Loshchilov and Hutter 2019 (arXiv:1711.05101);
    gradients are shortened to max_norm as PyTorch's clip_grad_norm_ does.
    """
    t, batch, losses = scenario.training, scenario.batch.global_batch, []
    means, squares = ({name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    for step in range(1, num_steps + 1):
        epoch, first = divmod((step - 1) * batch, len(data.train["features"]) // batch * batch)
        rows = np.random.default_rng([scenario.seed, epoch]).permutation(len(data.train["features"]))[first : first + batch]
        features, labels = data.train["features"][rows, 0], data.train["row_labels"][rows, 0]
        loss, gradients = by_hand(weights, features, labels, scenario.model.num_layers)
        losses.append(loss)
        length = np.sqrt(sum(np.sum(g * g) for g in gradients.values()))
        for name, g in gradients.items():
            g = g * min(1.0, t.max_norm / (length + 1e-6))
            means[name] = t.beta1 * means[name] + (1 - t.beta1) * g
            squares[name] = t.beta2 * squares[name] + (1 - t.beta2) * g**2
            mean, square = means[name] / (1 - t.beta1**step), squares[name] / (1 - t.beta2**step)
            change = mean / (np.sqrt(square) + t.eps) + t.weight_decay * weights[name]
            weights = {**weights, name: weights[name] - t.learning_rate * change}
    return losses, weights


def accuracy_by_hand(weights: dict[str, Array], features: Array, labels: Array, num_layers: int) -> float:
    """The share of rows whose label has the largest logit."""
    x = features @ weights["embedding/input.weight"] + weights["embedding/input.bias"]
    for name in (f"layer{i}/{part}" for i in range(num_layers) for part in ("up", "down")):
        x = np.maximum(x, 0) @ weights[f"{name}.weight"] + weights[f"{name}.bias"]
    logits = np.maximum(x, 0) @ weights["head/label.weight"].T + weights["head/label.bias"]
    return float(np.mean(logits.argmax(axis=1) == labels))
