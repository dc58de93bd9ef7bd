"""RMSNorm over all heads of a token in two steps, so that ranks which hold a part of the heads add up their sums between: x[B S ... C].

The sum of squares [B S] is of all heads; attributes["count"] says how many elements those have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, integer, real, same_shape

_EPSILON = 1e-5  # added to the mean of squares, as in `rms_norm`
_TOKENS = (0, 1)


def square_sum(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The sum of x x over all but the first two dims.  2 n FLOPs.

    >>> square_sum((np.full((1, 1, 2, 2), 3.0),), {})[0][0].tolist()
    [[36.0]]
    """
    (x,) = inputs
    y = out(x.shape[:2], real(x))
    y[...] = np.square(x).sum(axis=_inner(x))
    return (y,), 2 * x.size


def square_sum_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `square_sum` from (x, d_y): 2 x d_y.  n FLOPs, and one a token."""
    x, d_y = inputs
    return (np.multiply(x, _rows(2 * d_y, x), out=out(x.shape, real(x, d_y))),), x.size


def rms_normalize_by(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x / sqrt(sum / count + 1e-5) from (x, sum); its gradient by x is itself on d_y.  n FLOPs.

    Source: Zhang and Sennrich 2019 (arXiv:1910.07467), section 3.
    """
    x, total = inputs
    return (np.multiply(x, _rows(_inverse(total, attributes), x), out=out(x.shape, real(x))),), x.size


def rms_normalize_by_grad_sum(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_sum of `rms_normalize_by` from (x, sum, d_y).  2 n FLOPs.  Source: derived here: d (s/n)^-1/2 / ds = -(s/n)^-3/2 / 2n."""
    x, total, d_y = inputs
    same_shape(x, d_y)
    return (_slope(x * d_y, total, attributes, out),), 2 * x.size


def rms_norm_by(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """gamma x / sqrt(sum / count + 1e-5) from (x, sum, gamma); its gradient by x is itself on d_y.  2 n FLOPs."""
    x, total, gamma = inputs
    _check(x, gamma)
    y = out(x.shape, real(x, gamma))
    np.multiply(x, _rows(_inverse(total, attributes), x), out=y)
    return (np.multiply(y, gamma, out=y),), 2 * x.size


def rms_norm_by_grad_sum(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_sum of `rms_norm_by` from (x, sum, gamma, d_y).  3 n FLOPs."""
    x, total, gamma, d_y = inputs
    same_shape(x, d_y)
    return (_slope(x * d_y * gamma, total, attributes, out),), 3 * x.size


def rms_norm_by_grad_gamma(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_gamma of `rms_norm_by` from (x, sum, d_y).  3 n FLOPs."""
    x, total, d_y = inputs
    same_shape(x, d_y)
    return (np.sum(x * _rows(_inverse(total, attributes), x) * d_y, axis=_TOKENS, out=out(x.shape[2:], real(x, d_y))),), 3 * x.size


def gain_by_head(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x gamma from (x, gamma), each head with its own; its gradient by x is itself on d_y.  n FLOPs."""
    x, gamma = inputs
    _check(x, gamma)
    return (np.multiply(x, gamma, out=out(x.shape, real(x, gamma))),), x.size


def gain_by_head_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_gamma of `gain_by_head` from (x, d_y).  2 n FLOPs."""
    x, d_y = inputs
    same_shape(x, d_y)
    return (np.sum(x * d_y, axis=_TOKENS, out=out(x.shape[2:], real(x, d_y))),), 2 * x.size


def _inner(x: Array) -> tuple[int, ...]:
    return tuple(range(len(_TOKENS), x.ndim))


def _rows(each: Array, x: Array) -> Array:
    """A number a token, as wide as x."""
    return each.reshape(*each.shape, *(1 for _ in _inner(x)))


def _inverse(total: Array, attributes: Attributes) -> Array:
    return np.asarray((total / integer(attributes, "count") + _EPSILON) ** -0.5)


def _slope(products: Array, total: Array, attributes: Attributes, out: Out) -> Array:
    y = out(total.shape, real(total))
    y[...] = products.sum(axis=_inner(products)) * _inverse(total, attributes) ** 3 / (-2 * integer(attributes, "count"))
    return y


def _check(x: Array, gamma: Array) -> None:
    if gamma.shape != x.shape[2:]:
        raise ValueError(f"gamma of shape {gamma.shape} does not fit the heads of {x.shape}")
