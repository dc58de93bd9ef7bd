"""Gradient clipping and the weight updates, block by block.  The i-th result may lie over the i-th input: the new state over the old."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parsim_kernels.blocks import blocks, flat
from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, integer, number, real, same_shape

_CLIP_EPSILON = 1e-6  # Source: PyTorch, torch.nn.utils.clip_grad_norm_


def clip(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """g x min(1, max_norm / (norm + 1e-6)) from (g, the squared norm of all gradients).  n FLOPs, n the elements of g.

    Source: Pascanu et al. 2013 (arXiv:1211.5063), algorithm 1; the 1e-6 is PyTorch's.

    >>> round(float(clip((np.array([3.0, 4.0]), np.array(25.0)), {"max_norm": 1.0})[0][0][0]), 5)
    0.6
    """
    g, total_norm_sq = inputs
    if total_norm_sq.ndim:
        raise ValueError(f"the squared norm is a scalar array, not of shape {total_norm_sq.shape}")
    share = number(attributes, "max_norm") / (math.sqrt(float(total_norm_sq)) + _CLIP_EPSILON)
    return (np.multiply(g, min(1.0, share), out=out(g.shape, real(g))),), g.size


def adam(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(weight, m, v) after one step of Adam with decoupled weight decay, from (weight, m, v, g).  12 n FLOPs.

    attributes: lr, beta1, beta2, eps, weight_decay, step (the first is 1).

    Raises:
        ValueError: the shapes differ, an attribute is missing, or step < 1.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), algorithm 1; Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2, for the decay.
    """
    weight, m, v, g = inputs
    same_shape(weight, m, v, g)
    lr, beta1, beta2, eps, decay = [number(attributes, name) for name in ("lr", "beta1", "beta2", "eps", "weight_decay")]
    step = integer(attributes, "step")
    if step < 1:
        raise ValueError(f"attribute 'step' is {step}; the first step is 1")
    new = tuple(out(weight.shape, real(array, g)) for array in (weight, m, v))
    parts = blocks(*flat(weight, m, v, g, *new), scratch=2)
    for w_old, m_old, v_old, g_part, w_new, m_new, v_new, t, direction in parts:
        np.multiply(g_part, 1 - beta1, out=t)
        np.multiply(m_old, beta1, out=m_new)
        np.add(m_new, t, out=m_new)
        np.multiply(g_part, 1 - beta2, out=t)
        np.multiply(t, g_part, out=t)
        np.multiply(v_old, beta2, out=v_new)
        np.add(v_new, t, out=v_new)
        np.divide(v_new, 1 - beta2**step, out=t)
        np.sqrt(t, out=t)
        np.add(t, eps, out=t)
        np.divide(m_new, 1 - beta1**step, out=direction)
        np.divide(direction, t, out=direction)
        np.multiply(w_old, decay, out=t)
        np.add(direction, t, out=direction)
        np.multiply(direction, lr, out=direction)
        np.subtract(w_old, direction, out=w_new)
    return new, 12 * weight.size


def sgd_momentum(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(weight, velocity) after one step of SGD with momentum, from (weight, velocity, g).  4 n FLOPs.

    attributes: lr, momentum.

    Raises:
        ValueError: the shapes differ, or an attribute is missing.

    Source: Sutskever et al. 2013 (ICML), Eq. 1, as PyTorch writes it: velocity <- momentum velocity + g, weight <- weight - lr velocity.

    >>> [out.tolist() for out in sgd_momentum((np.ones(1), np.ones(1), np.ones(1)), {"lr": 0.5, "momentum": 0.5})[0]]
    [[0.25], [1.5]]
    """
    weight, velocity, g = inputs
    same_shape(weight, velocity, g)
    lr, momentum = number(attributes, "lr"), number(attributes, "momentum")
    new_weight, new_velocity = (out(weight.shape, real(array, g)) for array in (weight, velocity))
    for w_old, v_old, g_part, w_new, v_new, t in blocks(*flat(weight, velocity, g, new_weight, new_velocity), scratch=1):
        np.multiply(v_old, momentum, out=t)
        np.add(t, g_part, out=v_new)
        np.multiply(v_new, lr, out=t)
        np.subtract(w_old, t, out=w_new)
    return (new_weight, new_velocity), 4 * weight.size


def sgd(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """weight - lr x g from (weight, g).  2 n FLOPs."""
    weight, g = inputs
    same_shape(weight, g)
    lr, new = number(attributes, "lr"), out(weight.shape, real(weight, g))
    for old, g_part, result, t in blocks(*flat(weight, g, new), scratch=1):
        np.multiply(g_part, lr, out=t)
        np.subtract(old, t, out=result)
    return (new,), 2 * weight.size
