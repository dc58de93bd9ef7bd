"""A plain MLP a second time: its loss and gradients in a few lines of numpy, its FLOPs as arithmetic on the sizes of its layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec.structs import replace

from parsim.estimator.estimate import estimate
from parsim.executor.names import own_weights_of
from parsim.executor.run import Execution, execute
from parsim.model.families.mlp import MlpSpec
from parsim.parallel.plan import Batch, Plan
from parsim_kernels.signature import Array
from support import scenario

MLP = MlpSpec(name="toy mlp", num_layers=4, num_features=6, hidden_size=12, ffn_hidden_size=16, num_labels=3)
ROWS = Batch(12, 1, "bf16")  # a row a sample
Numbers = tuple[float, dict[str, Array]]


def by_hand(weights: Mapping[str, Array], features: Array, labels: Array, num_layers: int) -> Numbers:
    """Mean cross-entropy and its gradients for dense layers with ReLU between them, from the chain rule (Rumelhart et al. 1986)."""
    dense = ["embedding/input", *(f"layer{i}/{name}" for i in range(num_layers) for name in ("up", "down")), "head/label"]
    matrices = {name: weights[f"{name}.weight"] for name in dense}
    matrices["head/label"] = matrices["head/label"].T  # stored a row a label
    entering, sums = [features], []
    for name in dense:
        sums.append(entering[-1] @ matrices[name] + weights[f"{name}.bias"])
        entering.append(np.maximum(sums[-1], 0))
    shares = np.exp(sums[-1]) / np.exp(sums[-1]).sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(shares[rows, labels]).mean()
    d_sum = (shares - np.eye(shares.shape[1])[labels]) / len(labels)
    gradients = {}
    for index in reversed(range(len(dense))):
        d_matrix = entering[index].T @ d_sum
        gradients[f"{dense[index]}.weight"] = d_matrix.T if dense[index] == "head/label" else d_matrix
        gradients[f"{dense[index]}.bias"] = d_sum.sum(axis=0)
        if index:
            d_sum = (d_sum @ matrices[dense[index]].T) * (sums[index - 1] > 0)
    return float(loss), gradients


def executed_and_by_hand(num_layers: int) -> tuple[Execution, Numbers]:
    """A step on one rank, and the loss and gradients that it should have."""
    executed = execute(scenario(model=replace(MLP, num_layers=num_layers), batch=ROWS), Plan(micro_batch=12))
    values, job = executed.job.values, executed.job
    features = values.draw("embedding", "features", 0, [12, 1, 6])[:, 0]
    labels = values.draw("head", "row_labels", 0, [12, 1])[:, 0]
    weights = {
        f"{instance}/{w.name}": values.weight(instance, w.name, w.initial, [job.extent(dim) for dim in w.sharding.dims])
        for instance, w in own_weights_of(job.copies(0))
    }
    return executed, by_hand(weights, features, labels, num_layers)


def predicted_flops_and_arithmetic() -> tuple[int, int]:
    """FLOPs of a step of one layer, 6 -> 12 -> 16 -> 12 -> 3, on 12 rows with SGD: estimated, and counted here."""
    flops = estimate(scenario(model=replace(MLP, num_layers=1), batch=ROWS), Plan(micro_batch=12, optimizer="sgd_momentum")).flops[0]
    first, up, down, label = 6 * 12, 12 * 16, 16 * 12, 12 * 3
    matmuls = 12 * (2 * 3 * (first + up + down + label) - 2 * first)  # forward and two gradients, but none of the features
    units = 12 * (12 + 16 + 12)
    biases = 2 * (units + 12 * 3)  # added, and summed over rows
    nonlinearities = 2 * units
    # A logit: row_max 1, shifted_exp 2, row_sum 1, normalize 1, its gradient 2.  A row: token_loss 3, loss_sum 1.
    loss = 12 * (3 * 7 + 3 + 1)
    weights = first + up + down + label + 12 + 16 + 12 + 3
    update = weights * (1 + 2 + 1 + 4)  # into the step's buffer, norm, clip, momentum
    return flops, matmuls + biases + nonlinearities + loss + update
