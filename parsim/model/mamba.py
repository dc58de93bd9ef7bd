"""The mixer of Mamba-2 as ops: three projections, a short convolution, the selective scan, a gated norm, and the projection back.

What the fused kernel makes again in backward is not kept: the convolved x, B and C, steps and decays, and states inside the scan; kept are
the projections, what the scan gives and what the gated norm gives.  Matrices of z, of x, B and C, and of dt are one in the frameworks, as
those of q, k and v are; a group's x, B and C lie side by side, so that tensor parallelism cuts groups.
Source: Dao and Gu 2024 (arXiv:2405.21060), sections 6 and 7; state-spaces/mamba, mamba_ssm/modules/mamba2.py and
mamba_ssm/ops/triton/ssd_combined.py (MambaSplitConv1dScanCombinedFn, save_for_backward); NVIDIA/Megatron-LM,
megatron/core/ssm/mamba_mixer.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from parsim.model.dims import COMPUTE, FLOAT32
from parsim.model.op import Gradient, Op, OpAttributes

WEIGHTS: Final = {
    **{f"{name}.weight": "normal" for name in ("z", "xbc", "dt", "conv", "mixer_out")},
    **{"conv.bias": "zeros", "dt.bias": "zeros", "decay": "normal", "skip": "ones", "mixer_norm.gamma": "ones"},
}
AGAIN: Final = ("conv", "softplus", "decay")  # ops whose results backward makes again
_PROJECTED: Final = {"z": "g h p", "xbc": "g f", "dt": "g h"}
_CHUNKED: OpAttributes = (("state", "extent:m"), ("chunk", "extent:c"))


def mixer(x: str, conv_width: int) -> Iterator[Op]:
    """The ops from x[B S D], whole, to mixer_out[B T D], where the stream has it."""
    for name, dims in _PROJECTED.items():
        yield Op(f"{name}_gemm", f"B S D, D {dims} -> B S {dims}", (x, f"{name}.weight"), (f"{name}_gemm",))
    yield Op("dt_bias", "B S g h, g h -> B S g h", ("dt_gemm", "dt.bias"), ("dt_biased",), "bias", in_place=True)
    yield _convolution(conv_width)
    same, steps = "B S g h -> B S g h", (FLOAT32,)
    yield Op("softplus", same, ("dt_biased",), ("steps",), "softplus", steps)
    yield Op("decay", f"B S g h, g h -> {same.partition('-> ')[2]}", ("steps", "decay"), ("decays",), "decay", steps, fused=True)
    scanned = ("xbc", "steps", "decays", "skip")
    yield Op("scan", "B S g f, B S g h, B S g h, g h -> B S g h p", scanned, ("scanned",), "scan", attributes=_CHUNKED)
    expr, inputs = "B S g h p, B S g h p, g h p -> B S g h p", ("scanned", "z_gemm", "mixer_norm.gamma")
    yield Op("mixer_norm", expr, inputs, ("mixed",), "gated_rms_norm")
    yield Op("mixer_out_gemm", "B S g h p, g h p D -> B S D", ("mixed", "mixer_out.weight"), ("mixer_out_gemm",))
    yield Op("leave_mixer", "B S D -> B T D", ("mixer_out_gemm",), ("mixer_out",), "relabel")


def _convolution(width: int) -> Op:
    """FLOPs an element: a product and a sum for each token that it sees, and SiLU, or its slope; see parsim_kernels."""
    reads = ("x0", "x1", "x2", "dy")
    each = {"x": (0, 4 * width + 9), "weight": (1, 4 * width + 9), "bias": (2, 2 * width + 10)}
    rules = tuple(Gradient(f"x{i}", f"causal_conv_grad_{name}", reads, (("flops", flops),)) for name, (i, flops) in each.items())
    expr, inputs = "B S g f, g f k, g f -> B S g f", ("xbc_gemm", "conv.weight", "conv.bias")
    return Op("conv", expr, inputs, ("xbc",), "causal_conv", (COMPUTE,), (("flops", 2 * width + 4),), gradients=rules)
