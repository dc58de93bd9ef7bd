"""Kernels of a mixture of experts: tokens to slots of experts and back, gates, and matmuls of each expert with its own rows.

Tokens come in runs of attributes["run"]; a run has slots [O], those of one expert side by side, each for a token: attributes["tokens"].
attributes["loads"] are the slots of each expert in a run.  A slot may be empty, its token -1.  attributes["chosen"] are loads and tokens
of all slots that tokens chose, some of which may have been dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import numpy as np

from parsim_kernels import contraction
from parsim_kernels.signature import (
    Array,
    Attributes,
    Kernel,
    KernelResult,
    Out,
    expression,
    fresh,
    integer,
    number,
    real,
    same_shape,
    terms,
)


def permute(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x[B T ...] as [O M ...]: each slot's token, of each of M runs.  0 FLOPs.

    >>> permute((np.arange(4.0).reshape(1, 4),), {"run": 2, "tokens": (0, 1, 1)})[0][0].tolist()
    [[0.0, 2.0], [1.0, 3.0], [1.0, 3.0]]
    """
    (x,) = inputs
    tokens = _tokens(attributes)
    rows = x.reshape(-1, integer(attributes, "run"), *x.shape[2:]).swapaxes(0, 1)
    y = out((len(tokens), *rows.shape[1:]), real(x))
    y[...] = rows[tokens]
    y[tokens < 0] = 0
    return (y,), 0


