"""Both ends of a model: token and, where it is learned, position embedding, and the vocabulary-parallel head with its cross-entropy.

Source: Shoeybi et al. 2019 (arXiv:1909.08053), section 3: the vocabulary is split, the loss needs a max and two sums over
the shards.  Logits are float32 (Megatron-LM, `parallel_lm_logits` and `vocab_parallel_cross_entropy`).
An encoder's embedding adds a token type and ends with a norm, and its head predicts a label for every token behind a dense layer:
Devlin et al. 2019 (arXiv:1810.04805), section 3, with google-research/bert, modeling.py (`embedding_postprocessor`) and
run_pretraining.py (`get_masked_lm_output`; logits of all tokens, as Megatron-LM's bert_model.py has them).  A label for a whole text is
predicted from its first token: run_classifier.py (`create_model`); one for each token by a matrix behind dropout: Devlin et al. 2019,
section 5.3, and huggingface/transformers, modeling_bert.py (`BertForTokenClassification`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from parsim.model.blocks import DROP, GATED
from parsim.model.dims import COMPUTE, FLOAT32, INDEX, MASK
from parsim.model.later import PREFIX, later_token, later_weights
from parsim.model.norms import norm, norm_weights
from parsim.model.op import Block, Gradient, Op, OpAttributes
from parsim.model.transformer import TransformerArchitecture

_OFFSET_V = (("offset", "offset:V"),)
ENTER_HEAD: Final = "enter_head"  # the op behind which tokens may go on in chunks
FIRST_TOKEN: Final = (("offset", "offset:T"), ("length", "local:T"))


def embedding(kind: TransformerArchitecture, *, fusions: tuple[str, ...], two_sided: bool = False) -> Block:
    """Tokens to the residual stream.  A token's row lies on one vocabulary shard, so the lookup is a partial sum.

    `two_sided`: whether biases of relative positions are for keys on either side of a query.
    """
    fused, learned, waves = "dropout_add" in fusions, kind.positions == "learned", kind.positions == "sinusoidal"
    normed, dropped = kind.norms_embedding, kind.dropout and kind.embedding_dropped
    there = {
        "words_T": True,
        "projected": kind.projects_embedding,
        "scaled": kind.scales_embedding or waves,
        "embedded": learned or waves,
        "typed": kind.token_types,
        "normed": normed,
        "dropped": dropped,
    }
    names = [name for name, is_there in there.items() if is_there]
    names[-1] = "y"  # what each step makes of the one before; the last leaves the block
    ops = [*_words(_width(kind), names[0])]
    rest, same = pairwise(names), "B T D, B T D -> B T D"
    if kind.projects_embedding:  # whole on every tensor-parallel rank, on its part of the stream
        x, y = next(rest)
        ops.append(Op("project_in_gemm", "B T j, j D -> B T D", (x, "project_in.weight"), (y,)))
    if kind.scales_embedding or waves:
        x, y = next(rest)
        scale: OpAttributes = (("scale", "sqrt:D" if waves else "embedding_scale"),)
        ops.append(Op("embedding_scale", "B T D -> B T D", (x,), (y,), "scale", attributes=scale))
    if learned:
        x, y = next(rest)
        expr, offset = "B T D, P D -> B T D", (("offset", "offset:T"),)
        ops.append(Op("position", expr, (x, "position.weight"), (y,), "position", attributes=offset, in_place=True))
    if waves:  # Vaswani et al. 2017 (arXiv:1706.03762), sections 3.4 and 3.5
        x, y = next(rest)
        ops.append(Op("position", "B T D -> B T D", (x,), (y,), "sinusoid", attributes=(("offset", "offset:T"),), in_place=True))
    if kind.token_types:
        x, y = next(rest)
        ops.append(Op("token_types", "-> B T", (), ("token_types",), "draw", (INDEX,)))
        inputs, offset = ("token_types", "token_type.weight"), (("offset", "offset:U"),)
        ops.append(Op("token_type", "B T, U D -> B T D", inputs, ("token_type",), "lookup", attributes=offset))
        ops.append(Op("token_type_add", same, (x, "token_type"), (y,), "add", in_place=True))
    if normed:
        x, y = next(rest)
        ops.extend(norm("norm", x, kind, fusions, out=y))
    if dropped:
        x, y = next(rest)
        ops.append(Op("embedding_mask", "-> B T D", (), ("embedding_mask",), "draw", (MASK,), fused=fused))
        joins = fused and (learned or waves or kind.token_types) and not normed
        ops.append(Op("embedding_dropout", same, (x, "embedding_mask"), (y,), "dropout", attributes=DROP, in_place=True, fused=joins))
    relative = kind.positions == "relative"
    ops += (_relative_biases(two_sided=two_sided),) if relative else ()
    tables = (
        "word",
        *(["position"] if learned else ()),
        *(["token_type"] if kind.token_types else ()),
        *(["relative"] if relative else ()),
        *(["project_in"] if kind.projects_embedding else ()),
    )
    scales = norm_weights("norm", kind) if normed else {}
    return Block("embedding", tuple(ops), {**{f"{table}.weight": "normal" for table in tables}, **scales}, input="")


def _words(width: str, out: str) -> Iterator[Op]:
    yield Op("tokens", "-> B S", (), ("tokens",), "draw", (INDEX,))
    yield Op("lookup", f"B S, V {width} -> B S {width}", ("tokens", "word.weight"), ("words",), "lookup", attributes=_OFFSET_V)
    yield Op("leave_lookup", f"B S {width} -> B T {width}", ("words",), (out,), "relabel")


def _width(kind: TransformerArchitecture) -> str:
    return "j" if kind.projects_embedding else "D"


def _relative_biases(*, two_sided: bool) -> Op:
    """Biases of scores by the distance of query and key, of a table with rows of distances, for all layers behind.

    They mask, too, as those of transformers do (modeling_t5.py, `T5Attention`: position_bias + mask, which the first layer makes).
    """
    places: OpAttributes = (("query_offset", "offset:Q"), ("key_offset", "offset:Z"), ("queries", "local:Q"), ("keys", "local:Z"))
    told = (*places, ("two_sided", int(two_sided)), ("distance", "relative_distance"))
    return Op("biases", "e K R -> A R Q Z", ("relative.weight",), ("biases",), "relative_biases", attributes=told)


def last_dropout(x: str, out: str) -> Iterator[Op]:
    """Dropout behind the last norm of a stack."""
    yield Op("last_mask", "-> B T D", (), ("last_mask",), "draw", (MASK,))
    yield Op("last_dropout", "B T D, B T D -> B T D", (x, "last_mask"), (out,), "dropout", attributes=DROP, in_place=True)


def head(kind: TransformerArchitecture, *, fusions: tuple[str, ...], later: Block | None = None) -> Block:
    """Final norm where norms come first, logits and the mean cross-entropy of a step, vocabulary-parallel; before them, with the layer
    `later`, the module that predicts a later token."""
    x, first, weights = ("x", (), {}) if kind.norm_last else ("norm", tuple(norm("norm", "x", kind, fusions)), norm_weights("norm", kind))
    if kind.dropped_inside and kind.dropout:
        first, x = (*first, *last_dropout(x, "last_dropped")), "last_dropped"
    if kind.head == "text":
        ops, own = _text_head(x, kind, fusions), {**dense_weights("pooler"), **dense_weights("label")}
    elif kind.head == "token":
        ops, own = _token_head(x, kind, fusions), dense_weights("label")
    else:
        table = "output.weight" if later and not kind.tied else "word.weight"
        ops, own = _vocabulary_head(x, kind, fusions, table), {table: "normal"}
        own |= {"project_out.weight": "normal"} if kind.projects_embedding else {}
        if kind.head == "masked_token":
            own = {**dense_weights("dense", bias=kind.bias), **norm_weights("dense_norm", kind), **own}
        own |= {"word.bias": "zeros"} if _has_bias(kind) else {}
        if later:
            again = _vocabulary_head(f"{PREFIX}norm", kind, fusions, table, "per_later_token")
            first = (*later_token(later, again, "word.weight", kind, fusions), *first)
            own = {**later_weights(later, kind), **own, "word.weight": "normal"}
    shared = {"word.weight": "embedding"} if (kind.tied or later) and "word.weight" in own else {}
    return Block("head", (*first, *ops), {**weights, **own}, output="", shared=shared, totals=("loss",))


def _vocabulary_head(x: str, kind: TransformerArchitecture, fusions: tuple[str, ...], table: str, scale: str = "per_token") -> Iterator[Op]:
    masked = kind.head == "masked_token"
    if masked:
        yield from _dense(x, kind, fusions)
    if kind.scales_head:
        yield Op("head_scale", "B T D -> B T D", (x,), ("head_scaled",), "scale", attributes=(("scale", "logit_scale"),))
        x = "head_scaled"
    width = _width(kind)
    if kind.projects_embedding:
        yield Op("project_out_gemm", "B T D, D j -> B T j", (x, "project_out.weight"), ("projected_out",))
        x = "projected_out"
    yield Op(ENTER_HEAD, f"B T {width} -> B S {width}", ("dense_out" if masked else x,), ("head_in",), "relabel")
    there = {
        "logits_gemm": True,
        "biased": _has_bias(kind),
        "scaled": kind.scaled_logits and not kind.scales_head,
        "capped": kind.caps_logits,
    }
    steps = [name for name, is_there in there.items() if is_there]
    steps[-1] = "shares"  # as in the embedding
    yield Op("logits_gemm", f"B S {width}, V {width} -> B S V", ("head_in", table), (steps[0],))
    rest, same = pairwise(steps), "B S V -> B S V"
    if _has_bias(kind):
        x, y = next(rest)
        yield Op("logits_bias", "B S V, V -> B S V", (x, "word.bias"), (y,), "bias", in_place=True)
    if there["scaled"]:
        x, y = next(rest)
        yield Op("logits_scale", same, (x,), (y,), "scale", attributes=(("scale", "logit_scale"),))
    if kind.caps_logits:
        x, y = next(rest)
        yield Op("logits_cap", same, (x,), (y,), "softcap", attributes=(("cap", "final_logit_softcapping"),))
    yield Op("enter_loss", "B S V -> B S W", ("shares",), ("logits",), "relabel")
    yield from cross_entropy("B S", "W", "labels", scale, fusions)


def _has_bias(kind: TransformerArchitecture) -> bool:
    return kind.head_bias or kind.head == "masked_token"


def cross_entropy(row: str, label: str, labels: str, scale: str, fusions: tuple[str, ...]) -> Iterator[Op]:
    """Cross-entropy of logits[row label], a drawn label a row; `label` may be split.

    Logits of padding take no part: how far a vocabulary is padded follows the plan, and plans of one scenario have one loss.  The padding
    of Megatron-LM does take part, rows that no token trains up (`vocab_parallel_cross_entropy` has no mask).  Counts are those of all.

    In place, as Megatron-LM's vocab_parallel_cross_entropy, exponentials overwrite the float32 logits; else, as PyTorch's cross_entropy
    of float32 logits, they are a copy, and backward makes two more: the gradients of log-probabilities and of logits (PyTorch,
    tools/autograd/derivatives.yaml: nll_loss_forward, _log_softmax).  Kernels that round to the logits' own dtype whatever they store of
    them (`narrow_loss`; TransformerEngine, transformer_engine/common/triton/cross_entropy.py) move fewer bytes than here, since one makes
    maxima and sums.
    """
    rows, whole, offset = (FLOAT32,), f"{row} {label} -> {row} {label}", (("offset", f"offset:{label}"),)
    in_place, stored = "loss_in_place" in fusions, (COMPUTE,) if "narrow_loss" in fusions else rows
    yield Op("logits_cast", whole, ("logits",), ("logits32",), "cast", stored, (*offset, ("end", f"unpadded:{label}")))
    yield Op("labels", f"-> {row}", (), (labels,), "draw", (INDEX,))
    yield Op("row_max", f"{row} {label} -> {row}", ("logits32",), ("row_max",), "row_max", rows)
    yield Op("pick", f"{row} {label}, {row} -> {row}", ("logits32", labels), ("picked",), "pick", rows, offset)
    expr = f"{row} {label}, {row} -> {row} {label}"
    yield Op("exp", expr, ("logits32", "row_max"), ("exp",), "shifted_exp", stored, in_place=in_place)
    yield Op("row_sum", f"{row} {label} -> {row}", ("exp",), ("row_sum",), "row_sum", rows)
    yield Op("normalize", expr, ("exp", "row_sum"), ("softmax",), "normalize", stored, in_place=True)
    of, kernel = ("logits", "cross_entropy_grad") if in_place else ("softmax logits32", "nll_loss_grad")
    gradient = Gradient(of, kernel, ("softmax", labels), (*offset, ("scale", scale)))
    expr, inputs, summed = f"{row}, {row}, {row} -> {row}", ("row_sum", "row_max", "picked"), "token_loss"
    yield Op("token_loss", expr, inputs, (summed,), "token_loss", rows, gradients=(gradient,))
    if "T" in row:  # the loss is every rank's
        row, summed = row.replace("T", "S"), "all_losses"
        yield Op("leave_losses", "B T -> B S", ("token_loss",), (summed,), "relabel", rows)
    yield Op("loss", f"{row} -> ", (summed,), ("loss",), "loss_sum", rows, (("scale", scale),))


def _text_head(x: str, kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    """A label a text from its first token, which one sequence-parallel rank holds: the others add zeros.  Whole on every rank."""
    yield Op("first_token", "B T D -> B D", (x,), ("first_token",), "first", attributes=FIRST_TOKEN)
    yield Op("pooler_gemm", "B D, D H -> B H", ("first_token", "pooler.weight"), ("pooler_gemm",))
    yield Op("pooler_bias", "B H, H -> B H", ("pooler_gemm", "pooler.bias"), ("pooler_biased",), "bias", in_place=True)
    pooled = "pooled"
    yield Op("pooler_tanh", "B H -> B H", ("pooler_biased",), (pooled,), "tanh")
    if kind.dropout:
        yield Op("pooled_mask", "-> B H", (), ("pooled_mask",), "draw", (MASK,))
        yield Op("pooled_dropout", "B H, B H -> B H", (pooled, "pooled_mask"), ("pooled_dropped",), "dropout", attributes=DROP)
        pooled = "pooled_dropped"
    yield Op("logits_gemm", "B H, Y H -> B Y", (pooled, "label.weight"), ("logits_gemm",))
    yield Op("logits_bias", "B Y, Y -> B Y", ("logits_gemm", "label.bias"), ("logits",), "bias", in_place=True)
    yield from cross_entropy("B", "Y", "text_labels", "per_text", fusions)


def _token_head(x: str, kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    """A label a token, from its dropped-out vector on the stream."""
    if kind.dropout:
        yield Op("head_mask", "-> B T D", (), ("head_mask",), "draw", (MASK,))
        yield Op("head_dropout", "B T D, B T D -> B T D", (x, "head_mask"), ("head_dropped",), "dropout", attributes=DROP)
        x = "head_dropped"
    yield from labelled_rows(x, "token_labels", fusions, bias=True)


def dense_weights(name: str, *, bias: bool = True) -> dict[str, str]:
    """The weights of a dense layer with their initial values; that of `labelled_rows` is named label."""
    return {f"{name}.weight": "normal", **({f"{name}.bias": "zeros"} if bias else {})}


def labelled_rows(x: str, labels: str, fusions: tuple[str, ...], *, bias: bool) -> Iterator[Op]:
    """Logits of a few labels for each row of x[B T D], and their cross-entropy; each sequence-parallel rank has its own rows."""
    yield Op("logits_gemm", "B T D, Y D -> B T Y", (x, "label.weight"), ("logits_gemm" if bias else "logits",))
    if bias:
        yield Op("logits_bias", "B T Y, Y -> B T Y", ("logits_gemm", "label.bias"), ("logits",), "bias", in_place=True)
    yield from cross_entropy("B T", "Y", labels, "per_token", fusions)


def _dense(x: str, kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    """The dense layer before the logits of masked tokens: whole on every tensor-parallel rank, on its part of the stream."""
    activation = "gelu" if kind.activation in GATED else kind.activation
    yield Op("dense_gemm", "B T D, D H -> B T H", (x, "dense.weight"), ("dense_gemm" if kind.bias else "dense_biased",))
    if kind.bias:
        yield Op("dense_bias", "B T H, H -> B T H", ("dense_gemm", "dense.bias"), ("dense_biased",), "bias", in_place=True)
    yield Op("dense_activation", "B T H -> B T H", ("dense_biased",), ("dense_active",), activation)
    yield from norm("dense_norm", "dense_active", kind, fusions, dim="H")
    yield Op("leave_dense", "B T H -> B T D", ("dense_norm",), ("dense_out",), "relabel")
