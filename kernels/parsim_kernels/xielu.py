"""xIELU: a parabola above 0 and an exponential below, of which a module learns how steep they are.

Source: Huang and Schlag 2024 (arXiv:2411.13010); huggingface/transformers, activations.py (`XIELUActivation`): softplus of two numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, real, same_shape

_BETA = 0.5  # the slope at 0
_NEAR = -1e-6  # below it the exponential is one


def xielu(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """From (x, p, n): softplus(p) x^2 + x / 2 above 0, else (0.5 + softplus(n)) (exp(min(x, -1e-6)) - 1 - x) + x / 2.  8 n FLOPs.

    >>> x = np.array([2.0, 0.0])
    >>> xielu((x, np.zeros(1), np.zeros(1)), {})[0][0].round(4).tolist()
    [3.7726, -0.0]
    """
    x, p, n = inputs
    y = out(x.shape, real(x, p, n))
    np.copyto(y, np.where(x > 0, np.logaddexp(0, p) * x * x, (_BETA + np.logaddexp(0, n)) * _below(x)) + _BETA * x)
    return (y,), 8 * x.size


def xielu_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `xielu` from (x, p, n, d_y).  9 n FLOPs."""
    x, p, n, d_y = inputs
    same_shape(x, d_y)
    d_x = out(x.shape, real(x, d_y))
    falls = np.where(x < _NEAR, np.exp(np.minimum(x, _NEAR)), 0.0) - 1
    slope = np.where(x > 0, 2 * np.logaddexp(0, p) * x, (_BETA + np.logaddexp(0, n)) * falls) + _BETA
    np.multiply(d_y, slope, out=d_x)
    return (d_x,), 9 * x.size


def xielu_grad_p(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_p of `xielu` from (x, p, d_y).  4 n FLOPs."""
    x, p, d_y = inputs
    return _number(np.where(x > 0, x * x, 0) * d_y, p, out), 4 * x.size


def xielu_grad_n(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_n of `xielu` from (x, n, d_y).  6 n FLOPs."""
    x, n, d_y = inputs
    return _number(np.where(x > 0, 0, _below(x)) * d_y, n, out), 6 * x.size


def _below(x: Array) -> Array:
    return np.asarray(np.expm1(np.minimum(x, _NEAR)) - x)


def _number(products: Array, of: Array, out: Out) -> tuple[Array, ...]:
    """Their sum times the slope of softplus."""
    found = out(of.shape, real(products, of))
    np.divide(products.sum(), 1 + np.exp(-of), out=found)
    return (found,)
