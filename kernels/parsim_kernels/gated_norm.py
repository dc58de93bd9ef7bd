"""An RMSNorm over each group of heads, of what a gate leaves, as behind the scan of Mamba-2.

Shapes: x, z, y [B, S, g, h, p]; gamma [g, h, p].  n is the elements of x.
Source: state-spaces/mamba, mamba_ssm/ops/triton/layernorm_gated.py (rms_norm_ref with norm_before_gate = False).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, real, same_shape

_EPSILON = 1e-5


def gated_rms_norm(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """gamma u / sqrt(mean of u^2 over a group + 1e-5), u = x silu(z), from (x, z, gamma).  9 n FLOPs.

    >>> ones = np.ones((1, 1, 1, 1, 2))
    >>> gated_rms_norm((3 * ones, 2 * ones, ones[0, 0]), {})[0][0].round(4).ravel().tolist()
    [1.0, 1.0]
    """
    x, z, gamma = inputs
    gated = _gate_product(x, z)
    _check(x, gamma)
    return (np.multiply(gated * _inverse(gated), gamma, out=out(x.shape, real(*inputs))),), 9 * x.size


def gated_rms_norm_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(d_x, d_z) of `gated_rms_norm` from (x, z, gamma, d_y).  21 n FLOPs.

    Source: derived here: that of `rms_norm`, and the product rule, as in `swiglu`.
    """
    x, z, gamma, d_y = inputs
    gated = _gate_product(x, z)
    same_shape(x, d_y)
    _check(x, gamma)
    inverse = _inverse(gated)
    unit, d_unit = gated * inverse, d_y * gamma
    d_gated = (d_unit - unit * (d_unit * unit).mean((-2, -1), keepdims=True)) * inverse
    share, dtype = 1 / (1 + np.exp(-z)), real(*inputs)
    d_x = np.multiply(d_gated, z * share, out=out(x.shape, dtype))
    d_z = np.multiply(d_gated * x, share * (1 + z * (1 - share)), out=out(z.shape, dtype))
    return (d_x, d_z), 21 * x.size


def gated_rms_norm_grad_gamma(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_gamma of `gated_rms_norm` from (x, z, d_y).  10 n FLOPs."""
    x, z, d_y = inputs
    gated = _gate_product(x, z)
    same_shape(x, d_y)
    return (np.sum(gated * _inverse(gated) * d_y, axis=(0, 1), out=out(x.shape[2:], real(*inputs))),), 10 * x.size


def _gate_product(x: Array, z: Array) -> Array:
    same_shape(x, z)
    return np.asarray(x * z / (1 + np.exp(-z)))


def _inverse(gated: Array) -> Array:
    """1 / the root of the mean square, by group."""
    return np.asarray(1 / np.sqrt((gated * gated).mean((-2, -1), keepdims=True) + _EPSILON))


def _check(x: Array, gamma: Array) -> None:
    if gamma.shape != x.shape[2:]:
        raise ValueError(f"gamma of shape {gamma.shape} does not fit {x.shape}")
