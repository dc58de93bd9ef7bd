"""Keys of latent attention: a part of each head's own, and behind it one that all heads share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, integer, real, same_shape


def append(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """[B S K C] from own[B S K n] and shared[B S r], C = n + r.  0 FLOPs.

    Raises:
        ValueError: the shapes do not fit.

    Source: DeepSeek-AI 2024 (arXiv:2405.04434), Eq. 17.

    >>> append((np.zeros((1, 1, 2, 1)), np.ones((1, 1, 1))), {})[0][0].tolist()
    [[[[0.0, 1.0], [0.0, 1.0]]]]
    """
    own, shared = inputs
    same_shape(own[..., 0, 0], shared[..., 0])
    width = own.shape[-1]
    y = out((*own.shape[:-1], width + shared.shape[-1]), real(own, shared))
    y[..., :width] = own
    y[..., width:] = shared[..., np.newaxis, :]
    return (y,), 0


def append_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(d_own, d_shared) of `append` from d_y[B S K C], the last attributes["part"] elements of a head being shared: B S K part FLOPs."""
    (d_y,) = inputs
    part = integer(attributes, "part")
    d_own, d_shared = out((*d_y.shape[:-1], d_y.shape[-1] - part), real(d_y)), out((*d_y.shape[:-2], part), real(d_y))
    d_own[...] = d_y[..., :-part]
    np.add.reduce(d_y[..., -part:], axis=-2, out=d_shared)
    return (d_own, d_shared), d_y[..., -part:].size
