"""Kernels that sum or normalise over a dim, and their gradients.  n in the FLOP counts is the elements of the first input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim_kernels.signature import Array, Attributes, Result, extents, number, same_shape, terms

_EPSILON = 1e-5  # added to the variance.  Source: PyTorch, torch.nn.LayerNorm, default eps


def sum_to(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """x summed over the dims that the output of attributes["expr"] lacks, as in "B S F -> F".  n FLOPs.

    Raises:
        ValueError: the output is no subset of the dims of x in their order.

    >>> sum_to((np.ones((2, 3)),), {"expr": "B D -> D"})[0][0].tolist()
    [2.0, 2.0, 2.0]
    """
    (x_dims,), out_dims = terms(attributes, 1)
    (x,) = inputs
    extents((x_dims, x))
    if tuple(d for d in x_dims if d in out_dims) != out_dims:
        raise ValueError(f"{attributes['expr']!r} is no sum: the output must keep some of the dims in their order")
    absent = tuple(i for i, dim in enumerate(x_dims) if dim not in out_dims)
    return (np.array(x.sum(axis=absent)),), x.size


def layer_norm(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """gamma x (x - mean) / sqrt(variance + 1e-5) + beta over the last dim, from (x, gamma, beta).  7 n FLOPs.

    Source: Ba et al. 2016 (arXiv:1607.06450), section 3.
    """
    x, gamma, beta = inputs
    same_shape(gamma, beta)
    _check_row(x, gamma)
    return (_standard(x)[0] * gamma + beta,), 7 * x.size


def layer_norm_grad_x(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """d_x of `layer_norm` from (x, gamma, d_y); mean and variance are computed again from x.  13 n FLOPs.

    Source: derived here: the gradient through mean and variance is a projection on what is orthogonal to 1 and to the standardised x.
    """
    x, gamma, d_y = inputs
    same_shape(x, d_y)
    _check_row(x, gamma)
    standard, inverse_deviation = _standard(x)
    g = d_y * gamma
    along = (g * standard).mean(axis=-1, keepdims=True)
    return (inverse_deviation * (g - g.mean(axis=-1, keepdims=True) - standard * along),), 13 * x.size


def layer_norm_grad_gamma(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """d_gamma of `layer_norm` from (x, d_y).  7 n FLOPs.  d_beta is `sum_to` of d_y."""
    x, d_y = inputs
    same_shape(x, d_y)
    rows = (_standard(x)[0] * d_y).reshape(-1, x.shape[-1])
    return (rows.sum(axis=0),), 7 * x.size


def rms_norm(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """gamma x x / sqrt(mean of squares + 1e-5) over the last dim, from (x, gamma).  4 n FLOPs.

    Source: Zhang and Sennrich 2019 (arXiv:1910.07467), section 3.

    >>> rms_norm((np.array([[3.0, 3.0]]), np.array([1.0, 2.0])), {})[0][0].round(4).tolist()
    [[1.0, 2.0]]
    """
    x, gamma = inputs
    _check_row(x, gamma)
    return (x * _inverse_root_mean_square(x) * gamma,), 4 * x.size


def rms_norm_grad_x(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """d_x of `rms_norm` from (x, gamma, d_y); the root mean square is computed again from x.  9 n FLOPs.

    Source: derived here: the gradient through the root mean square is a projection on what is orthogonal to the scaled x.
    """
    x, gamma, d_y = inputs
    same_shape(x, d_y)
    _check_row(x, gamma)
    inverse = _inverse_root_mean_square(x)
    scaled, g = x * inverse, d_y * gamma
    return (inverse * (g - scaled * (g * scaled).mean(axis=-1, keepdims=True)),), 9 * x.size


def rms_norm_grad_gamma(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """d_gamma of `rms_norm` from (x, d_y).  5 n FLOPs."""
    x, d_y = inputs
    same_shape(x, d_y)
    rows = (x * _inverse_root_mean_square(x) * d_y).reshape(-1, x.shape[-1])
    return (rows.sum(axis=0),), 5 * x.size


def softmax(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """Softmax over the last dim; -inf gives exactly 0.  5 n FLOPs.

    >>> softmax((np.array([1.0, 1.0, -np.inf]),), {})[0][0].tolist()
    [0.5, 0.5, 0.0]
    """
    (x,) = inputs
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True),), 5 * x.size


def softmax_grad(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """d_x of `softmax` from (y, d_y): y (d_y - sum(y d_y)).  4 n FLOPs."""
    y, d_y = inputs
    same_shape(y, d_y)
    return (y * (d_y - (y * d_y).sum(axis=-1, keepdims=True)),), 4 * y.size


def row_max(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """The maximum over the last dim.  n FLOPs."""
    (x,) = inputs
    return (np.asarray(x.max(axis=-1)),), x.size


def row_sum(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """The sum over the last dim.  n FLOPs."""
    (x,) = inputs
    return (np.asarray(x.sum(axis=-1)),), x.size


def token_loss(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """Cross entropy a token, log(sum) + max - picked, from (sum, max, picked): sums of exp(logit - max).  3 n FLOPs.

    Source: Shoeybi et al. 2019 (arXiv:1909.08053), section 3: the loss from row maxima and sums, never from whole logits.
    """
    total, maximum, picked = inputs
    same_shape(total, maximum, picked)
    return (np.log(total) + maximum - picked,), 3 * total.size


def loss_sum(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """scale x the sum of the losses, a scalar array.  n FLOPs."""
    (loss,) = inputs
    return (np.array(number(attributes, "scale") * loss.sum()),), loss.size


def norm_sq(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """attributes["scale"] x the sum of the squares, a scalar array; 0 leaves out a gradient that another rank counts.  2 n FLOPs."""
    (g,) = inputs
    return (np.array((g * g).sum() * number(attributes, "scale")),), 2 * g.size


def _standard(x: Array) -> tuple[Array, Array]:
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse_deviation = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + _EPSILON)
    return centred * inverse_deviation, inverse_deviation


def _inverse_root_mean_square(x: Array) -> Array:
    return np.asarray(1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + _EPSILON))


def _check_row(x: Array, gamma: Array) -> None:
    if gamma.shape != x.shape[-1:]:
        raise ValueError(f"gamma of shape {gamma.shape} does not fit the last dim of {x.shape}")
