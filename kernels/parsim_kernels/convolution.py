"""A convolution along the sequence, each channel by itself, with SiLU behind it, as before the scan of Mamba.

Shapes: x, y [B, S, g, f]; weight [g, f, k], whose last column multiplies the token itself; bias [g, f].  n is the elements of x.
Source: Dao-AILab/causal-conv1d, causal_conv1d/causal_conv1d_interface.py (causal_conv1d_ref).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, real, same_shape


def causal_conv(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """silu(bias + the sum of weight[..., i] x of the i-th of the last k tokens) from (x, weight, bias).  (2 k + 4) n FLOPs.

    >>> x, weight = np.array([0.0, 4.0, 0.0]).reshape(1, 3, 1, 1), np.array([[[0.5, 0.25]]])
    >>> causal_conv((x, weight, np.zeros((1, 1))), {})[0][0].round(4).ravel().tolist()
    [0.0, 0.7311, 1.7616]
    """
    x, weight, _ = inputs
    before = _silu_input(inputs)
    y = out(x.shape, real(*inputs))
    return (np.divide(before, 1 + np.exp(-before), out=y),), (2 * weight.shape[-1] + 4) * x.size


def causal_conv_grad_x(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `causal_conv` from (x, weight, bias, d_y); what SiLU takes is made again.  (4 k + 9) n FLOPs."""
    x, weight, _, _ = inputs
    d_before, d_x = _slope(inputs), out(x.shape, real(*inputs))
    d_x.fill(0)
    for column, now, past in _columns(x, weight):
        d_x[:, past] += d_before[:, now] * column
    return (d_x,), (4 * weight.shape[-1] + 9) * x.size


def causal_conv_grad_weight(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_weight of `causal_conv` from (x, weight, bias, d_y).  (4 k + 9) n FLOPs."""
    x, weight, _, _ = inputs
    d_before, d_weight = _slope(inputs), out(weight.shape, real(*inputs))
    for place, (_, now, past) in enumerate(_columns(x, weight)):
        d_weight[..., place] = np.einsum("bsgf,bsgf->gf", d_before[:, now], x[:, past])
    return (d_weight,), (4 * weight.shape[-1] + 9) * x.size


def causal_conv_grad_bias(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_bias of `causal_conv` from (x, weight, bias, d_y).  (2 k + 10) n FLOPs."""
    x, weight, bias, _ = inputs
    return (np.sum(_slope(inputs), axis=(0, 1), out=out(bias.shape, real(*inputs))),), (2 * weight.shape[-1] + 10) * x.size


def _columns(x: Array, weight: Array) -> Iterator[tuple[Array, slice, slice]]:
    """Each column of the weight, the tokens that it makes a part of, and those that it multiplies for that."""
    for place in range(weight.shape[-1]):
        back = min(weight.shape[-1] - 1 - place, x.shape[1])
        yield weight[..., place], slice(back, None), slice(None, x.shape[1] - back)


def _silu_input(inputs: Sequence[Array]) -> Array:
    """What SiLU takes."""
    x, weight, bias = inputs[:3]
    if weight.shape[:-1] != x.shape[2:] or bias.shape != x.shape[2:]:
        raise ValueError(f"weight {weight.shape} and bias {bias.shape} do not fit x {x.shape}")
    found = np.broadcast_to(bias, x.shape).astype(real(x, weight, bias))
    for column, now, past in _columns(x, weight):
        found[:, now] += x[:, past] * column
    return found


def _slope(inputs: Sequence[Array]) -> Array:
    """The gradient of what SiLU takes."""
    before, d_y = _silu_input(inputs), inputs[3]
    same_shape(before, d_y)
    share = 1 / (1 + np.exp(-before))
    return np.asarray(d_y * share * (1 + before * (1 - share)))
