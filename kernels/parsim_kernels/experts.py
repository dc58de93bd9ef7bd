"""Kernels of a mixture of experts: tokens to slots of experts and back, gates, and matmuls of each expert with its own rows.

Tokens come in runs of attributes["run"]; a run has slots [Q], those of one expert side by side.  Slot q holds token q modulo the run, so
each token has as many slots as it chooses experts, all of different ones where no expert has more slots than a run has tokens.
attributes["loads"] are the slots of each expert in a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from parsim_kernels import contraction
from parsim_kernels.signature import Array, Attributes, Kernel, KernelResult, Out, expression, fresh, integer, real, same_shape, terms


def permute(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x[B T ...] as [O M ...]: attributes["slots"] of each of M runs, in which a token stands as often as it chooses experts.  0 FLOPs.

    >>> permute((np.arange(4.0).reshape(1, 4),), {"run": 2, "slots": 4})[0][0].tolist()
    [[0.0, 2.0], [1.0, 3.0], [0.0, 2.0], [1.0, 3.0]]
    """
    (x,) = inputs
    run, slots = integer(attributes, "run"), integer(attributes, "slots")
    tokens = x.reshape(-1, run, *x.shape[2:]).swapaxes(0, 1)
    y = out((slots, *tokens.shape[1:]), real(x))
    y.reshape(-1, *tokens.shape)[...] = tokens
    return (y,), 0


