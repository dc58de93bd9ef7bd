"""LayerNorm of each head with a scale of its own: x[B S ... C], gamma[... C], the heads being the dims between.  No shift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, real, same_shape

_EPSILON = 1e-5  # added to the variance.  Source: PyTorch, torch.nn.LayerNorm, default eps
_TOKENS = (0, 1)


def layer_norm_by_head(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """gamma (x - mean) / sqrt(variance + 1e-5) over the last dim, from (x, gamma).  6 n FLOPs.

    Source: Ba et al. 2016 (arXiv:1607.06450), section 3; huggingface/transformers, modeling_cohere.py (`CohereLayerNorm`), for the scales.
    """
    x, gamma = inputs
    _check(x, gamma)
    return (np.multiply(_standard(x)[0], gamma, out=out(x.shape, real(x, gamma))),), 6 * x.size


def layer_norm_by_head_grad_x(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x from (x, gamma, d_y).  13 n FLOPs.  Source: derived here, as `layer_norm_grad_x`."""
    x, gamma, d_y = inputs
    same_shape(x, d_y)
    _check(x, gamma)
    (standard, size), d = _standard(x), d_y * gamma
    d -= d.mean(axis=-1, keepdims=True) + standard * (d * standard).mean(axis=-1, keepdims=True)
    return (np.divide(d, size, out=out(x.shape, real(x, gamma, d_y))),), 13 * x.size


def layer_norm_by_head_grad_gamma(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_gamma from (x, d_y).  7 n FLOPs."""
    x, d_y = inputs
    same_shape(x, d_y)
    return (np.sum(_standard(x)[0] * d_y, axis=_TOKENS, out=out(x.shape[2:], real(x, d_y))),), 7 * x.size


def _standard(x: Array) -> tuple[Array, Array]:
    """Rows at mean 0 and variance 1, and what they were divided by."""
    apart = x - x.mean(axis=-1, keepdims=True)
    size = np.sqrt(np.square(apart).mean(axis=-1, keepdims=True) + _EPSILON)
    return apart / size, size


def _check(x: Array, gamma: Array) -> None:
    if gamma.shape != x.shape[2:]:
        raise ValueError(f"gamma of shape {gamma.shape} does not fit the heads of {x.shape}")
