"""A plain MLP that labels rows of features: dense layers with a nonlinearity between them, the labels' softmax cross-entropy behind.

A layer is two dense layers, so that tensor parallelism splits the first by columns and the second by rows: Shoeybi et al. 2019
(arXiv:1909.08053), section 3.  The nonlinearity of what a block takes is its first op, so all that its gradient reads lies in the block.
The features' own gradient is not computed.  A row is a token: sequence_length 1 makes each sample a sequence.
Source: Rumelhart et al. 1986, Nature 323, for the network; Srivastava et al. 2014, JMLR 15, section 4, for dropout of hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from parsim.model.blocks import DROP
from parsim.model.dims import MASK
from parsim.model.ends import label_weights, labelled_rows
from parsim.model.families import FAMILIES, Blocks, by_name
from parsim.model.op import Block, Gradient, Op
from parsim.model.spec import Architecture, ModelSpec


def classifier(
    name: str,
    *,
    num_layers: int,
    num_features: int,
    hidden_size: int,
    ffn_hidden_size: int,
    num_labels: int,
    activation: str = "relu",
    bias: bool = True,
    dropout: float = 0.0,
    source: str = "",
) -> ModelSpec:
    """The shape of an MLP: features -> hidden_size, num_layers x (-> ffn_hidden_size -> hidden_size), -> labels.

    >>> spec = classifier("one hidden layer", num_layers=0, num_features=784, hidden_size=800, ffn_hidden_size=800, num_labels=10)
    >>> spec.num_heads, spec.vocab_size
    (0, 0)
    """
    return ModelSpec(
        name,
        num_layers,
        hidden_size,
        ffn_hidden_size,
        num_heads=0,
        num_kv_heads=0,
        head_dim=0,
        vocab_size=0,
        max_positions=0,
        activation=activation,
        tied_embedding=False,
        dropout=dropout,
        source=source,
        norm="none",
        positions="none",
        bias=bias,
        qkv_bias=False,
        causal=False,
        head="row",
        num_labels=num_labels,
        family="mlp",
        num_features=num_features,
    )


def blocks(kind: Architecture, attention: str, fusions: tuple[str, ...], tied: bool) -> Blocks:
    """Embedding, layer and head; no attention, and nothing to tie."""
    return by_name(_embedding(kind, fusions), _layer(kind, fusions), _head(kind))


def _embedding(kind: Architecture, fusions: tuple[str, ...]) -> Block:
    # The rule of an einsum would give the features a gradient, which nobody reads.
    gradients = (Gradient("x1", "einsum", ("dy", "x0")),)
    inputs, out = ("features", "input.weight"), _before_bias("input", "y", kind)
    ops = (
        Op("features", "-> B T I", (), ("features",), "draw"),
        Op("input_gemm", "B T I, I D -> B T D", inputs, (out,), gradients=gradients),
        *_bias("input", "T D", "y", kind, fusions),
    )
    return Block("embedding", ops, _weights("input", kind), input="")


def _layer(kind: Architecture, fusions: tuple[str, ...]) -> Block:
    fused = "gelu" in fusions and kind.bias
    ops = (
        *_activated("enter", "T D", "x", "active", kind),
        Op("enter_mlp", "B T D -> B S D", ("active",), ("mlp_in",), "relabel"),
        Op("up_gemm", "B S D, D F -> B S F", ("mlp_in", "up.weight"), (_before_bias("up", "hidden", kind),)),
        *_bias("up", "S F", "hidden", kind, fusions),
        *_activated("inner", "S F", "hidden", "inner", kind, fused=fused),
        Op("down_gemm", "B S F, F D -> B S D", ("inner", "down.weight"), ("down_partial",)),
        Op("leave_mlp", "B S D -> B T D", ("down_partial",), (_before_bias("down", "y", kind),), "relabel"),
        # Not fused: a collective may stand between the GEMM and its bias.
        *_bias("down", "T D", "y", kind, ()),
    )
    return Block("layer", ops, {**_weights("up", kind), **_weights("down", kind)})


def _head(kind: Architecture) -> Block:
    ops = chain(_activated("enter", "T D", "x", "active", kind), labelled_rows("active", "row_labels", bias=kind.bias))
    return Block("head", tuple(ops), label_weights(bias=kind.bias), output="", totals=("loss",))


def _weights(name: str, kind: Architecture) -> dict[str, str]:
    return {f"{name}.weight": "normal", **({f"{name}.bias": "zeros"} if kind.bias else {})}


def _before_bias(name: str, out: str, kind: Architecture) -> str:
    return f"{name}_gemm" if kind.bias else out


def _bias(name: str, dims: str, out: str, kind: Architecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    if kind.bias:
        expr, inputs = f"B {dims}, {dims[-1]} -> B {dims}", (f"{name}_gemm", f"{name}.bias")
        yield Op(f"{name}_bias", expr, inputs, (out,), "bias", in_place=True, fused="bias" in fusions)


def _activated(name: str, dims: str, x: str, out: str, kind: Architecture, *, fused: bool = False) -> Iterator[Op]:
    """The nonlinearity, and dropout of its units; not in place, since some gradients read what the nonlinearity gave."""
    whole, active = f"B {dims}", f"{name}_active" if kind.dropout else out
    yield Op(f"{name}_activation", f"{whole} -> {whole}", (x,), (active,), kind.activation, fused=fused)
    if kind.dropout:
        mask = f"{name}_mask"
        yield Op(mask, f"-> {whole}", (), (mask,), "draw", (MASK,))
        yield Op(f"{name}_dropout", f"{whole}, {whole} -> {whole}", (active, mask), (out,), "dropout", attributes=DROP)


FAMILIES.register("mlp", blocks)
