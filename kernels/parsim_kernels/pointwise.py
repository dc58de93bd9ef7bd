"""Kernels that treat each element alone, and their gradients.  n in the FLOP counts is the elements of the first input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parsim_kernels.signature import Array, Attributes, Result, extents, number, same_shape, terms

# The tanh form of GELU.  Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2.
_GELU_SLOPE = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715


def bias(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """x + b, b repeated over the dims of x that it lacks, as in "B S K C, K C -> B S K C".  n FLOPs.

    Raises:
        ValueError: the dims of b are no subset of those of x in their order, or the output is not as x.

    >>> bias((np.zeros((2, 3)), np.arange(3)), {"expr": "B D, D -> B D"})[0][0].tolist()
    [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]
    """
    (x_dims, b_dims), out_dims = terms(attributes, 2)
    x, b = inputs
    extents((x_dims, x), (b_dims, b))
    if out_dims != x_dims or tuple(d for d in x_dims if d in b_dims) != b_dims:
        raise ValueError(f"{attributes['expr']!r} is no bias: the second operand and the output must keep the dims of the first")
    spread = b.reshape([extent if dim in b_dims else 1 for dim, extent in zip(x_dims, x.shape, strict=True)])
    return (x + spread,), x.size


def gelu(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """GELU in its tanh form.  8 n FLOPs.

    Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2.

    >>> gelu((np.zeros(2),), {})[0][0].tolist()
    [0.0, 0.0]
    """
    (x,) = inputs
    return (0.5 * x * (1 + _gelu_tanh(x)),), 8 * x.size


def gelu_grad(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """d_x of `gelu` from (x, d_y).  16 n FLOPs.  Source: derived here, by the product rule."""
    x, d_y = inputs
    same_shape(x, d_y)
    t = _gelu_tanh(x)
    slope = _GELU_SLOPE * (1 + 3 * _GELU_CUBIC * x * x)
    return (d_y * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope),), 16 * x.size


def relu(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """max(x, 0).  n FLOPs."""
    (x,) = inputs
    return (np.maximum(x, 0),), x.size


def relu_grad(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """d_x of `relu` from (x, d_y); 0 where x is 0.  n FLOPs."""
    x, d_y = inputs
    same_shape(x, d_y)
    return (np.where(x > 0, d_y, 0.0),), x.size


def squared_relu(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """max(x, 0) squared.  2 n FLOPs.

    Source: So et al. 2021 (arXiv:2109.08668), section 3.

    >>> squared_relu((np.array([-2.0, 3.0]),), {})[0][0].tolist()
    [0.0, 9.0]
    """
    (x,) = inputs
    positive = np.maximum(x, 0)
    return (positive * positive,), 2 * x.size


def squared_relu_grad(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """d_x of `squared_relu` from (x, d_y): 2 max(x, 0) d_y.  3 n FLOPs."""
    x, d_y = inputs
    same_shape(x, d_y)
    return (2 * np.maximum(x, 0) * d_y,), 3 * x.size


def swiglu(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """gate x sigmoid(gate) x up from (gate, up).  5 n FLOPs.

    Source: Shazeer 2020 (arXiv:2002.05202), section 2: Swish with beta = 1.

    >>> swiglu((np.array([0.0]), np.array([3.0])), {})[0][0].tolist()
    [0.0]
    """
    gate, up = inputs
    same_shape(gate, up)
    return (gate / (1 + np.exp(-gate)) * up,), 5 * gate.size


def swiglu_grad(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """(d_gate, d_up) of `swiglu` from (gate, up, d_y).  11 n FLOPs.  Source: derived here, by the product rule."""
    gate, up, d_y = inputs
    same_shape(gate, up, d_y)
    sigmoid = 1 / (1 + np.exp(-gate))
    swish = gate * sigmoid
    return (d_y * up * (sigmoid + swish * (1 - sigmoid)), d_y * swish), 11 * gate.size


def tanh(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """The hyperbolic tangent.  n FLOPs."""
    (x,) = inputs
    return (np.tanh(x),), x.size


def tanh_grad(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """d_x of `tanh` from (y, d_y): (1 - y y) d_y.  3 n FLOPs."""
    y, d_y = inputs
    same_shape(y, d_y)
    return ((1 - y * y) * d_y,), 3 * y.size


def dropout(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """x where the mask is 1, scaled by 1 / (1 - p), from (x, mask); its gradient is itself on d_y.  2 n FLOPs.

    Raises:
        ValueError: attributes["p"] is not in [0, 1).

    Source: Srivastava et al. 2014, JMLR 15, section 10 (scaled while training).

    >>> dropout((np.ones(2), np.array([0, 1])), {"p": 0.5})[0][0].tolist()
    [0.0, 2.0]
    """
    x, mask = inputs
    same_shape(x, mask)
    p = number(attributes, "p")
    if not 0 <= p < 1:
        raise ValueError(f"attribute 'p' is {p}, not in [0, 1)")
    return (x * mask / (1 - p),), 2 * x.size


def add(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """a + b, of one shape (a scalar array too).  n FLOPs."""
    a, b = inputs
    same_shape(a, b)
    return (np.asarray(a + b),), a.size


def cast(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """A copy: the declared itemsize changes, the numbers stay float64.  0 FLOPs."""
    (x,) = inputs
    return (x.copy(),), 0


def scale(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """scale x scores.  n FLOPs."""
    (scores,) = inputs
    return (np.asarray(number(attributes, "scale") * scores),), scores.size


def scale_grad(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """scale x d_y, the gradient of `scale` and of `causal_scale` (masked elements have d_y = 0 after a softmax).  n FLOPs."""
    (d_y,) = inputs
    return (np.asarray(number(attributes, "scale") * d_y),), d_y.size


def shifted_exp(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """exp(x - m) from (x[.. V], m[..]).  2 n FLOPs."""
    x, m = _with_rows(inputs)
    return (np.exp(x - m),), 2 * x.size


def normalize(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """x / s from (x[.. V], s[..]).  n FLOPs."""
    x, s = _with_rows(inputs)
    return (x / s,), x.size


def _with_rows(inputs: Sequence[Array]) -> tuple[Array, Array]:
    x, row = inputs
    if x.shape[:-1] != row.shape:
        raise ValueError(f"one value a row is needed: shapes {x.shape} and {row.shape}")
    return x, row[..., np.newaxis]


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(np.tanh(_GELU_SLOPE * (x + _GELU_CUBIC * x * x * x)))
