"""Gradient clipping and the weight updates, as pure functions: the machine writes the new state over the old."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parsim_kernels.signature import Array, Attributes, Result, integer, number, same_shape

_CLIP_EPSILON = 1e-6  # Source: PyTorch, torch.nn.utils.clip_grad_norm_


def clip(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """g x min(1, max_norm / (norm + 1e-6)) from (g, the squared norm of all gradients).  n FLOPs, n the elements of g.

    Source: Pascanu et al. 2013 (arXiv:1211.5063), algorithm 1; the 1e-6 is PyTorch's.

    >>> round(float(clip((np.array([3.0, 4.0]), np.array(25.0)), {"max_norm": 1.0})[0][0][0]), 5)
    0.6
    """
    g, total_norm_sq = inputs
    if total_norm_sq.ndim:
        raise ValueError(f"the squared norm is a scalar array, not of shape {total_norm_sq.shape}")
    share = number(attributes, "max_norm") / (math.sqrt(float(total_norm_sq)) + _CLIP_EPSILON)
    return (np.asarray(g * min(1.0, share)),), g.size


def adam(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """(weight, m, v) after one step of Adam with decoupled weight decay, from (weight, m, v, g).  12 n FLOPs.

    attributes: lr, beta1, beta2, eps, weight_decay, step (the first is 1).

    Raises:
        ValueError: the shapes differ, an attribute is missing, or step < 1.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), algorithm 1; Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2, for the decay.
    """
    weight, m, v, g = inputs
    same_shape(weight, m, v, g)
    lr, beta1, beta2, eps, decay = (number(attributes, name) for name in ("lr", "beta1", "beta2", "eps", "weight_decay"))
    step = integer(attributes, "step")
    if step < 1:
        raise ValueError(f"attribute 'step' is {step}; the first step is 1")
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    direction = m / (1 - beta1**step) / (np.sqrt(v / (1 - beta2**step)) + eps)
    return (weight - lr * (direction + decay * weight), m, v), 12 * weight.size


def sgd_momentum(inputs: Sequence[Array], attributes: Attributes) -> Result:
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
    velocity = number(attributes, "momentum") * velocity + g
    return (weight - number(attributes, "lr") * velocity, velocity), 4 * weight.size


def sgd(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """weight - lr x g from (weight, g).  2 n FLOPs."""
    weight, g = inputs
    same_shape(weight, g)
    return (weight - number(attributes, "lr") * g,), 2 * weight.size
