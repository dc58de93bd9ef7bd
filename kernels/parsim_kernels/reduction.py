"""Kernels that sum or normalise over a dim, and their gradients.  n in the FLOP counts is the elements of the first input.

Those with a result of the first input's shape run by blocks of rows; that result may lie over the first input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from parsim_kernels.blocks import blocks, flat, rows
from parsim_kernels.signature import Array, Attributes, KernelResult, Out, expression, extents, fresh, number, real, same_shape, terms

_EPSILON = 1e-5  # added to the variance.  Source: PyTorch, torch.nn.LayerNorm, default eps


def sum_to(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x summed over the dims that the output of attributes["expr"] lacks, as in "B S F -> F".  n FLOPs.

    Raises:
        ValueError: the output is no subset of the dims of x in their order.

    >>> sum_to((np.ones((2, 3)),), {"expr": "B D -> D"})[0][0].tolist()
    [2.0, 2.0, 2.0]
    """
    (x,) = inputs
    absent, shape = _sum(expression(attributes), x.shape)
    y = out(shape, real(x))
    np.add.reduce(x, axis=absent, out=y)
    return (y,), x.size


def layer_norm(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """gamma x (x - mean) / sqrt(variance + 1e-5) + beta over the last dim, from (x, gamma, beta).  7 n FLOPs.

    Source: Ba et al. 2016 (arXiv:1607.06450), section 3.
    """
    x, gamma, beta = inputs
    same_shape(gamma, beta)
    _check_row(x, gamma)
    y = out(x.shape, real(x, gamma))
    for part, result, centred in blocks(*rows(x, y), scratch=1):
        _standardise(part, centred, result)
        np.multiply(centred, gamma, out=centred)
        np.add(centred, beta, out=result)
    return (y,), 7 * x.size


def unshifted_layer_norm(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """`layer_norm` without beta, from (x, gamma).  6 n FLOPs."""
    x, gamma = inputs
    _check_row(x, gamma)
    y = out(x.shape, real(x, gamma))
    for part, result, centred in blocks(*rows(x, y), scratch=1):
        _standardise(part, centred, result)
        np.multiply(centred, gamma, out=result)
    return (y,), 6 * x.size


def layer_norm_grad_x(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `layer_norm` from (x, gamma, d_y); mean and variance are computed again from x.  13 n FLOPs.

    Source: derived here: the gradient through mean and variance is a projection on what is orthogonal to 1 and to the standardised x.
    """
    x, gamma, d_y = inputs
    same_shape(x, d_y)
    _check_row(x, gamma)
    d_x = out(x.shape, real(x, gamma, d_y))
    for part, d_part, result, standard, g, t in blocks(*rows(x, d_y, d_x), scratch=3):
        inverse_deviation = _standardise(part, standard, t)
        np.multiply(d_part, gamma, out=g)
        np.multiply(g, standard, out=t)
        np.multiply(standard, _mean(t), out=t)
        np.subtract(g, _mean(g), out=g)
        np.subtract(g, t, out=g)
        np.multiply(g, inverse_deviation, out=result)
    return (d_x,), 13 * x.size


def layer_norm_grad_gamma(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_gamma of `layer_norm` from (x, d_y).  7 n FLOPs.  d_beta is `sum_to` of d_y."""
    x, d_y = inputs
    same_shape(x, d_y)
    d_gamma = out(x.shape[-1:], real(x, d_y))
    d_gamma.fill(0)
    for part, d_part, standard, t in blocks(*rows(x, d_y), scratch=2):
        _standardise(part, standard, t)
        np.multiply(standard, d_part, out=t)
        np.add(d_gamma, np.add.reduce(t, axis=0), out=d_gamma)
    return (d_gamma,), 7 * x.size


def rms_norm(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """gamma x x / sqrt(mean of squares + 1e-5) over the last dim, from (x, gamma).  4 n FLOPs.

    Source: Zhang and Sennrich 2019 (arXiv:1910.07467), section 3.

    >>> rms_norm((np.array([[3.0, 3.0]]), np.array([1.0, 2.0])), {})[0][0].round(4).tolist()
    [[1.0, 2.0]]
    """
    x, gamma = inputs
    _check_row(x, gamma)
    y = out(x.shape, real(x, gamma))
    for part, result, t in blocks(*rows(x, y), scratch=1):
        np.multiply(part, _inverse_root_mean_square(part, t), out=t)
        np.multiply(t, gamma, out=result)
    return (y,), 4 * x.size


def rms_norm_grad_x(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `rms_norm` from (x, gamma, d_y); the root mean square is computed again from x.  9 n FLOPs.

    Source: derived here: the gradient through the root mean square is a projection on what is orthogonal to the scaled x.
    """
    x, gamma, d_y = inputs
    same_shape(x, d_y)
    _check_row(x, gamma)
    d_x = out(x.shape, real(x, gamma, d_y))
    for part, d_part, result, scaled, g, t in blocks(*rows(x, d_y, d_x), scratch=3):
        inverse = _inverse_root_mean_square(part, t)
        np.multiply(part, inverse, out=scaled)
        np.multiply(d_part, gamma, out=g)
        np.multiply(g, scaled, out=t)
        np.multiply(scaled, _mean(t), out=t)
        np.subtract(g, t, out=g)
        np.multiply(g, inverse, out=result)
    return (d_x,), 9 * x.size


def rms_norm_grad_gamma(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_gamma of `rms_norm` from (x, d_y).  5 n FLOPs."""
    x, d_y = inputs
    same_shape(x, d_y)
    d_gamma = out(x.shape[-1:], real(x, d_y))
    d_gamma.fill(0)
    for part, d_part, t in blocks(*rows(x, d_y), scratch=1):
        np.multiply(part, _inverse_root_mean_square(part, t), out=t)
        np.multiply(t, d_part, out=t)
        np.add(d_gamma, np.add.reduce(t, axis=0), out=d_gamma)
    return (d_gamma,), 5 * x.size


def rms_normalize(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x / sqrt(mean of squares + 1e-5) over the last dim: `rms_norm` without its gamma.  3 n FLOPs."""
    (x,) = inputs
    y = out(x.shape, real(x))
    for part, result, t in blocks(*rows(x, y), scratch=1):
        np.multiply(part, _inverse_root_mean_square(part, t), out=result)
    return (y,), 3 * x.size


def rms_normalize_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `rms_normalize` from (x, d_y).  8 n FLOPs.  Source: as `rms_norm_grad_x`."""
    x, d_y = inputs
    same_shape(x, d_y)
    d_x = out(x.shape, real(x, d_y))
    for part, d_part, result, scaled, t in blocks(*rows(x, d_y, d_x), scratch=2):
        inverse = _inverse_root_mean_square(part, t)
        np.multiply(part, inverse, out=scaled)
        np.multiply(d_part, scaled, out=t)
        np.multiply(scaled, _mean(t), out=t)
        np.subtract(d_part, t, out=t)
        np.multiply(t, inverse, out=result)
    return (d_x,), 8 * x.size


def gain(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x times gamma along the last dim, from (x, gamma); its gradient is itself on d_y.  n FLOPs."""
    x, gamma = inputs
    _check_row(x, gamma)
    return (np.multiply(x, gamma, out=out(x.shape, real(x, gamma))),), x.size


def gain_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_gamma of `gain` from (x, d_y): their products summed over all rows.  2 n FLOPs."""
    x, d_y = inputs
    same_shape(x, d_y)
    d_gamma = out(x.shape[-1:], real(x, d_y))
    d_gamma.fill(0)
    for part, d_part, t in blocks(*rows(x, d_y), scratch=1):
        np.multiply(part, d_part, out=t)
        np.add(d_gamma, np.add.reduce(t, axis=0), out=d_gamma)
    return (d_gamma,), 2 * x.size


def softmax(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """Softmax over the last dim; -inf gives exactly 0.  5 n FLOPs.

    >>> softmax((np.array([1.0, 1.0, -np.inf]),), {})[0][0].tolist()
    [0.5, 0.5, 0.0]
    """
    (x,) = inputs
    y = out(x.shape, real(x))
    for part, result in blocks(*rows(x, y)):
        np.subtract(part, np.maximum.reduce(part, axis=-1, keepdims=True), out=result)
        np.exp(result, out=result)
        np.divide(result, np.add.reduce(result, axis=-1, keepdims=True), out=result)
    return (y,), 5 * x.size


def softmax_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `softmax` from (y, d_y): y (d_y - sum(y d_y)).  4 n FLOPs."""
    return (softmax_slope(inputs, 1.0, out),), 4 * inputs[0].size


def softmax_slope(inputs: Sequence[Array], factor: float, out: Out) -> Array:
    """factor y (d_y - sum(y d_y)) over the last dim, from (y, d_y)."""
    y, d_y = inputs
    same_shape(y, d_y)
    d_x = out(y.shape, real(y, d_y))
    for part, d_part, result, t in blocks(*rows(y, d_y, d_x), scratch=1):
        np.multiply(part, d_part, out=t)
        np.subtract(d_part, np.add.reduce(t, axis=-1, keepdims=True), out=t)
        np.multiply(t, part, out=result)
        if factor != 1:
            np.multiply(result, factor, out=result)
    return d_x


def row_max(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The maximum over the last dim.  n FLOPs."""
    (x,) = inputs
    y = out(x.shape[:-1], real(x))
    np.maximum.reduce(x, axis=-1, out=y)
    return (y,), x.size


def row_sum(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The sum over the last dim.  n FLOPs."""
    (x,) = inputs
    y = out(x.shape[:-1], real(x))
    np.add.reduce(x, axis=-1, out=y)
    return (y,), x.size


def token_loss(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """Cross entropy a token, log(sum) + max - picked, from (sum, max, picked): sums of exp(logit - max).  3 n FLOPs.

    Source: Shoeybi et al. 2019 (arXiv:1909.08053), section 3: the loss from row maxima and sums, never from whole logits.
    """
    total, maximum, picked = inputs
    same_shape(total, maximum, picked)
    loss = out(total.shape, real(total, maximum, picked))
    np.subtract(np.log(total) + maximum, picked, out=loss)
    return (loss,), 3 * total.size


def loss_sum(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """scale x the sum of the losses, a scalar array, perhaps of (losses, labels) those alone whose label is not negative.  n FLOPs.

    >>> loss_sum((np.array([4.0, 1.0]), np.array([2, -1])), {"scale": 0.5})[0][0].item()
    2.0
    """
    loss, *labels = inputs
    total = out((), real(loss))
    total[...] = number(attributes, "scale") * np.add.reduce(loss[labels[0] >= 0] if labels else loss, axis=None)
    return (total,), loss.size


def norm_sq(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """attributes["scale"] x the sum of the squares, a scalar array; 0 leaves out a gradient that another rank counts.  2 n FLOPs."""
    (g,) = inputs
    total, sums = out((), real(g)), [np.dot(part, part) for (part,) in blocks(*flat(g))]
    total[...] = math.fsum(sums) * number(attributes, "scale")
    return (total,), 2 * g.size


@lru_cache(maxsize=4096)
def _sum(expr: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes over which `sum_to` sums an array of that shape, and the shape of the sums."""
    (dims,), kept = terms(expr, 1)
    sizes = extents((dims, shape))
    if tuple(d for d in dims if d in kept) != kept:
        raise ValueError(f"{expr!r} is no sum: the output must keep some of the dims in their order")
    return tuple(i for i, dim in enumerate(dims) if dim not in kept), tuple(sizes[dim] for dim in kept)


def _standardise(x: Array, standard: Array, scratch: Array) -> Array:
    """Leave (x - mean) / deviation in `standard`; 1 / deviation, by row."""
    np.subtract(x, _mean(x), out=standard)
    np.multiply(standard, standard, out=scratch)
    inverse_deviation: Array = 1 / np.sqrt(_mean(scratch) + _EPSILON)
    np.multiply(standard, inverse_deviation, out=standard)
    return inverse_deviation


def _inverse_root_mean_square(x: Array, scratch: Array) -> Array:
    np.multiply(x, x, out=scratch)
    inverse: Array = 1 / np.sqrt(_mean(scratch) + _EPSILON)
    return inverse


def _mean(matrix: Array) -> Array:
    mean: Array = np.add.reduce(matrix, axis=-1, keepdims=True) / matrix.shape[-1]
    return mean


def _check_row(x: Array, gamma: Array) -> None:
    if gamma.shape != x.shape[-1:]:
        raise ValueError(f"gamma of shape {gamma.shape} does not fit the last dim of {x.shape}")
