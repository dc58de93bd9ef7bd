"""The table of all kernels by name.  A new op kind is a function in one of these files and an entry here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from parsim_kernels import attention, contraction, experts, latent, lookup, narrow, optimizer, pointwise, reduction
from parsim_kernels.signature import Kernel

KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        "einsum": contraction.einsum,
        "bias": pointwise.bias,
        "sum_to": reduction.sum_to,
        "layer_norm": reduction.layer_norm,
        "layer_norm_grad_x": reduction.layer_norm_grad_x,
        "layer_norm_grad_gamma": reduction.layer_norm_grad_gamma,
        "rms_norm": reduction.rms_norm,
        "rms_norm_grad_x": reduction.rms_norm_grad_x,
        "rms_norm_grad_gamma": reduction.rms_norm_grad_gamma,
        "rms_normalize": reduction.rms_normalize,
        "rms_normalize_grad": reduction.rms_normalize_grad,
        "gain": reduction.gain,
        "gain_grad": reduction.gain_grad,
        "gelu": pointwise.gelu,
        "gelu_grad": pointwise.gelu_grad,
        "relu": pointwise.relu,
        "relu_grad": pointwise.relu_grad,
        "squared_relu": pointwise.squared_relu,
        "squared_relu_grad": pointwise.squared_relu_grad,
        "swiglu": pointwise.swiglu,
        "swiglu_grad": pointwise.swiglu_grad,
        "silu": pointwise.silu,
        "silu_grad": pointwise.silu_grad,
        "multiply": pointwise.multiply,
        "tanh": pointwise.tanh,
        "tanh_grad": pointwise.tanh_grad,
        "dropout": pointwise.dropout,
        "add": pointwise.add,
        "cast": pointwise.cast,
        "cast_grad": pointwise.cast_grad,
        "causal_softmax": attention.causal_softmax,
        "causal_softmax_grad": attention.causal_softmax_grad,
        "causal_scale": attention.causal_scale,
        "scaled_softmax": attention.scaled_softmax,
        "scale": pointwise.scale,
        "scale_grad": pointwise.scale_grad,
        "softmax": reduction.softmax,
        "softmax_grad": reduction.softmax_grad,
        "flash_attention": attention.flash_attention,
        "flash_attention_more": attention.flash_attention_more,
        "flash_attention_grad": attention.flash_attention_grad,
        "lookup": lookup.lookup,
        "lookup_grad": lookup.lookup_grad,
        "position": lookup.position,
        "position_grad": lookup.position_grad,
        "first": lookup.first,
        "first_grad": lookup.first_grad,
        "take": lookup.take,
        "join": lookup.join,
        "flatten": lookup.flatten,
        "unflatten": lookup.unflatten,
        "permute": experts.permute,
        "unpermute": experts.unpermute,
        "route": experts.route,
        "balance_loss": experts.balance_loss,
        "balance_loss_grad": experts.balance_loss_grad,
        "route_dropping_grad": experts.route_dropping_grad,
        "route_sigmoid_dropping_grad": experts.route_sigmoid_dropping_grad,
        "route_grad": experts.route_grad,
        "route_sigmoid": experts.route_sigmoid,
        "route_sigmoid_grad": experts.route_sigmoid_grad,
        "grouped_gemm": experts.grouped_gemm,
        "weigh": experts.weigh,
        "weigh_grad": experts.weigh_grad,
        "weighted_swiglu": experts.weighted_swiglu,
        "weighted_swiglu_grad": experts.weighted_swiglu_grad,
        "rotary": lookup.rotary,
        "rotary_grad": lookup.rotary_grad,
        "append": latent.append,
        "append_grad": latent.append_grad,
        "row_max": reduction.row_max,
        "pick": lookup.pick,
        "shifted_exp": pointwise.shifted_exp,
        "row_sum": reduction.row_sum,
        "normalize": pointwise.normalize,
        "token_loss": reduction.token_loss,
        "loss_sum": reduction.loss_sum,
        "nll_loss_grad": lookup.nll_loss_grad,
        "cross_entropy_grad": lookup.cross_entropy_grad,
        "absmax": narrow.absmax,
        "quantise": narrow.quantise,
        "norm_sq": reduction.norm_sq,
        "clip": optimizer.clip,
        "adam": optimizer.adam,
        "sgd": optimizer.sgd,
        "sgd_momentum": optimizer.sgd_momentum,
    }
)

# Their i-th result may lie over their i-th input, element by element; any other kernel in place takes a detour through the pool.
OVERLAYS: frozenset[str] = frozenset(
    {"rms_normalize", "rms_normalize_grad", "gain", "silu", "silu_grad", "multiply"}
    | {"bias", "layer_norm", "layer_norm_grad_x", "rms_norm", "rms_norm_grad_x", "gelu", "gelu_grad", "relu", "relu_grad", "squared_relu"}
    | {
        "squared_relu_grad",
        "swiglu",
        "swiglu_grad",
        "tanh",
        "tanh_grad",
        "dropout",
        "add",
        "cast",
        "cast_grad",
        "causal_softmax",
        "causal_scale",
    }
    | {"causal_softmax_grad", "scaled_softmax", "scale", "scale_grad", "softmax", "softmax_grad", "position", "rotary", "rotary_grad"}
    | {"shifted_exp", "normalize", "token_loss", "cross_entropy_grad", "clip", "adam", "sgd", "sgd_momentum"}
)
