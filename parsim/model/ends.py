"""Both ends of a decoder: token and, where it is learned, position embedding, and the vocabulary-parallel head with its cross-entropy.

Source: Shoeybi et al. 2019 (arXiv:1909.08053), section 3: the vocabulary is split, the loss needs a max and two sums over
the shards.  Logits are float32 (Megatron-LM, `parallel_lm_logits` and `vocab_parallel_cross_entropy`).
"""

from __future__ import annotations

from collections.abc import Iterator

from parsim.model.blocks import DROP, norm, norm_weights
from parsim.model.dims import FLOAT32, INDEX, MASK
from parsim.model.op import Block, Gradient, Op
from parsim.model.spec import Architecture

_OFFSET_V = (("offset", "offset:V"),)


def embedding(kind: Architecture, *, fusions: tuple[str, ...]) -> Block:
    """Tokens to the residual stream.  A token's row lies on one vocabulary shard, so the lookup is a partial sum."""
    fused, learned = "dropout_add" in fusions, kind.positions == "learned"
    last = "embedded" if kind.dropout else "y"
    words = "words_T" if learned else last
    ops = [
        Op("tokens", "-> B S", (), ("tokens",), "draw", (INDEX,)),
        Op("lookup", "B S, V D -> B S D", ("tokens", "word.weight"), ("words",), "lookup", attributes=_OFFSET_V),
        Op("leave_lookup", "B S D -> B T D", ("words",), (words,), "relabel"),
    ]
    if learned:
        expr, inputs = "B T D, P D -> B T D", ("words_T", "position.weight")
        ops.append(Op("position", expr, inputs, (last,), "position", attributes=(("offset", "offset:T"),), in_place=True))
    if kind.dropout:
        ops.append(Op("embedding_mask", "-> B T D", (), ("embedding_mask",), "draw", (MASK,), fused=fused))
        expr, inputs = "B T D, B T D -> B T D", ("embedded", "embedding_mask")
        ops.append(Op("embedding_dropout", expr, inputs, ("y",), "dropout", attributes=DROP, in_place=True, fused=fused and learned))
    table = {"position.weight": "normal"} if learned else {}
    return Block("embedding", tuple(ops), {"word.weight": "normal", **table}, takes="")


def head(kind: Architecture, *, tied: bool) -> Block:
    """Final norm, logits and the mean cross-entropy of a step, vocabulary-parallel."""
    weights = {**norm_weights("norm", kind), "word.weight": "normal"}
    shared = {"word.weight": "embedding"} if tied else {}
    return Block("head", tuple(_head(kind)), weights, gives="", shared=shared, totals=("loss",))


def _head(kind: Architecture) -> Iterator[Op]:
    rows, whole = (FLOAT32,), "B S V -> B S V"
    yield norm("norm", "x", kind)
    yield Op("enter_head", "B T D -> B S D", ("norm",), ("head_in",), "relabel")
    yield Op("logits_gemm", "B S D, V D -> B S V", ("head_in", "word.weight"), ("logits",))
    yield Op("logits_cast", whole, ("logits",), ("logits32",), "cast", rows)
    yield Op("labels", "-> B S", (), ("labels",), "draw", (INDEX,))
    yield Op("row_max", "B S V -> B S", ("logits32",), ("row_max",), "row_max", rows)
    yield Op("pick", "B S V, B S -> B S", ("logits32", "labels"), ("picked",), "pick", rows, _OFFSET_V)
    expr = "B S V, B S -> B S V"
    yield Op("exp", expr, ("logits32", "row_max"), ("exp",), "shifted_exp", rows, in_place=True)
    yield Op("row_sum", "B S V -> B S", ("exp",), ("row_sum",), "row_sum", rows)
    yield Op("normalize", expr, ("exp", "row_sum"), ("softmax",), "normalize", rows, in_place=True)
    scaled = (*_OFFSET_V, ("scale", "per_token"))
    gradient = Gradient("logits", "cross_entropy_grad", ("softmax", "labels"), scaled)
    expr, inputs = "B S, B S, B S -> B S", ("row_sum", "row_max", "picked")
    yield Op("token_loss", expr, inputs, ("token_loss",), "token_loss", rows, gradients=(gradient,))
    yield Op("loss", "B S -> ", ("token_loss",), ("loss",), "loss_sum", rows, (("scale", "per_token"),))
