"""What each op kind computes: forward kernel, gradients, FLOPs.  The same kernels are written a second time, with numpy, in
parsim_kernels: there FLOPs are counted from arrays at call time, here predicted, and `parsim verify` compares the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from parsim.model.op import Gradient


class Kind(Struct, frozen=True):
    """An op kind: which kernel runs forward, and how each differentiable input gets its gradient."""

    kernel: str
    gradients: tuple[Gradient, ...] = ()
    operator: str = "sum"  # how shards of a contracted dim combine


class Cost(Struct, frozen=True):
    """FLOPs of a kernel: `per_element` for each element of input `operand`; contraction and attention have their own rule."""

    per_element: int = 0
    operand: int = 0
    told: bool = False  # the attribute "flops" says it, in place of per_element
    family: str = "elementwise"  # gemm | attention | scan | elementwise
    skips: tuple[int, ...] = ()  # inputs of which only the shape is seen: no HBM traffic of their own
    picks: tuple[int, ...] = ()  # inputs of which as many elements are read as written: what is looked up, not all that is there
    matmuls: tuple[int, ...] = ()  # of attention: over the width of keys, and over that of values; of a scan see cost.scan
    positions: tuple[int, ...] = ()  # inputs of which a row is read for each position of the first input, whose first dim is the batch


_IDENTITY_0 = Gradient("x0")
_IDENTITY_1 = Gradient("x1")

# By kind, where there is a gradient; a kernel has the name of its kind.
_GRADIENTS: Final[Mapping[str, tuple[Gradient, ...]]] = {
    "relabel": (_IDENTITY_0,),
    "einsum": (Gradient("x0", "einsum", ("dy", "x1")), Gradient("x1", "einsum", ("dy", "x0"))),
    "bias": (_IDENTITY_0, Gradient("x1", "sum_to")),
    "layer_norm": (
        Gradient("x0", "layer_norm_grad_x", ("x0", "x1", "dy")),
        Gradient("x1", "layer_norm_grad_gamma", ("x0", "dy")),
        Gradient("x2", "sum_to"),
    ),
    "unshifted_layer_norm": (
        Gradient("x0", "layer_norm_grad_x", ("x0", "x1", "dy")),
        Gradient("x1", "layer_norm_grad_gamma", ("x0", "dy")),
    ),
    "layer_norm_by_head": (
        Gradient("x0", "layer_norm_by_head_grad_x", ("x0", "x1", "dy")),
        Gradient("x1", "layer_norm_by_head_grad_gamma", ("x0", "dy")),
    ),
    "rms_norm": (Gradient("x0", "rms_norm_grad_x", ("x0", "x1", "dy")), Gradient("x1", "rms_norm_grad_gamma", ("x0", "dy"))),
    "gain": (Gradient("x0", "gain", ("dy", "x1")), Gradient("x1", "gain_grad", ("x0", "dy"))),
    "square_sum": (Gradient("x0", "square_sum_grad", ("x0", "dy")),),
    "rms_normalize_by": (
        Gradient("x0", "rms_normalize_by", ("dy", "x1")),
        Gradient("x1", "rms_normalize_by_grad_sum", ("x0", "x1", "dy")),
    ),
    "rms_norm_by": (
        Gradient("x0", "rms_norm_by", ("dy", "x1", "x2")),
        Gradient("x1", "rms_norm_by_grad_sum", ("x0", "x1", "x2", "dy")),
        Gradient("x2", "rms_norm_by_grad_gamma", ("x0", "x1", "dy")),
    ),
    "gain_by_head": (Gradient("x0", "gain_by_head", ("dy", "x1")), Gradient("x1", "gain_by_head_grad", ("x0", "dy"))),
    "multiply": (Gradient("x0", "multiply", ("dy", "x1")), Gradient("x1", "multiply", ("dy", "x0"))),
    "cast": (Gradient("x0", "cast_grad"),),
    **{name: (Gradient("x0", f"{name}_grad", ("x0", "dy")),) for name in ("rms_normalize", "silu", "gelu", "quick_gelu", "squared_relu")},
    **{name: (Gradient("x0 x1", f"{name}_grad", ("x0", "x1", "dy")),) for name in ("swiglu", "geglu", "clamped_swiglu")},
    **{name: (Gradient("x0", f"{name}_grad"),) for name in ("rotary", "first", "scale")},
    **{
        name: (Gradient("x0", f"{name}_grad", ("y0", "dy")),)
        for name in ("tanh", "relu", "sigmoid", "softcap", "causal_softmax", "softmax")
    },
    "alibi": (_IDENTITY_0,),
    "append": (Gradient("x0 x1", "append_grad"),),
    "flatten": (Gradient("x0", "unflatten"),),
    "unflatten": (Gradient("x0", "flatten"),),
    "permute": (Gradient("x0", "unpermute"),),
    "unpermute": (Gradient("x0", "permute"),),
    "grouped_gemm": (Gradient("x0", "grouped_gemm", ("dy", "x1")), Gradient("x1", "grouped_gemm", ("dy", "x0"))),
    "weigh": (Gradient("x0", "weigh", ("dy", "x1")), Gradient("x1", "weigh_grad", ("x0", "dy"))),
    **{
        f"weighted_{name}": (Gradient("x0 x1 x2", f"weighted_{name}_grad", ("x0", "x1", "x2", "dy")),)
        for name in ("swiglu", "geglu", "clamped_swiglu")
    },
    "weighted_squared_relu": (Gradient("x0 x1", "weighted_squared_relu_grad", ("x0", "x1", "dy")),),
    "expert_bias": (_IDENTITY_0, Gradient("x1", "expert_bias_grad")),
    "weighted_expert_bias": (
        _IDENTITY_0,
        Gradient("x1", "weighted_expert_bias_grad", ("dy", "x2")),
        Gradient("x2", "weighted_expert_bias_grad_gates", ("x1", "dy")),
    ),
    "xielu": (
        Gradient("x0", "xielu_grad", ("x0", "x1", "x2", "dy")),
        Gradient("x1", "xielu_grad_p", ("x0", "x1", "dy")),
        Gradient("x2", "xielu_grad_n", ("x0", "x2", "dy")),
    ),
    "expert_scale": (Gradient("x0", "expert_scale", ("dy", "x1")), Gradient("x1", "expert_scale_grad", ("x0", "dy"))),
    "sink_softmax": (Gradient("x0", "softmax_grad", ("y0", "dy")), Gradient("x1", "sink_softmax_grad", ("y0", "dy"))),
    "repeat": (Gradient("x0", "sum_to"),),
    "excerpt": (Gradient("x0", "excerpt_grad"),),
    "prepend": (Gradient("x0", "prepend_grad"), Gradient("x1", "first", attributes=(("offset", 0),))),
    "softplus": (Gradient("x0", "softplus_grad", ("x0", "dy")),),
    "decay": (Gradient("x0", "decay", ("dy", "x1")), Gradient("x1", "decay_grad", ("x0", "x1", "dy"))),
    "scan": (
        Gradient("x0 x1 x2", "scan_grad", ("x0", "x1", "x2", "x3", "dy")),
        Gradient("x3", "scan_skip_grad", ("x0", "dy"), ()),
    ),
    "gated_rms_norm": (
        Gradient("x0 x1", "gated_rms_norm_grad", ("x0", "x1", "x2", "dy")),
        Gradient("x2", "gated_rms_norm_grad_gamma", ("x0", "x1", "dy")),
    ),
    "dropout": (Gradient("x0", "dropout", ("dy", "x1")),),
    "add": (_IDENTITY_0, _IDENTITY_1),
    "causal_scale": (Gradient("x0", "scale_grad"),),
    "scaled_softmax": (Gradient("x0", "causal_softmax_grad", ("y0", "dy")),),
    "flash_attention": (Gradient("x0 x1 x2", "flash_attention_grad", ("x0", "x1", "x2", "y0", "y1", "dy")),),
    "lookup": (Gradient("x1", "lookup_grad", ("x0", "dy", "x1")),),
    "sinusoid": (_IDENTITY_0,),
    "position": (_IDENTITY_0, Gradient("x1", "position_grad", ("dy", "x1"))),
    "relative_biases": (Gradient("x0", "relative_biases_grad", ("x0", "dy")),),
}
# Masks, tokens and labels: an input that comes to life where it is first needed.  The steps of the loss are differentiated as one
# (softmax minus one-hot), so they have no gradients of their own.
_WITHOUT_GRADIENT: Final = ("draw", "pick", "shifted_exp", "row_sum", "normalize", "token_loss", "loss_sum")
# Ops that state their gradients themselves, or have none.
_WITH_OWN: Final = ("balance_loss", "route", "count_choices", "causal_conv", "join")

KINDS: Final = {
    **{name: Kind(name, gradients) for name, gradients in _GRADIENTS.items()},
    **{name: Kind(name) for name in (*_WITHOUT_GRADIENT, *_WITH_OWN)},
    "row_max": Kind("row_max", operator="max"),
    "sink_attention": Kind("flash_attention", (*_GRADIENTS["flash_attention"], Gradient("x3", "sinks_grad", ("y0", "dy", "y1", "x3"), ()))),
}

PART: Final = "part"  # the attribute of kernels that work on the last elements of each row only: how many
GEMMS: Final = ("einsum", "grouped_gemm")  # kernels that can add into their output at no cost

COSTS: Final = {
    "einsum": Cost(family="gemm"),  # 2 x the product of the extents of all dims
    **dict.fromkeys(("bias", "sum_to"), Cost(1)),
    "layer_norm": Cost(7),  # mean, centre, square, variance, scale, gamma, beta
    "unshifted_layer_norm": Cost(6),
    "layer_norm_grad_x": Cost(13),  # the statistics again, two means over D, their combination
    "layer_norm_grad_gamma": Cost(7),
    "layer_norm_by_head": Cost(6),  # as those of whole rows
    **{"layer_norm_by_head_grad_x": Cost(13), "layer_norm_by_head_grad_gamma": Cost(7)},
    "rms_norm": Cost(4),  # square, mean, scale, gamma
    "rms_norm_grad_x": Cost(9),  # the root mean square and the scaled x again, gamma, a mean over D, the projection
    "rms_norm_grad_gamma": Cost(5),
    **{"rms_normalize": Cost(3), "rms_normalize_grad": Cost(8), "gain": Cost(1), "gain_grad": Cost(2)},
    **{"square_sum": Cost(2), "square_sum_grad": Cost(1), "rms_normalize_by": Cost(1), "rms_normalize_by_grad_sum": Cost(2)},
    **{"rms_norm_by": Cost(2), "rms_norm_by_grad_sum": Cost(3), "rms_norm_by_grad_gamma": Cost(3)},
    **{"gain_by_head": Cost(1), "gain_by_head_grad": Cost(2)},
    **{"silu": Cost(4), "silu_grad": Cost(9), "multiply": Cost(1)},
    **{"quick_gelu": Cost(5), "quick_gelu_grad": Cost(10)},
    **{"gelu": Cost(8), "gelu_grad": Cost(16), "relu": Cost(1), "relu_grad": Cost(1)},
    **{"squared_relu": Cost(2), "squared_relu_grad": Cost(3), "swiglu": Cost(5), "swiglu_grad": Cost(11)},
    **{"sigmoid": Cost(3), "sigmoid_grad": Cost(3), "softcap": Cost(3), "softcap_grad": Cost(4)},
    **{"geglu": Cost(9), "geglu_grad": Cost(19), "weighted_geglu": Cost(10), "weighted_geglu_grad": Cost(31)},
    **{"clamped_swiglu": Cost(9), "clamped_swiglu_grad": Cost(18), "sink_softmax": Cost(5), "sink_softmax_grad": Cost(3)},
    **{"sinks_grad": Cost(2), "weighted_clamped_swiglu": Cost(10), "weighted_clamped_swiglu_grad": Cost(30)},
    **{"weighted_squared_relu": Cost(3), "weighted_squared_relu_grad": Cost(8)},
    **{"expert_bias": Cost(1), "expert_bias_grad": Cost(1), "weighted_expert_bias": Cost(2), "weighted_expert_bias_grad": Cost(2)},
    "weighted_expert_bias_grad_gates": Cost(2, operand=1),
    **{"xielu": Cost(8), "xielu_grad": Cost(9), "xielu_grad_p": Cost(4), "xielu_grad_n": Cost(6)},
    **{"expert_scale": Cost(1), "expert_scale_grad": Cost(2)},
    **{"append": Cost(0), "append_grad": Cost(1)},  # the part that all heads share, as an attribute says
    "alibi": Cost(2),  # a slope times a distance, and a sum
    "rotary": Cost(3),  # 4 multiplications and 2 additions turn a pair
    **{"rotary_grad": Cost(3), "tanh": Cost(1), "tanh_grad": Cost(3), "first": Cost(0, picks=(0,)), "first_grad": Cost(0)},
    **{"dropout": Cost(2), "add": Cost(1), "causal_softmax": Cost(5), "causal_softmax_grad": Cost(4), "causal_scale": Cost(1)},
    **{"scale": Cost(1), "scaled_softmax": Cost(5), "softmax": Cost(5), "softmax_grad": Cost(4), "scale_grad": Cost(1)},
    "flash_attention": Cost(family="attention", matmuls=(1, 1)),  # each 2 x a width x unmasked pairs
    "flash_attention_more": Cost(family="attention", matmuls=(1, 1)),  # as much of another block of keys
    "flash_attention_grad": Cost(family="attention", matmuls=(3, 2)),  # Dao et al. 2022 (arXiv:2205.14135), algorithm 4
    **{"repeat": Cost(0, skips=(1,)), "prepend": Cost(0), "prepend_grad": Cost(0, picks=(0,))},
    **{"excerpt": Cost(0, picks=(0,)), "excerpt_grad": Cost(0)},
    **{"softplus": Cost(3), "softplus_grad": Cost(4), "decay": Cost(1), "decay_grad": Cost(2)},
    **dict.fromkeys(("causal_conv", *(f"causal_conv_grad_{name}" for name in ("x", "weight", "bias"))), Cost(told=True)),
    "scan": Cost(family="scan", matmuls=(1, 1, 2, 1)),
    "scan_grad": Cost(family="scan", matmuls=(3, 2, 5, 3)),
    "scan_skip_grad": Cost(2, operand=1),
    **{"gated_rms_norm": Cost(9), "gated_rms_norm_grad": Cost(21), "gated_rms_norm_grad_gamma": Cost(10)},
    **{"lookup": Cost(0, picks=(1,)), "lookup_grad": Cost(1, operand=1, skips=(2,))},
    "sinusoid": Cost(1),  # the table is small beside what it is added to
    **{"relative_biases": Cost(0), "relative_biases_grad": Cost(1, operand=1, skips=(0,))},
    **{
        "position": Cost(1, positions=(1,)),
        "position_grad": Cost(1, skips=(1,)),
        "cast": Cost(0),
        "dequantise": Cost(1),
        "cast_grad": Cost(0),
        "draw": Cost(0),
        "row_max": Cost(1),
        "pick": Cost(0, picks=(0,)),
    },
    **dict.fromkeys(("flatten", "unflatten", "join", "permute"), Cost(0)),
    **{"route": Cost(told=True), "route_grad": Cost(operand=-1, told=True), "route_again_grad": Cost(told=True)},
    **{"count_choices": Cost(1), "steer": Cost(4)},
    **{"balance_loss": Cost(5), "balance_loss_grad": Cost(7)},
    **{"unpermute": Cost(1), "weigh": Cost(1), "weigh_grad": Cost(2)},
    **{"grouped_gemm": Cost(family="gemm"), "weighted_swiglu": Cost(6), "weighted_swiglu_grad": Cost(19)},
    "take": Cost(0, picks=(0,)),
    **{"shifted_exp": Cost(2), "row_sum": Cost(1), "normalize": Cost(1), "token_loss": Cost(3), "loss_sum": Cost(1)},
    **{
        "absmax": Cost(1),
        "quantise": Cost(2),
        "cross_entropy_grad": Cost(2),
        "nll_loss_grad": Cost(2),
        "norm_sq": Cost(2),
        "clip": Cost(1),
        "adam": Cost(12),
        "sgd_momentum": Cost(4),
        "average": Cost(1),
        "outer_nesterov": Cost(8),
    },
}
