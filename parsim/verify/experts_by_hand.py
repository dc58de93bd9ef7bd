"""Experts of one rank in plain numpy: each computes every token, and gates that are 0 leave out those that did not choose it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from parsim.model.transformer import TransformerSpec
from parsim.verify.arithmetic import Arithmetic, Valued
from parsim_kernels.signature import Array

Mlp = Callable[[TransformerSpec, Callable[[str, Array], Valued], Array], Valued]


def experts(run: Arithmetic, model: TransformerSpec, at: str, x: Array, mlp: Mlp) -> Valued:
    """The sum over experts of gate x MLP(x), where the gates of a token are shares of exponentials, or sigmoids, of those that it chose.

    Source: Jiang et al. 2024 (arXiv:2401.04088), section 2.1; DeepSeek-AI 2024 (arXiv:2412.19437), section 2.1.2.
    """
    router = run.weights[f"{at}/router.weight"]
    growth = np.exp(x @ router.T)
    odds = (growth if model.gates == "softmax" else growth / (1 + growth)) * chosen(model, *x.shape[:2])
    gates = odds / odds.sum(-1, keepdims=True)
    own = [mlp(model, lambda name, h, e=e: _matrix(run, f"{at}/experts_{name}.weight", e, h), x) for e in range(len(router))]  # type: ignore[misc]
    y = sum(gates[..., e, None] * out for e, (out, _) in enumerate(own))

    def back(dy: Array) -> Array:
        d_gates = np.stack([(dy * out).sum(-1) for out, _ in own], axis=-1)
        d_logits = gates * (d_gates - (gates * d_gates).sum(-1, keepdims=True))
        if model.gates == "sigmoid":
            d_logits = d_logits / (1 + growth)
        run.gradients[f"{at}/router.weight"] += np.einsum("btn,btd->nd", d_logits, x)
        return np.asarray(d_logits @ router + sum(through(gates[..., e, None] * dy) for e, (_, through) in enumerate(own)))

    return np.asarray(y), back


def chosen(model: TransformerSpec, num_sequences: int, length: int) -> Array:
    """1 where a token chose an expert: one expert after another takes as many tokens as its load says, round and round a run."""
    run = model.run_length(length)
    found, token = np.zeros((run, model.num_experts)), 0
    for expert, load in enumerate(model.expert_loads(length)):
        for _ in range(load):
            found[token % run, expert] += 1
            token += 1
    return np.tile(found, (num_sequences * length // run, 1)).reshape(num_sequences, length, -1)


def _matrix(run: Arithmetic, name: str, expert: int, x: Array) -> Valued:
    """x times the matrix of an expert."""
    matrix = run.weights[name][expert]

    def back(dy: Array) -> Array:
        run.gradients[name][expert] += np.einsum("btd,btj->dj", x, dy)
        return np.asarray(dy @ matrix.T)

    return np.asarray(x @ matrix), back
