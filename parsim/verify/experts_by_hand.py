"""Experts of one rank in plain numpy: each multiplies the tokens that chose it, and gates of others are 0."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from parsim.model.gates import gate
from parsim.model.loads import Slots
from parsim.model.transformer import TransformerSpec
from parsim.verify.arithmetic import Arithmetic, Valued
from parsim_kernels.signature import Array

Weigh = Callable[[Array, Array], Array]
_STEP = 1e-30
_GATES: dict[str, Weigh] = {  # those of others are as their files say
    "softmax": lambda z, own: _share(np.exp(z) * own),
    "pre_softmax": lambda z, _: _share(np.exp(z)),
    "sigmoid": lambda z, own: _share(own * np.exp(z) / (1 + np.exp(z))),
    "own_sigmoid": lambda z, _: np.exp(z) / (1 + np.exp(z)),
}
Mlp = Callable[[TransformerSpec, Callable[[str, Array], Valued], Array], Valued]


def number_of(model: TransformerSpec, at: str) -> int:
    """The number of a layer; that in a module for a later token, which lies with the head, is as the last."""
    return int(at.removeprefix("layer")) if at.startswith("layer") else model.num_layers - 1


def experts(run: Arithmetic, model: TransformerSpec, at: str, x: Array, mlp: Mlp, routed: Array | None = None) -> Valued:
    """The sum over experts of gate x MLP(x); of another input of the router its gradient comes behind that of x, stacked.

    Source: Jiang et al. 2024 (arXiv:2401.04088), section 2.1; DeepSeek-AI 2024 (arXiv:2412.19437), section 2.1.2.
    """
    router = run.weights[f"{at}/router.weight"]
    read, has_biases = x if routed is None else routed, f"{at}/router.bias" in run.weights
    logits = read @ router.T + run.weights.get(f"{at}/router.bias", 0.0)
    row = model.load_row(number_of(model, at))
    rule, own_choices = _GATES.get(model.gates, gate(model.gates).weigh), _table(model, model.slots_chosen(x.shape[1], row), *x.shape[:2])
    kept = _table(model, slots := model.slots(x.shape[1], row), *x.shape[:2])

    weigh = partial(_chosen_shares, rule)
    factors = run.weights.get(f"{at}/router.scale", 1.0)  # of each expert
    gates = model.gate_scale * weigh(logits, own_choices) * factors
    d_gates = np.zeros_like(gates)

    def dense(expert: int, name: str, h: Array) -> Valued:
        matrix = f"{at}/experts_{name}.weight"
        own = gates[..., expert, None]
        if name != "down" and model.gates_on_input:
            y, back = _matrix(run, model, slots, matrix, expert, own * h)

            def to_input(dy: Array) -> Array:
                d_chosen_shares = back(dy)
                d_gates[..., expert] += (d_chosen_shares * h).sum(-1)
                return np.asarray(own * d_chosen_shares)

            return y, to_input
        if name != "down" or model.gates_on_input:
            y, back = _matrix(run, model, slots, matrix, expert, h)
            return _plus_bias(run, f"{at}/experts_{name}", expert, own_choices, (y, back)) if has_biases else (y, back)
        # What an expert gives is weighed before its last matrix.
        y, back = _matrix(run, model, slots, matrix, expert, own * h)
        there = kept[..., expert, None]
        b = there * (run.weights[f"{at}/experts_down.bias"][expert] if has_biases else 0.0)

        def through(dy: Array) -> Array:
            d_chosen_shares = back(dy)
            d_gates[..., expert] = (d_chosen_shares * h).sum(-1) + (dy * b).sum(-1)
            if has_biases:
                run.gradients[f"{at}/experts_down.bias"][expert] += (there * own * dy).sum((0, 1))
            return np.asarray(own * d_chosen_shares)

        return y + own * b, through

    entering, enter = _latent(run, model, f"{at}/expert_latent_down", x)
    own = [mlp(model, partial(dense, expert), entering) for expert in range(len(router))]
    y, leave = _latent(run, model, f"{at}/expert_latent_up", np.asarray(sum(out for out, _ in own)))

    def back(dy: Array) -> Array:
        d_sum = leave(dy)
        dx = enter(np.asarray(sum(through(d_sum) for _, through in own)))
        if model.experts_beside_mlp:
            run.gradients[f"{at}/router.scale"] += (d_gates * weigh(logits, own_choices)).sum((0, 1)) * model.gate_scale
        d_logits = model.gate_scale * _slope(weigh, logits, own_choices, d_gates * factors)
        d_logits = d_logits + _balance(run, model, own_choices, _share(np.exp(logits)))
        _add_router(run, at, d_logits, read)
        return np.asarray(d_logits @ router + dx) if routed is None else np.stack((dx, d_logits @ router))

    return y, back


def _chosen_shares(rule: Weigh, z: Array, own: Array) -> Array:
    """By the rule, which may weigh also those that a token did not choose."""
    return np.asarray(rule(z, own) * own)


def _latent(run: Arithmetic, model: TransformerSpec, name: str, x: Array) -> Valued:
    return run.dense(name, x) if model.expert_latent_size else (x, lambda dy: dy)


def _add_router(run: Arithmetic, at: str, d_logits: Array, read: Array) -> None:
    """The gradients of the matrix that makes logits, and of its bias, if it has one."""
    run.gradients[f"{at}/router.weight"] += np.einsum("btn,btd->nd", d_logits, read)
    if f"{at}/router.bias" in run.weights:
        run.gradients[f"{at}/router.bias"] += d_logits.sum((0, 1))


def _share(odds: Array) -> Array:
    return np.asarray(odds / odds.sum(-1, keepdims=True))


def _slope(weigh: Weigh, logits: Array, own: Array, d_gates: Array) -> Array:
    """The gradient of logits from that of gates, by a step too small to round: Squire and Trapp 1998, SIAM Rev. 40(1)."""
    found = np.empty_like(logits)
    for expert in range(logits.shape[-1]):
        moved = logits.astype(np.complex128)
        moved[..., expert] += 1j * _STEP
        found[..., expert] = (weigh(moved, own).imag / _STEP * d_gates).sum(-1)
    return found


def _balance(run: Arithmetic, model: TransformerSpec, own_choices: Array, softmax: Array) -> Array:
    """The gradient of coefficient x N x the sum over experts of f P, f the share of choices and P the mean of the softmax over all tokens.

    Source: Fedus et al. 2021 (arXiv:2101.03961), Eq. 4.
    """
    shares = own_choices.sum((0, 1)) / own_choices.sum()
    slope = softmax * (shares - (softmax @ shares)[..., None])
    return np.asarray(model.balance_coefficient * len(shares) * slope / (run.job.model.batch.global_batch * softmax.shape[1]))


def steers_by_hand(model: TransformerSpec, length: int) -> dict[str, Array]:
    """The biases that steer choices behind the first step: up where an expert had less than the mean, down where it had more.

    Source: Wang et al. 2024 (arXiv:2408.15664), algorithm 1.
    """
    if not model.steer_rate:
        return {}
    found = {}
    for layer in (each for each in range(model.num_layers) if model.has_experts(each)):
        loads = np.array(model.slots_chosen(length, model.load_row(layer)).loads)
        found[f"layer{layer}/router.steer"] = model.steer_rate * np.sign(loads.sum() - len(loads) * loads)
    return found


def _table(model: TransformerSpec, slots: Slots, num_sequences: int, length: int) -> Array:
    """1 where a token has a slot of an expert."""
    found = np.zeros((num_sequences * length, model.num_experts))
    for expert in range(model.num_experts):
        found[rows_of(model, slots, expert, num_sequences, length).reshape(-1), expert] = 1
    return found.reshape(num_sequences, length, -1)


def rows_of(model: TransformerSpec, slots: Slots, expert: int, num_sequences: int, length: int) -> Array:
    """The tokens of an expert, a row a slot with that of each run; none of an empty one."""
    run, first = model.run_length(length), sum(slots.loads[:expert])
    own = [token for token in slots.tokens[first : first + slots.loads[expert]] if token >= 0]
    return np.asarray(np.array(own, dtype=np.int64)[:, None] + run * np.arange(num_sequences * length // run))


def _plus_bias(run: Arithmetic, name: str, expert: int, own_choices: Array, product: Valued) -> Valued:
    """A product plus the bias of an expert, of the tokens that chose it."""
    y, back = product
    own = own_choices[..., expert, None]

    def through(dy: Array) -> Array:
        run.gradients[f"{name}.bias"][expert] += (own * dy).sum((0, 1))
        return back(dy)

    return y + own * run.weights[f"{name}.bias"][expert], through


def _matrix(run: Arithmetic, model: TransformerSpec, slots: Slots, name: str, expert: int, x: Array) -> Valued:
    """x times the matrix of an expert, of the tokens that chose it; 0 for the others."""
    matrix, rows = run.weights[name][expert], rows_of(model, slots, expert, *x.shape[:2])
    own = x.reshape(-1, x.shape[-1])[rows]
    (x_row, x_column), (w_row, w_column) = run.narrow(name, own, 2), run.narrow(name, matrix, 1, weight=True)

    def spread(values: Array) -> Array:
        found = np.zeros((x.shape[0] * x.shape[1], values.shape[-1]))
        found[rows] = values
        return found.reshape(*x.shape[:2], -1)

    def back(dy: Array) -> Array:
        dy_row, dy_column = run.narrow(name, dy.reshape(-1, dy.shape[-1])[rows], 2, gradient=True)
        run.gradients[name][expert] += np.einsum("xgd,xgj->dj", x_column, dy_column)
        return spread(dy_row @ w_row.T)

    stem = name.removesuffix(".weight")
    if f"{stem}_lora_b.weight" not in run.weights:
        return spread(x_row @ w_column), back
    a, b, tuning = run.first_matrix(stem), f"{stem}_lora_b.weight", model.tuning
    mine = ... if tuning.share_expert_adapters else expert
    scale, (of_a, of_b) = tuning.lora_alpha / tuning.lora_rank, (run.weights[each][mine] for each in (a, b))

    def back_beside(dy: Array) -> Array:
        d_own = scale * dy.reshape(-1, dy.shape[-1])[rows]
        run.gradients[b][mine] += np.einsum("xgb,xgj->bj", own @ of_a, d_own)
        run.gradients[a][mine] += np.einsum("xgd,xgb->db", own, d_own @ of_b.T)
        return np.asarray(back(dy) + spread(d_own @ of_b.T @ of_a.T))

    return spread(x_row @ w_column + scale * own @ of_a @ of_b), back_beside
