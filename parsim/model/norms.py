"""The norms of a transformer as ops, and their weights."""

from __future__ import annotations

from collections.abc import Iterator

from parsim.model.dims import FLOAT32
from parsim.model.op import Op, OpAttributes
from parsim.model.transformer import TransformerArchitecture


def norm(name: str, x: str, kind: TransformerArchitecture, fusions: tuple[str, ...], *, out: str = "", dim: str = "D") -> Iterator[Op]:
    """The ops that normalise `x` on the residual stream; their result bears the name unless told otherwise."""
    if kind.norm == "rms_norm":
        yield from rms_norm(name, x, fusions, out=out or name, dims=f"B T {dim}", wide=kind.norm_in_float32)
        return
    scales = tuple(norm_weights(name, kind))
    own = kind.norm if kind.norm_bias else f"unshifted_{kind.norm}"
    yield Op(name, f"B T {dim}{f', {dim}' * len(scales)} -> B T {dim}", (x, *scales), (out or name,), own)


def rms_norm(name: str, x: str, fusions: tuple[str, ...], *, out: str, dims: str, wide: bool = False) -> Iterator[Op]:
    """The ops of an RMSNorm over the last of these dims.

    One that no kernel fuses is written out as in Llama: in float32, and back before its gain.  So autograd keeps a float32 copy
    and the normalised one (meta-llama/llama, llama/model.py, RMSNorm; PyTorch, tools/autograd/derivatives.yaml, pow and mul).  A `wide`
    one goes back behind its gain, as in Gemma (google/gemma_pytorch, gemma/model.py, RMSNorm).
    """
    gamma, same, whole = f"{name}.gamma", f"{dims} -> {dims}", f"{dims}, {dims[-1]} -> {dims}"
    if "rms_norm" in fusions:
        yield Op(name, whole, (x, gamma), (out,), "rms_norm")
        return
    yield Op(f"{name}_wide", same, (x,), (f"{name}_x32",), "cast", (FLOAT32,))
    yield Op(f"{name}_normalize", same, (f"{name}_x32",), (f"{name}_y32",), "rms_normalize", (FLOAT32,))
    if not wide:
        yield Op(f"{name}_narrow", same, (f"{name}_y32",), (f"{name}_normalized",), "cast")
    yield Op(name, whole, (f"{name}_y32" if wide else f"{name}_normalized", gamma), (out,), "gain")


def plain_rms_norm(name: str, x: str, fusions: tuple[str, ...], *, out: str, dims: str) -> Iterator[Op]:
    """The ops of an RMSNorm over the last of these dims that has no weights; one that no kernel fuses is in float32."""
    same = f"{dims} -> {dims}"
    if "rms_norm" in fusions:
        yield Op(name, same, (x,), (out,), "rms_normalize")
        return
    yield Op(f"{name}_wide", same, (x,), (f"{name}_x32",), "cast", (FLOAT32,))
    yield Op(f"{name}_normalize", same, (f"{name}_x32",), (f"{name}_y32",), "rms_normalize", (FLOAT32,))
    yield Op(name, same, (f"{name}_y32",), (out,), "cast")


def whole_rms_norm(name: str, x: str, fusions: tuple[str, ...], *, out: str, dims: str, wide: bool = False) -> Iterator[Op]:
    """The ops of an RMSNorm over all heads of a token at once, x[B S dims]: the sum of squares is of all of them, which tensor-parallel
    ranks add up, a number a token; so they do its gradient.  Fused, the sum and all that stands behind it are a kernel each.

    Source: Team OLMo 2024 (arXiv:2501.00656), section 3.2, for the norm; the sums of ranks derived here.
    """
    gamma, whole = f"{name}.gamma", f"B S {dims}"
    told: OpAttributes = (("count", f"extent:{dims}"),)
    if "rms_norm" in fusions:
        yield Op(f"{name}_sum", f"{whole} -> B S", (x,), (f"{name}_sum",), "square_sum", (FLOAT32,))
        yield Op(name, f"{whole}, B S, {dims} -> {whole}", (x, f"{name}_sum", gamma), (out,), "rms_norm_by", attributes=told)
        return
    x32, normal, same = f"{name}_x32", f"{name}_y32", f"{whole} -> {whole}"
    yield Op(f"{name}_wide", same, (x,), (x32,), "cast", (FLOAT32,))
    yield Op(f"{name}_sum", f"{whole} -> B S", (x32,), (f"{name}_sum",), "square_sum", (FLOAT32,))
    expr = f"{whole}, B S -> {whole}"
    yield Op(f"{name}_normalize", expr, (x32, f"{name}_sum"), (normal,), "rms_normalize_by", (FLOAT32,), told)
    if not wide:
        yield Op(f"{name}_narrow", same, (normal,), (f"{name}_normalized",), "cast")
        normal = f"{name}_normalized"
    yield Op(name, f"{whole}, {dims} -> {whole}", (normal, gamma), (out,), "gain_by_head")


def norm_weights(name: str, kind: TransformerArchitecture) -> dict[str, str]:
    """The weights of a norm with their initial values; RMSNorm has no shift."""
    shift = {f"{name}.beta": "zeros"} if kind.norm == "layer_norm" and kind.norm_bias else {}
    return {f"{name}.gamma": "ones", **shift}
