"""Nonlinearities of two inputs, one of which gates the other, and their gradients: as pointwise.py has those of one.

n in the FLOP counts is the elements of the first input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim_kernels.blocks import blocks, flat
from parsim_kernels.pointwise import gelu_slope, gelu_tanh
from parsim_kernels.signature import Array, Attributes, KernelResult, Out, fresh, real, same_shape

# The SwiGLU of gpt-oss.  Source: openai/gpt-oss, gpt_oss/torch/model.py (`swiglu`: alpha and limit).
_CLAMPED_SLOPE, _CLAMP = 1.702, 7.0


def swiglu(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """gate x sigmoid(gate) x up from (gate, up).  5 n FLOPs.

    Source: Shazeer 2020 (arXiv:2002.05202), section 2: Swish with beta = 1.

    >>> swiglu((np.array([0.0]), np.array([3.0])), {})[0][0].tolist()
    [0.0]
    """
    gate, up = inputs
    same_shape(gate, up)
    y = out(gate.shape, real(gate, up))
    for part, up_part, result, t in blocks(*flat(gate, up, y), scratch=1):
        np.negative(part, out=t)
        np.exp(t, out=t)
        np.add(t, 1, out=t)
        np.divide(part, t, out=t)
        np.multiply(t, up_part, out=result)
    return (y,), 5 * gate.size


def swiglu_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(d_gate, d_up) of `swiglu` from (gate, up, d_y).  11 n FLOPs.  Source: derived here, by the product rule."""
    gate, up, d_y = inputs
    same_shape(gate, up, d_y)
    dtype = real(gate, up, d_y)
    d_gate, d_up = out(gate.shape, dtype), out(gate.shape, dtype)
    for gate_part, up_part, d_part, d_gate_part, d_up_part, sigmoid, swish, slope in blocks(*flat(gate, up, d_y, d_gate, d_up), scratch=3):
        np.negative(gate_part, out=sigmoid)
        np.exp(sigmoid, out=sigmoid)
        np.add(sigmoid, 1, out=sigmoid)
        np.divide(1, sigmoid, out=sigmoid)
        np.multiply(gate_part, sigmoid, out=swish)
        np.subtract(1, sigmoid, out=slope)
        np.multiply(swish, slope, out=slope)
        np.add(sigmoid, slope, out=slope)
        np.multiply(d_part, up_part, out=sigmoid)
        np.multiply(sigmoid, slope, out=d_gate_part)
        np.multiply(d_part, swish, out=d_up_part)
    return (d_gate, d_up), 11 * gate.size


def geglu(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """GELU(gate) x up from (gate, up).  9 n FLOPs.

    Source: Shazeer 2020 (arXiv:2002.05202), section 2.

    >>> geglu((np.array([0.0]), np.array([3.0])), {})[0][0].tolist()
    [0.0]
    """
    gate, up = inputs
    same_shape(gate, up)
    y = out(gate.shape, real(gate, up))
    for part, up_part, result, t, half in blocks(*flat(gate, up, y), scratch=2):
        gelu_tanh(part, t, half)
        np.add(t, 1, out=t)
        np.multiply(part, 0.5, out=half)
        np.multiply(half, t, out=t)
        np.multiply(t, up_part, out=result)
    return (y,), 9 * gate.size


def geglu_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(d_gate, d_up) of `geglu` from (gate, up, d_y).  19 n FLOPs.  Source: derived here, by the product rule."""
    gate, up, d_y = inputs
    same_shape(gate, up, d_y)
    dtype = real(gate, up, d_y)
    d_gate, d_up = out(gate.shape, dtype), out(gate.shape, dtype)
    for part, up_part, d_part, d_gate_part, d_up_part, t, slope, active in blocks(*flat(gate, up, d_y, d_gate, d_up), scratch=3):
        gelu_slope(part, t, slope, active)
        np.multiply(part, t, out=active)
        np.multiply(d_part, up_part, out=t)
        np.multiply(t, slope, out=d_gate_part)
        np.multiply(d_part, active, out=d_up_part)
    return (d_gate, d_up), 19 * gate.size


def clamped_swiglu(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """gate x sigmoid(1.702 gate) x (up + 1) from (gate, up), the gate at most 7 and up within 7 of 0.  9 n FLOPs.

    Source: openai/gpt-oss, gpt_oss/torch/model.py (`swiglu`).

    >>> clamped_swiglu((np.array([0.0]), np.array([3.0])), {})[0][0].tolist()
    [0.0]
    """
    gate, up = inputs
    same_shape(gate, up)
    y = out(gate.shape, real(gate, up))
    for part, up_part, result, own, sigmoid, shifted in blocks(*flat(gate, up, y), scratch=3):
        _clamp(part, up_part, own, sigmoid, shifted)
        np.multiply(own, sigmoid, out=own)
        np.multiply(own, shifted, out=result)
    return (y,), 9 * gate.size


def clamped_swiglu_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(d_gate, d_up) of `clamped_swiglu` from (gate, up, d_y); 0 where clamped.  18 n FLOPs.  Source: derived here, by the product rule."""
    gate, up, d_y = inputs
    same_shape(gate, up, d_y)
    dtype = real(gate, up, d_y)
    d_gate, d_up = out(gate.shape, dtype), out(gate.shape, dtype)
    for gate_part, up_part, d_part, d_gate_part, d_up_part, own, sigmoid, shifted in blocks(*flat(gate, up, d_y, d_gate, d_up), scratch=3):
        _clamp(gate_part, up_part, own, sigmoid, shifted)
        slope = sigmoid + _CLAMPED_SLOPE * own * sigmoid * (1 - sigmoid)
        is_free, is_free_up = gate_part < _CLAMP, np.abs(up_part) < _CLAMP
        np.multiply(d_part * is_free_up, own * sigmoid, out=d_up_part)
        np.multiply(d_part * is_free, shifted * slope, out=d_gate_part)
    return (d_gate, d_up), 18 * gate.size


def _clamp(gate: Array, up: Array, own: Array, sigmoid: Array, shifted: Array) -> None:
    """Leave the clamped gate, its sigmoid and the clamped up + 1."""
    np.minimum(gate, _CLAMP, out=own)
    np.multiply(own, -_CLAMPED_SLOPE, out=sigmoid)
    np.exp(sigmoid, out=sigmoid)
    np.add(sigmoid, 1, out=sigmoid)
    np.divide(1, sigmoid, out=sigmoid)
    np.clip(up, -_CLAMP, _CLAMP, out=shifted)
    np.add(shifted, 1, out=shifted)