def unpermute(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The sum of each token's slots, from x[O M ...]: [B T ...], T of extent attributes["inner"].  n FLOPs.

    >>> unpermute((np.ones((4, 2)),), {"run": 2, "inner": 4})[0][0].tolist()
    [[2.0, 2.0, 2.0, 2.0]]
    """
    (x,) = inputs
    run, inner = integer(attributes, "run"), integer(attributes, "inner")
    runs, rest = x.shape[1], x.shape[2:]
    y = out((run * runs // inner, inner, *rest), real(x))
    y.reshape(runs, run, *rest)[...] = np.add.reduce(x.reshape(-1, run, runs, *rest), axis=0).swapaxes(0, 1)
    return (y,), x.size


def route(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The gate of each slot [O M]: a softmax over the logits [B T N] of the experts that a token has chosen.  A FLOP a logit, to choose.

    Source: Jiang et al. 2024 (arXiv:2401.04088), section 2.1.

    >>> route((np.zeros((1, 2, 2)),), {"run": 2, "loads": (2, 2)})[0][0].tolist()
    [[0.5], [0.5], [0.5], [0.5]]
    """
    (logits,) = inputs
    by_choice = _of_slots(logits, attributes)
    return (_shares(np.exp(by_choice - by_choice.max(axis=0)), real(logits), out),), logits.size


def route_sigmoid(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """As `route`, where a gate is the share of its logit's sigmoid in those of its token.  4 FLOPs a logit.

    Source: DeepSeek-AI 2024 (arXiv:2412.19437), Eq. 13 and 15.
    """
    (logits,) = inputs
    return (_shares(_sigmoid(_of_slots(logits, attributes)), real(logits), out),), 4 * logits.size


def route_own_sigmoid(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """As `route`, where a gate is its logit's sigmoid.  4 FLOPs a logit.

    Source: huggingface/transformers, modeling_llama4.py (`Llama4Router`).
    """
    (logits,) = inputs
    own = _sigmoid(_of_slots(logits, attributes))
    gates = out((own.shape[0] * own.shape[1], own.shape[2]), real(logits))
    gates.reshape(own.shape)[...] = own
    return (gates,), 4 * logits.size


def route_own_sigmoid_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_logits of `route_own_sigmoid` from (gates, d_gates).  3 n FLOPs, n the gates.  Source: derived here."""
    gates, d_gates = inputs
    return (_spread(gates * (1 - gates) * d_gates, gates, attributes, out),), 3 * gates.size


def _of_slots(logits: Array, attributes: Attributes) -> Array:
    """The logits [B T N] of what tokens have chosen: [choice, token of a run, run]."""
    token, expert = _chosen(attributes)
    run = integer(attributes, "run")
    picked = logits.reshape(-1, run, logits.shape[-1])[:, token, expert].T
    return picked.reshape(-1, run, picked.shape[1])


def _shares(odds: Array, dtype: np.dtype[Any], out: Out) -> Array:
    """Each in the sum of its token's choices, by slot and run."""
    gates = out((odds.shape[0] * odds.shape[1], odds.shape[2]), dtype)
    np.divide(odds, np.add.reduce(odds, axis=0), out=gates.reshape(odds.shape))
    return gates


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def route_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_logits of `route` from (gates, d_gates); 0 for experts that were not chosen.  4 n FLOPs.  Source: derived here."""
    gates, d_gates = inputs
    return (_spread(_slope(gates, d_gates, attributes), gates, attributes, out),), 4 * gates.size


def route_sigmoid_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_logits of `route_sigmoid` from (logits, gates, d_gates).  9 n FLOPs, n the gates.  Source: derived here."""
    logits, gates, d_gates = inputs
    slope = _slope(gates, d_gates, attributes) * (1 - _sigmoid(_of_slots(logits, attributes)))
    return (_spread(slope, gates, attributes, out),), 9 * gates.size


def _slope(gates: Array, d_gates: Array, attributes: Attributes) -> Array:
    """The gradient of the logarithms of what gates are shares of: [choice, token of a run, run]."""
    same_shape(gates, d_gates)
    own = (gates * d_gates).reshape(-1, integer(attributes, "run"), gates.shape[1])
    return np.asarray(own - gates.reshape(own.shape) * np.add.reduce(own, axis=0))


def _spread(slope: Array, gates: Array, attributes: Attributes, out: Out) -> Array:
    """By token and expert, 0 for experts that were not chosen."""
    token, expert = _chosen(attributes)
    run, inner = integer(attributes, "run"), integer(attributes, "inner")
    runs, num_experts = gates.shape[1], len(_loads(attributes))
    d_logits = out((run * runs // inner, inner, num_experts), real(slope))
    d_logits.fill(0)
    d_logits.reshape(runs, run, num_experts)[:, token, expert] = slope.reshape(gates.shape).T
    return d_logits


def grouped_gemm(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """A contraction as `einsum` for each expert E with its rows X, as in "X G D, E D J -> X G J".  2 x the product of all extents but E.

    Raises:
        ValueError: the experts have not as many rows as there are.

    >>> attributes = {"expr": "X G D, E D J -> X G J", "loads": (2, 1)}
    >>> grouped_gemm((np.ones((3, 1, 1)), np.array([[[1.0]], [[5.0]]])), attributes)[0][0].ravel().tolist()
    [1.0, 1.0, 5.0]
    """
    left, right = inputs
    expr, loads = expression(attributes), _loads(attributes)
    (left_dims, right_dims), dims = terms(expr, 2)
    extents = {**dict(zip(left_dims, left.shape, strict=True)), **dict(zip(right_dims, right.shape, strict=True)), "E": len(loads)}
    if extents["X"] != sum(loads):
        raise ValueError(f"{extents['X']} rows are not those of experts that have {loads}")
    y = out(tuple(extents[dim] for dim in dims), real(left, right))
    told, flops = {"expr": " ".join(expr.replace("E ", "").split())}, 0
    for expert, rows in enumerate(_rows(loads)):
        own = tuple(array[rows if names[0] == "X" else expert] for array, names in ((left, left_dims), (right, right_dims)))
        result = y[rows if dims[0] == "X" else expert]
        if rows.start == rows.stop:
            result.fill(0)
            continue
        flops += contraction.einsum(own, told, lambda shape, dtype, result=result: result)[1]  # type: ignore[misc]
    return (y,), flops


def weigh(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """Each row of x[X G J] times its gate [X G].  n FLOPs."""
    x, gates = inputs
    return (np.multiply(x, gates[..., np.newaxis], out=out(x.shape, real(x, gates))),), x.size


def weigh_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_gates of `weigh` from (x, d_y).  2 n FLOPs."""
    x, d_y = inputs
    same_shape(x, d_y)
    return (np.add.reduce(x * d_y, axis=-1, out=out(x.shape[:-1], real(x, d_y))),), 2 * x.size


def with_gates(nonlinearity: Kernel) -> Kernel:
    """`weigh` of a gated nonlinearity in one, from (gate, up, gates): a FLOP an element more."""

    def kernel(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
        gate, up, gates = inputs
        ((y,), flops) = nonlinearity((gate, up), attributes, out)
        np.multiply(y, gates[..., np.newaxis], out=y)
        return (y,), flops + y.size

    return kernel


def with_gates_grad(nonlinearity: Kernel, gradient: Kernel) -> Kernel:
    """(d_gate, d_up, d_gates) of `with_gates` from (gate, up, gates, d_y), with the nonlinearity again: 3 FLOPs an element more."""

    def kernel(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
        gate, up, gates, d_y = inputs
        (d_gate, d_up), flops = gradient((gate, up, d_y * gates[..., np.newaxis]), attributes, out)
        (active,), again = nonlinearity((gate, up), attributes)
        d_gates = np.add.reduce(active * d_y, axis=-1, out=out(gates.shape, real(gate, d_y)))
        return (d_gate, d_up, d_gates), flops + again + 3 * gate.size

    return kernel


def expert_bias(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """Each row of x[X G J] plus the bias of its expert, from (x, b[E J]).  n FLOPs.

    >>> expert_bias((np.zeros((3, 1, 1)), np.array([[1.0], [5.0]])), {"loads": (2, 1)})[0][0].ravel().tolist()
    [1.0, 1.0, 5.0]
    """
    x, b = inputs
    return (np.add(x, _by_row(b, attributes), out=out(x.shape, real(x, b))),), x.size


def expert_bias_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_b of `expert_bias` from d_y: the sum of each expert's rows.  n FLOPs."""
    (d_y,) = inputs
    loads = _loads(attributes)
    d_b = out((len(loads), d_y.shape[-1]), real(d_y))
    for expert, rows in enumerate(_rows(loads)):
        np.add.reduce(d_y[rows], axis=(0, 1), out=d_b[expert])
    return (d_b,), d_y.size


def weighted_expert_bias(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """As `expert_bias`, each row's times its gate, from (x, b, gates[X G]).  2 n FLOPs."""
    x, b, gates = inputs
    y = out(x.shape, real(x, b))
    np.add(x, gates[..., np.newaxis] * _by_row(b, attributes), out=y)
    return (y,), 2 * x.size


def weighted_expert_bias_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_b of `weighted_expert_bias` from (d_y, gates).  2 n FLOPs."""
    d_y, gates = inputs
    d_b, flops = expert_bias_grad((d_y * gates[..., np.newaxis],), attributes, out)
    return d_b, flops + d_y.size


def weighted_expert_bias_grad_gates(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_gates of `weighted_expert_bias` from (b, d_y).  2 n FLOPs."""
    b, d_y = inputs
    return (np.add.reduce(_by_row(b, attributes) * d_y, axis=-1, out=out(d_y.shape[:-1], real(d_y))),), 2 * d_y.size


def _by_row(b: Array, attributes: Attributes) -> Array:
    """What each row has of its expert's: [X 1 J]."""
    return np.repeat(b, _loads(attributes), axis=0)[:, np.newaxis]


def _loads(attributes: Attributes) -> tuple[int, ...]:
    loads = attributes.get("loads")
    if not isinstance(loads, tuple):
        raise ValueError(f"attribute 'loads' is {loads!r}, not the slots of each expert")
    return loads


def _rows(loads: Sequence[int]) -> Iterator[slice]:
    """The slots of each expert."""
    start = 0
    for load in loads:
        yield slice(start, start + load)
        start += load


def _chosen(attributes: Attributes) -> tuple[Array, Array]:
    """Token and expert of each slot of a run."""
    loads = _loads(attributes)
    return np.arange(sum(loads)) % integer(attributes, "run"), np.repeat(np.arange(len(loads)), loads)
