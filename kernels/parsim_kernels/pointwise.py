"""Kernels that treat each element alone, and their gradients.  n in the FLOP counts is the elements of the first input.

They run block by block, so that the passes over a block find it in the cache.  The i-th result may lie over the i-th input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from parsim_kernels.blocks import blocks, flat, rows
from parsim_kernels.signature import (
    Array,
    Attributes,
    KernelResult,
    Out,
    expression,
    extents,
    fresh,
    integer,
    joint,
    number,
    real,
    same_shape,
    terms,
)

# The tanh form of GELU.  Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2.
_GELU_SLOPE = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715
_QUICK_SLOPE = 1.702


def bias(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x + b, b repeated over the dims of x that it lacks, as in "B S K C, K C -> B S K C".  n FLOPs.

    Raises:
        ValueError: the dims of b are no subset of those of x in their order, or the output is not as x.

    >>> bias((np.zeros((2, 3)), np.arange(3)), {"expr": "B D, D -> B D"})[0][0].tolist()
    [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]
    """
    x, b = inputs
    spread = b.reshape(_spread(expression(attributes), x.shape, b.shape))
    return (np.add(x, spread, out=out(x.shape, real(x, b))),), x.size


def gelu(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """GELU in its tanh form.  8 n FLOPs.

    Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2.

    >>> gelu((np.zeros(2),), {})[0][0].tolist()
    [0.0, 0.0]
    """
    (x,) = inputs
    y = out(x.shape, real(x))
    for part, result, t, half in blocks(*flat(x, y), scratch=2):
        gelu_tanh(part, t, half)
        np.add(t, 1, out=t)
        np.multiply(part, 0.5, out=half)
        np.multiply(half, t, out=result)
    return (y,), 8 * x.size


def gelu_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `gelu` from (x, d_y).  16 n FLOPs.  Source: derived here, by the product rule."""
    x, d_y = inputs
    same_shape(x, d_y)
    d_x = out(x.shape, real(x, d_y))
    for part, d_part, result, t, slope, total in blocks(*flat(x, d_y, d_x), scratch=3):
        gelu_slope(part, t, slope, total)
        np.multiply(slope, d_part, out=result)
    return (d_x,), 16 * x.size


def relu(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """max(x, 0).  n FLOPs."""
    (x,) = inputs
    return (np.maximum(x, 0, out=out(x.shape, real(x))),), x.size


def relu_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `relu` from (y, d_y), as PyTorch keeps it; 0 where x is 0.  n FLOPs."""
    y, d_y = inputs
    same_shape(y, d_y)
    d_x = out(y.shape, real(y, d_y))
    for part, d_part, result in blocks(*flat(y, d_y, d_x)):
        is_on = part > 0
        result.fill(0)
        np.copyto(result, d_part, where=is_on)
    return (d_x,), y.size


def squared_relu(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """max(x, 0) squared.  2 n FLOPs.

    Source: So et al. 2021 (arXiv:2109.08668), section 3.

    >>> squared_relu((np.array([-2.0, 3.0]),), {})[0][0].tolist()
    [0.0, 9.0]
    """
    (x,) = inputs
    y = out(x.shape, real(x))
    for part, result in blocks(*flat(x, y)):
        np.maximum(part, 0, out=result)
        np.multiply(result, result, out=result)
    return (y,), 2 * x.size


def squared_relu_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `squared_relu` from (x, d_y): 2 max(x, 0) d_y.  3 n FLOPs."""
    x, d_y = inputs
    same_shape(x, d_y)
    d_x = out(x.shape, real(x, d_y))
    for part, d_part, result in blocks(*flat(x, d_y, d_x)):
        np.maximum(part, 0, out=result)
        np.multiply(result, 2, out=result)
        np.multiply(result, d_part, out=result)
    return (d_x,), 3 * x.size


def silu(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x sigmoid(x).  4 n FLOPs.

    Source: Elfwing et al. 2018 (arXiv:1702.03118), section 2.

    >>> silu((np.array([0.0]),), {})[0][0].tolist()
    [0.0]
    """
    (x,) = inputs
    return (_swish(x, 1.0, out),), 4 * x.size


def silu_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `silu` from (x, d_y).  9 n FLOPs.  Source: derived here, by the product rule."""
    x, d_y = inputs
    return (_swish_grad(x, d_y, 1.0, out),), 9 * x.size


def quick_gelu(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x sigmoid(1.702 x), GELU in its sigmoid form, as CLIP has it.  5 n FLOPs.

    Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2; openai/CLIP, clip/model.py (`QuickGELU`).

    >>> quick_gelu((np.array([0.0]),), {})[0][0].tolist()
    [0.0]
    """
    (x,) = inputs
    return (_swish(x, _QUICK_SLOPE, out),), 5 * x.size


def quick_gelu_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `quick_gelu` from (x, d_y).  10 n FLOPs.  Source: derived here, by the product rule."""
    x, d_y = inputs
    return (_swish_grad(x, d_y, _QUICK_SLOPE, out),), 10 * x.size


def _swish(x: Array, steep: float, out: Out) -> Array:
    """x sigmoid(steep x)."""
    y = out(x.shape, real(x))
    for part, result, t in blocks(*flat(x, y), scratch=1):
        np.multiply(part, -steep, out=t)
        np.exp(t, out=t)
        np.add(t, 1, out=t)
        np.divide(part, t, out=result)
    return y


def _swish_grad(x: Array, d_y: Array, steep: float, out: Out) -> Array:
    """d_x of that."""
    same_shape(x, d_y)
    d_x = out(x.shape, real(x, d_y))
    for part, d_part, result, sigmoid, slope in blocks(*flat(x, d_y, d_x), scratch=2):
        np.multiply(part, -steep, out=sigmoid)
        np.exp(sigmoid, out=sigmoid)
        np.add(sigmoid, 1, out=sigmoid)
        np.divide(1, sigmoid, out=sigmoid)
        np.subtract(1, sigmoid, out=slope)
        np.multiply(slope, part, out=slope)
        np.multiply(slope, steep, out=slope)
        np.add(slope, 1, out=slope)
        np.multiply(slope, sigmoid, out=slope)
        np.multiply(slope, d_part, out=result)
    return d_x


def multiply(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """a x b, of one shape; each is the other's slope.  n FLOPs."""
    a, b = inputs
    same_shape(a, b)
    return (np.multiply(a, b, out=out(a.shape, real(a, b))),), a.size


def tanh(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The hyperbolic tangent.  n FLOPs."""
    (x,) = inputs
    return (np.tanh(x, out=out(x.shape, real(x))),), x.size


def tanh_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `tanh` from (y, d_y): (1 - y y) d_y.  3 n FLOPs."""
    y, d_y = inputs
    same_shape(y, d_y)
    d_x = out(y.shape, real(y, d_y))
    for part, d_part, result, t in blocks(*flat(y, d_y, d_x), scratch=1):
        np.multiply(part, part, out=t)
        np.subtract(1, t, out=t)
        np.multiply(t, d_part, out=result)
    return (d_x,), 3 * y.size


def sigmoid(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """1 / (1 + exp(-x)).  3 n FLOPs."""
    (x,) = inputs
    y = np.negative(x, out=out(x.shape, real(x)))
    np.add(np.exp(y, out=y), 1, out=y)
    return (np.divide(1, y, out=y),), 3 * x.size


def sigmoid_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `sigmoid` from (y, d_y): y (1 - y) d_y.  3 n FLOPs."""
    y, d_y = inputs
    same_shape(y, d_y)
    slope = (1 - y) * y
    return (np.multiply(slope, d_y, out=out(y.shape, real(y, d_y))),), 3 * y.size


def softcap(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """cap tanh(x / cap), within `cap` of 0.  3 n FLOPs.

    Source: Gemma Team 2024 (arXiv:2408.00118), section 2: logit soft-capping.

    >>> softcap((np.array([0.0, 1e9]),), {"cap": 30.0})[0][0].tolist()
    [0.0, 30.0]
    """
    (x,), cap = inputs, number(attributes, "cap")
    y = out(x.shape, real(x))
    for part, result in blocks(*flat(x, y)):
        np.divide(part, cap, out=result)
        np.tanh(result, out=result)
        np.multiply(result, cap, out=result)
    return (y,), 3 * x.size


def softcap_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `softcap` from (y, d_y): (1 - (y / cap)^2) d_y.  4 n FLOPs."""
    (y, d_y), cap = inputs, number(attributes, "cap")
    same_shape(y, d_y)
    d_x = out(y.shape, real(y, d_y))
    for part, d_part, result, t in blocks(*flat(y, d_y, d_x), scratch=1):
        np.divide(part, cap, out=t)
        np.multiply(t, t, out=t)
        np.subtract(1, t, out=t)
        np.multiply(t, d_part, out=result)
    return (d_x,), 4 * y.size


def dropout(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
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
    y, scale = out(x.shape, real(x)), 1 / (1 - p)
    for part, is_kept, result in blocks(*flat(x, mask, y)):
        np.multiply(part, is_kept, out=result)
        np.multiply(result, scale, out=result)
    return (y,), 2 * x.size


def add(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """a + b, of one shape (a scalar array too).  n FLOPs."""
    a, b = inputs
    same_shape(a, b)
    return (np.add(a, b, out=out(a.shape, joint(a, b))),), a.size


def cast(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """A copy: the declared itemsize changes, the numbers stay.  0 FLOPs.

    With attributes["end"] what lies at or past it along the last dim, which starts at attributes["offset"], becomes -inf: a softmax gives
    it no weight and no gradient.

    >>> cast((np.ones(3),), {"offset": 2, "end": 4})[0][0].tolist()
    [1.0, 1.0, -inf]
    """
    (x,) = inputs
    y = out(x.shape, x.dtype)
    y[...] = x
    if "end" in attributes:
        y[..., max(0, integer(attributes, "end") - integer(attributes, "offset")) :] = -np.inf
    return (y,), 0


def cast_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `cast`: a copy of d_y, which is 0 where x became -inf.  0 FLOPs."""
    return cast(inputs, {}, out)


def scale(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """scale x scores.  n FLOPs."""
    (scores,) = inputs
    return (np.multiply(scores, number(attributes, "scale"), out=out(scores.shape, real(scores))),), scores.size


def scale_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """scale x d_y, the gradient of `scale` and of `causal_scale` (masked elements have d_y = 0 after a softmax).  n FLOPs."""
    (d_y,) = inputs
    return (np.multiply(d_y, number(attributes, "scale"), out=out(d_y.shape, real(d_y))),), d_y.size


def shifted_exp(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """exp(x - m) from (x[.. V], m[..]).  2 n FLOPs."""
    x, m = _with_rows(inputs)
    y = out(x.shape, real(x, m))
    for part, maximum, result in blocks(*rows(x, m, y)):
        np.subtract(part, maximum, out=result)
        np.exp(result, out=result)
    return (y,), 2 * x.size


def normalize(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x / s from (x[.. V], s[..]).  n FLOPs."""
    x, s = _with_rows(inputs)
    return (np.divide(x, s, out=out(x.shape, real(x, s))),), x.size


@lru_cache(maxsize=4096)
def _spread(expr: str, x_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of b in which numpy repeats it over x."""
    (x_dims, b_dims), out_dims = terms(expr, 2)
    extents((x_dims, x_shape), (b_dims, b_shape))
    if out_dims != x_dims or tuple(d for d in x_dims if d in b_dims) != b_dims:
        raise ValueError(f"{expr!r} is no bias: the second operand and the output must keep the dims of the first")
    return tuple(extent if dim in b_dims else 1 for dim, extent in zip(x_dims, x_shape, strict=True))


def _with_rows(inputs: Sequence[Array]) -> tuple[Array, Array]:
    x, row = inputs
    if x.shape[:-1] != row.shape:
        raise ValueError(f"one value a row is needed: shapes {x.shape} and {row.shape}")
    return x, row[..., np.newaxis]


def gelu_tanh(x: Array, t: Array, scratch: Array) -> None:
    """Leave tanh(slope (x + cubic x^3)) in t."""
    np.multiply(x, x, out=scratch)
    np.multiply(scratch, x, out=scratch)
    np.multiply(scratch, _GELU_CUBIC, out=scratch)
    np.add(scratch, x, out=t)
    np.multiply(t, _GELU_SLOPE, out=t)
    np.tanh(t, out=t)


def gelu_slope(x: Array, share: Array, slope: Array, scratch: Array) -> None:
    """Leave GELU(x) / x and the slope of GELU."""
    gelu_tanh(x, share, slope)
    np.multiply(x, x, out=slope)
    np.multiply(slope, 3 * _GELU_CUBIC * _GELU_SLOPE / 2, out=slope)
    np.add(slope, _GELU_SLOPE / 2, out=slope)
    np.multiply(slope, x, out=slope)
    np.multiply(share, share, out=scratch)
    np.subtract(1, scratch, out=scratch)
    np.multiply(slope, scratch, out=slope)
    np.multiply(share, 0.5, out=share)
    np.add(share, 0.5, out=share)
    np.add(share, slope, out=slope)
