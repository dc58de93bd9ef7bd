"""The GPT decoder layer as ops: attention and MLP, each with LayerNorm, bias, dropout and residual.

Source: Vaswani et al. 2017 with the pre-norm of GPT-2; which tensors live and what they weigh follows Korthikanti et al. 2022
(arXiv:2205.05198), section 4.1.  Embedding and head stand in ends.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from parsim.model.dims import COMPUTE, FLOAT32, MASK
from parsim.model.op import Block, Op

CORE_ATTENTION = "core_attention"
_SCALE = (("scale", "rsqrt:C"),)
DROP = (("p", "dropout"),)


def decoder_layer(*, attention: str, activation: str, dropout: bool, fusions: tuple[str, ...]) -> Block:
    """A pre-norm decoder layer; `dropout` and `fusions` decide which ops exist and which share a kernel."""
    ops = (*_attention(attention, dropout, fusions), *_mlp(activation, dropout, fusions))
    weights = {
        **{"norm1.gamma": "ones", "norm1.beta": "zeros", "norm2.gamma": "ones", "norm2.beta": "zeros"},
        **{f"{name}.weight": "normal" for name in ("q", "k", "v", "out", "up", "down")},
        **{f"{name}.bias": "zeros" for name in ("q", "k", "v", "out", "up", "down")},
    }
    return Block("layer", ops, weights)


def _attention(attention: str, dropout: bool, fusions: tuple[str, ...]) -> Iterator[Op]:
    yield Op("norm1", "B T D, D, D -> B T D", ("x", "norm1.gamma", "norm1.beta"), ("norm1",), "layer_norm")
    yield Op("enter_attention", "B T D -> B S D", ("norm1",), ("attention_in",), "relabel")
    # The three GEMMs stand together: their input gradients add up before the one collective that settles them.
    heads = {"q": "K R C", "k": "K C", "v": "K C"}
    for name, dims in heads.items():
        yield Op(f"{name}_gemm", f"B S D, D {dims} -> B S {dims}", ("attention_in", f"{name}.weight"), (f"{name}_gemm",))
    for name, dims in heads.items():
        yield _bias(f"{name}_bias", f"B S {dims}, {dims} -> B S {dims}", f"{name}_gemm", f"{name}.bias", name, fusions)
    yield Op("keys", "B S K C -> B Z K C", ("k",), ("keys",), "relabel")
    yield Op("values", "B S K C -> B Z K C", ("v",), ("values",), "relabel")
    yield from _core(attention, dropout)
    yield Op("out_gemm", "B S K R C, K R C D -> B S D", ("mixed", "out.weight"), ("out_gemm",))
    yield Op("leave_attention", "B S D -> B T D", ("out_gemm",), ("attention_out",), "relabel")
    yield from _residual("attention", "attention_out", "out.bias", "x", "x1", dropout, fusions)


def _core(attention: str, dropout: bool) -> Iterator[Op]:
    """Scores, softmax and the mix of values.  The flash kind stores no scores; it applies no attention dropout (a stated rule)."""
    tag = CORE_ATTENTION
    if attention == "flash":
        expr = "B S K R C, B Z K C, B Z K C -> B S K R C, B K R S"
        inputs, outputs = ("q", "keys", "values"), ("mixed", "log_sum_exp")
        yield Op("flash", expr, inputs, outputs, "flash_attention", (COMPUTE, FLOAT32), _SCALE, tag)
        return
    yield Op("scores", "B S K R C, B Z K C -> B K R S Z", ("q", "keys"), ("scores",), tag=tag)
    same = "B K R S Z -> B K R S Z"
    if attention == "unfused":
        yield Op("scale", same, ("scores",), ("scaled",), "causal_scale", attributes=_SCALE, tag=tag)
        yield Op("softmax", same, ("scaled",), ("probabilities",), "softmax", tag=tag)
    else:
        yield Op("softmax", same, ("scores",), ("probabilities",), "causal_softmax", attributes=_SCALE, tag=tag)
    mixing = "probabilities"
    if dropout:
        mixing = "dropped"
        yield Op("scores_mask", "-> B K R S Z", (), ("scores_mask",), "draw", (MASK,), tag=tag)
        expr = "B K R S Z, B K R S Z -> B K R S Z"
        yield Op("scores_dropout", expr, ("probabilities", "scores_mask"), ("dropped",), "dropout", attributes=DROP, tag=tag)
    yield Op("mix", "B K R S Z, B Z K C -> B S K R C", (mixing, "values"), ("mixed",), tag=tag)


def _mlp(activation: str, dropout: bool, fusions: tuple[str, ...]) -> Iterator[Op]:
    yield Op("norm2", "B T D, D, D -> B T D", ("x1", "norm2.gamma", "norm2.beta"), ("norm2",), "layer_norm")
    yield Op("enter_mlp", "B T D -> B S D", ("norm2",), ("mlp_in",), "relabel")
    yield Op("up_gemm", "B S D, D F -> B S F", ("mlp_in", "up.weight"), ("up_gemm",))
    yield _bias("up_bias", "B S F, F -> B S F", "up_gemm", "up.bias", "hidden", fusions)
    yield Op("activation", "B S F -> B S F", ("hidden",), ("active",), activation, fused="gelu" in fusions)
    yield Op("down_gemm", "B S F, F D -> B S D", ("active", "down.weight"), ("down_gemm",))
    yield Op("leave_mlp", "B S D -> B T D", ("down_gemm",), ("mlp_out",), "relabel")
    yield from _residual("mlp", "mlp_out", "down.bias", "x1", "y", dropout, fusions)


def _bias(name: str, expr: str, x: str, bias: str, y: str, fusions: tuple[str, ...]) -> Op:
    # In place: libraries add the bias in the GEMM's epilogue or over its output.
    return Op(name, expr, (x, bias), (y,), "bias", in_place=True, fused="bias" in fusions)


def _residual(name: str, branch: str, bias: str, skip: str, out: str, dropout: bool, fusions: tuple[str, ...]) -> Iterator[Op]:
    fused = "dropout_add" in fusions
    yield Op(f"{name}_bias", "B T D, D -> B T D", (branch, bias), (f"{name}_biased",), "bias", in_place=True, fused=False)
    branch = f"{name}_biased"
    same = "B T D, B T D -> B T D"
    if dropout:
        mask, dropped = f"{name}_mask", f"{name}_dropped"
        yield Op(mask, "-> B T D", (), (mask,), "draw", (MASK,), fused=fused)
        yield Op(f"{name}_dropout", same, (branch, mask), (dropped,), "dropout", attributes=DROP, in_place=True, fused=fused)
        branch = dropped
    yield Op(f"{name}_add", same, (branch, skip), (out,), "add", in_place=True, fused=fused)
