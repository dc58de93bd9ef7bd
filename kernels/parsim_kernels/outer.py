"""What replicas that train apart make of the sum of their weights.  The i-th result may lie over the i-th input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim_kernels.blocks import blocks, flat
from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, number, real, same_shape


def average(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The mean of the weights of `replicas`, from their sum.  n FLOPs.

    Source: Stich 2018 (arXiv:1805.09767), algorithm 1.

    >>> average((np.array([3.0]),), {"replicas": 2})[0][0].tolist()
    [1.5]
    """
    (total,) = inputs
    return (np.multiply(total, 1 / number(attributes, "replicas"), out=out(total.shape, real(total))),), total.size


def outer_nesterov(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(weight, anchor, velocity) after an outer step, from (sum of the weights of `replicas`, anchor, velocity).  8 n FLOPs.

    The anchor is the weight that all replicas began with; what they moved it by on average is the gradient.

    attributes: replicas, lr, momentum.

    Raises:
        ValueError: the shapes differ, or an attribute is missing.

    Source: Douillard et al. 2023 (arXiv:2311.08105), algorithm 1, with Nesterov's momentum as PyTorch writes it (torch.optim.SGD):
    velocity <- momentum velocity + g, anchor <- anchor - lr (g + momentum velocity).

    >>> [out.tolist() for out in outer_nesterov((np.ones(1), np.ones(1), np.ones(1)), {"replicas": 2, "lr": 0.5, "momentum": 0.5})[0]]
    [[0.5], [0.5], [1.0]]
    """
    total, anchor, velocity = inputs
    same_shape(total, anchor, velocity)
    share, lr, momentum = 1 / number(attributes, "replicas"), number(attributes, "lr"), number(attributes, "momentum")
    new = tuple(out(total.shape, real(array, total)) for array in (total, anchor, velocity))
    for w_sum, a_old, v_old, w_new, a_new, v_new, g, t in blocks(*flat(total, anchor, velocity, *new), scratch=2):
        np.multiply(w_sum, share, out=g)
        np.subtract(a_old, g, out=g)
        np.multiply(v_old, momentum, out=t)
        np.add(t, g, out=v_new)
        np.multiply(v_new, momentum, out=t)
        np.add(t, g, out=t)
        np.multiply(t, lr, out=t)
        np.subtract(a_old, t, out=a_new)
        np.copyto(w_new, a_new)
    return new, 8 * total.size