def unpermute(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The sum of each token's slots, from x[O M ...]: [B T ...], T of extent attributes["inner"].  n FLOPs.

    >>> unpermute((np.ones((3, 2)),), {"run": 2, "inner": 4, "tokens": (0, 1, 1)})[0][0].tolist()
    [[1.0, 2.0, 1.0, 2.0]]
    """
    (x,) = inputs
    run, inner, runs = integer(attributes, "run"), integer(attributes, "inner"), x.shape[1]
    y = out((run * runs // inner, inner, *x.shape[2:]), real(x))
    y.fill(0)
    tokens = _tokens(attributes)
    np.add.at(y.reshape(runs, run, *x.shape[2:]).swapaxes(0, 1), tokens[tokens >= 0], x[tokens >= 0])
    return (y,), x.size


class GateNumerics(Protocol):
    """What attributes["gate"] is: gates from logits and which were chosen; d_logits from logits, gates and d_gates."""

    weigh: Callable[[Array, Array], Array]
    slope: Callable[[Array | None, Array, Array], Array]
    flops: int  # a logit
    slope_flops: int  # a gate, or a logit


def route(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The gate of each slot [O M] from logits [B T N], times attributes["scale"]; 0 of an empty one.  FLOPs a logit as the gate says."""
    (logits,) = inputs
    (token, expert), gate = _slots(attributes), _gate(attributes)
    found = gate.weigh(_by_run(logits, attributes), _is_chosen(attributes))
    gates = out((len(token), len(found)), real(logits))
    gates[...] = found[:, token, expert].T * number(attributes, "scale")
    gates[token < 0] = 0
    return (gates,), gate.flops * logits.size


def route_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_logits of `route` from gates and d_gates, and the logits before them for a gate that reads them.  FLOPs a gate as it says."""
    *logits, gates, d_gates = inputs
    same_shape(gates, d_gates)
    inner, scale, gate = integer(attributes, "inner"), number(attributes, "scale"), _gate(attributes)
    rows = _by_run(logits[0], attributes) if logits else None
    found = gate.slope(rows, _by_expert(gates, attributes) / scale, _by_expert(d_gates, attributes) * scale)
    d_logits = out((found.shape[0] * found.shape[1] // inner, inner, found.shape[2]), real(gates, d_gates))
    d_logits[...] = found.reshape(d_logits.shape)
    return (d_logits,), gate.slope_flops * gates.size


def route_again_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The same from (logits, d_gates), with gates of choices that have no slot, too.  FLOPs a logit: those of `route` and of the slope."""
    logits, d_gates = inputs
    gate, rows = _gate(attributes), _by_run(logits, attributes)
    found = gate.slope(rows, gate.weigh(rows, _is_chosen(attributes)), _by_expert(d_gates, attributes) * number(attributes, "scale"))
    d_logits = out(logits.shape, real(logits, d_gates))
    d_logits[...] = found.reshape(logits.shape)
    return (d_logits,), (gate.flops + gate.slope_flops) * logits.size


def _gate(attributes: Attributes) -> GateNumerics:
    found: Any = attributes["gate"]
    return cast("GateNumerics", found)


def _by_run(logits: Array, attributes: Attributes) -> Array:
    """Logits by run, token and expert."""
    return logits.reshape(-1, integer(attributes, "run"), logits.shape[-1])


def _is_chosen(attributes: Attributes) -> Array:
    """Whether a token of a run chose an expert, with a slot or not."""
    found = np.zeros((integer(attributes, "run"), len(_loads(attributes))), dtype=bool)
    found[_chosen(attributes)] = True
    return found


def _by_expert(values: Array, attributes: Attributes) -> Array:
    """What slots have, by run, token and expert; 0 where there is none."""
    token, expert = _slots(attributes)
    found = np.zeros((values.shape[1], integer(attributes, "run"), len(_loads(attributes))), values.dtype)
    found[:, token[token >= 0], expert[token >= 0]] = values[token >= 0].T
    return found


def balance_loss(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """attributes["scale"] x experts x the sum of each expert's share of choices times its softmax, from logits [B T N].  5 n FLOPs.

    Source: Fedus et al. 2021 (arXiv:2101.03961), Eq. 4 to 6, with shares of all choices of a token.

    >>> float(balance_loss((np.zeros((1, 2, 2)),), {"scale": 0.5, "chosen": ((2, 0), (0, 1))})[0][0])
    1.0
    """
    (logits,) = inputs
    y = out((), real(logits))
    y[...] = (_softmax(logits) * _weights_of_shares(attributes)).sum()
    return (y,), 5 * logits.size


def balance_loss_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_logits of `balance_loss` from the logits; shares of choices are constants.  7 n FLOPs."""
    (logits,) = inputs
    odds, weights = _softmax(logits), _weights_of_shares(attributes)
    return (np.multiply(odds, weights - (odds * weights).sum(-1, keepdims=True), out=out(logits.shape, real(logits))),), 7 * logits.size


def _softmax(logits: Array) -> Array:
    found = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(found / found.sum(-1, keepdims=True))


def _weights_of_shares(attributes: Attributes) -> Array:
    found: Any = attributes["chosen"]
    loads = np.array(found[0])
    return np.asarray(number(attributes, "scale") * len(loads) * loads / loads.sum())


def count_choices(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """How many tokens chose each expert [N], of logits [B T N].  A FLOP a logit.

    >>> count_choices((np.zeros((1, 4, 2)),), {"run": 2, "chosen": ((2, 0), (0, 1))})[0][0].tolist()
    [4.0, 0.0]
    """
    (logits,) = inputs
    found: Any = attributes["chosen"]
    y = out(logits.shape[-1:], real(logits))
    y[...] = np.array(found[0]) * len(_by_run(logits, attributes))
    return (y,), logits.size


def steer(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """Biases [N] a step of attributes["rate"] nearer to equal loads, from (biases, counts).  4 n FLOPs.

    Source: Wang et al. 2024 (arXiv:2408.15664), algorithm 1.

    >>> steer((np.zeros(3), np.array([4.0, 1.0, 1.0])), {"rate": 0.5})[0][0].tolist()
    [-0.5, 0.5, 0.5]
    """
    biases, counts = inputs
    same_shape(biases, counts)
    moved = biases + number(attributes, "rate") * np.sign(counts.mean() - counts)
    y = out(biases.shape, real(biases, counts))
    y[...] = moved
    return (y,), 4 * biases.size


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
    """`weigh` of a nonlinearity in one, from (gate, up, gates), or (x, gates) of one that is not gated: a FLOP an element more."""

    def kernel(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
        *plain, gates = inputs
        ((y,), flops) = nonlinearity(plain, attributes, out)
        np.multiply(y, gates[..., np.newaxis], out=y)
        return (y,), flops + y.size

    return kernel


def with_gates_grad(nonlinearity: Kernel, gradient: Kernel) -> Kernel:
    """(d_gate, d_up, d_gates) of `with_gates` from (gate, up, gates, d_y), or (d_x, d_gates) from (x, gates, d_y), with the nonlinearity
    again: 3 FLOPs an element more.
    """

    def kernel(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
        *plain, gates, d_y = inputs
        d_plain, flops = gradient((*plain, d_y * gates[..., np.newaxis]), attributes, out)
        (active,), again = nonlinearity(plain, attributes)
        d_gates = np.add.reduce(active * d_y, axis=-1, out=out(gates.shape, real(d_y)))
        return (*d_plain, d_gates), flops + again + 3 * d_y.size

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


def expert_scale(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """Each gate of x[X G] times the factor of its expert, from (x, s[E]); its gradient by x is itself on d_y.  n FLOPs.

    >>> expert_scale((np.ones((3, 1)), np.array([2.0, 5.0])), {"loads": (2, 1)})[0][0].ravel().tolist()
    [2.0, 2.0, 5.0]
    """
    x, s = inputs
    return (np.multiply(x, _by_row(s, attributes), out=out(x.shape, real(x, s))),), x.size


def expert_scale_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_s of `expert_scale` from (x, d_y).  2 n FLOPs."""
    x, d_y = inputs
    same_shape(x, d_y)
    loads = _loads(attributes)
    d_s = out((len(loads),), real(x, d_y))
    for expert, rows in enumerate(_rows(loads)):
        d_s[expert] = np.sum(x[rows] * d_y[rows])
    return (d_s,), 2 * x.size


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


def _tokens(attributes: Attributes) -> Array:
    return np.array(attributes["tokens"], dtype=np.int64)


def _slots(attributes: Attributes) -> tuple[Array, Array]:
    """Token and expert of each slot of a run."""
    loads = _loads(attributes)
    return _tokens(attributes), np.repeat(np.arange(len(loads)), loads)


def _chosen(attributes: Attributes) -> tuple[Array, Array]:
    """The same of all that tokens chose."""
    found: Any = attributes["chosen"]
    loads, tokens = found
    return np.array(tokens, dtype=np.int64), np.repeat(np.arange(len(loads)), loads)
