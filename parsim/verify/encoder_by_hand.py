"""Encoder-decoder models by hand: Vaswani et al. 2017 (arXiv:1706.03762), section 3; Raffel et al. 2020 (arXiv:1910.10683), section 2.1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from msgspec import Struct

from parsim.model.families.encoder_decoder import EncoderDecoderSpec
from parsim.verify.arithmetic import Arithmetic, Pullback, Valued, chain
from parsim.verify.by_hand import FORWARDS as OTHERS
from parsim.verify.by_hand import Forwards, residual, up_and_down, vocabulary
from parsim_kernels.signature import Array


class _Added(Struct, frozen=True):
    """What several layers read, and the sum of their gradients of it."""

    value: Array
    gradient: Array

    @classmethod
    def of(cls, value: Array) -> _Added:
        return cls(value, np.zeros_like(value))


def encoder_decoder(run: Arithmetic) -> Pullback:
    """The loss of one micro_batch."""
    model, batch = run.job.spec, run.job.model.batch
    assert isinstance(model, EncoderDecoderSpec)
    count, lengths = int(run.job.sizes.dims["B"][0]), (batch.source, batch.sequence_length)
    x, back = _embedding(run, model, "embedding", run.draw("embedding", "source_tokens", count, lengths[0]))
    biases, to_table = _biases(run, model, "embedding", lengths[0], two_sided=True)
    encoder, decoder = [back, to_table], list[Pullback]()
    for at in (f"layer{i}" for i in range(model.encoder_layers)):
        x, back = _layer(run, model, at, x, [("norm1", partial(_to_itself, biases=biases, is_causal=False))])
        encoder.append(back)
    if not model.norm_last:
        x, back = _last_norm(run, model, "encoder_end", x)
        encoder.append(back)
    memory = _Added.of(x)
    x, back = _embedding(run, model, "decoder_embedding", run.draw("decoder_embedding", "tokens", count, lengths[1]))
    biases, to_table = _biases(run, model, "decoder_embedding", lengths[1], two_sided=False)
    decoder += [back, to_table]
    for at in (f"layer{i}" for i in range(model.encoder_layers, model.num_layers)):
        own, cross = partial(_to_itself, biases=biases, is_causal=True), partial(_to_memory, memory=memory)
        x, back = _layer(run, model, at, x, [("norm1", own), ("cross_norm1", cross)])
        decoder.append(back)
    decoder.append(_head(run, model, x))

    def through(dy: Array) -> Array:
        chain(*decoder)(dy)
        return chain(*encoder)(memory.gradient)

    return through


def _embedding(run: Arithmetic, model: EncoderDecoderSpec, at: str, tokens: Array) -> Valued:
    """Rows of the table that both stacks share, with what tells positions apart."""
    x, words = run.lookup("embedding/word.weight", tokens)
    length, width = x.shape[1:]
    if model.positions == "sinusoidal":
        angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
        waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, -1)[:, :width]
        y, dropped = run.dropout(at, "embedding_mask", x * np.sqrt(width) + waves)
        return y, lambda dy: words(dropped(dy) * np.sqrt(width))
    if model.positions == "relative":
        y, dropped = run.dropout(at, "embedding_mask", x)
        return y, lambda dy: words(dropped(dy))
    more, places = run.lookup(f"{at}/position.weight", np.broadcast_to(np.arange(length), tokens.shape))
    y, dropped = run.dropout(at, "embedding_mask", x + more)
    return y, lambda dy: words(places(dropped(dy)))


def _biases(run: Arithmetic, model: EncoderDecoderSpec, at: str, length: int, *, two_sided: bool) -> tuple[_Added, Pullback]:
    """What is added to scores[K R S Z] of a stack, 0 where nothing is, and what takes its gradient to its table and hands on that of x."""
    if model.positions != "relative":
        return _Added.of(np.zeros((1, 1, length, length))), lambda dy: dy
    name = f"{at}/relative.weight"
    rows = np.array([[_row(model, query - key, two_sided=two_sided) for key in range(length)] for query in range(length)])
    biases = _Added.of(np.einsum("szkr->krsz", run.weights[name][rows]))

    def to_table(dy: Array) -> Array:
        np.add.at(run.gradients[name], rows, np.einsum("krsz->szkr", biases.gradient))
        return dy

    return biases, to_table


def _row(model: EncoderDecoderSpec, behind: int, *, two_sided: bool) -> int:
    """The row of a key so many tokens behind its query: the first rows are one distance each, the others powers of one ratio apart.

    A distance d has passed k of the m other rows where (d / near)^m is (far / near)^k or more.
    """
    side = model.relative_buckets // (2 if two_sided else 1)
    near, far = side // 2, model.relative_distance
    distance, others = abs(behind) if two_sided else max(behind, 0), side - near
    passed = sum(distance**others * near**k >= far**k * near**others for k in range(1, others))
    return (side if two_sided and behind < 0 else 0) + (distance if distance < near else near + passed)


def _layer(
    run: Arithmetic, model: EncoderDecoderSpec, at: str, x: Array, attentions: Sequence[tuple[str, Callable[..., Valued]]]
) -> Valued:
    """Attentions, each behind or before a norm, and the MLP."""
    pullbacks = []
    for norm, branch in (*attentions, ("norm2", _feed_forward)):
        x, back = residual(run, model, at, norm, branch, x)
        pullbacks.append(back)
    return x, chain(*pullbacks)


def _to_itself(run: Arithmetic, model: EncoderDecoderSpec, at: str, x: Array, *, biases: _Added, is_causal: bool) -> Valued:
    """Attention of x to itself."""
    sight = np.tri(x.shape[1], dtype=bool) if is_causal else np.ones((x.shape[1],) * 2, bool)
    stores = run.job.model.stack.attention != "flash" or model.positions == "relative"  # scores, of which some are dropped
    y, back = _attend(run, model, f"{at}/", x, x, np.where(sight, biases.value, -np.inf), is_dropped=stores)

    def of_x(dy: Array) -> Array:
        d_q, d_kv, d_scores = back(dy)
        biases.gradient[...] += d_scores.sum(0) if model.positions == "relative" else 0
        return d_q + d_kv

    return y, of_x


def _to_memory(run: Arithmetic, model: EncoderDecoderSpec, at: str, x: Array, *, memory: _Added) -> Valued:
    """Attention of x to all of the memory, whose gradient is added to."""
    stores = run.job.model.stack.attention != "flash"
    y, back = _attend(run, model, f"{at}/cross_", x, memory.value, np.zeros(1), is_dropped=stores)

    def of_x(dy: Array) -> Array:
        d_q, d_kv, _ = back(dy)
        memory.gradient[...] += d_kv
        return d_q

    return y, of_x


def _attend(
    run: Arithmetic, model: EncoderDecoderSpec, of: str, x: Array, seen: Array, biases: Array, *, is_dropped: bool
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """Attention of x to what it has seen; backward gives the gradients of both, and that of the scores."""
    (q, q_back), (k, k_back), (v, v_back) = (run.dense(f"{of}{name}", each) for name, each in zip("qkv", (x, seen, seen), strict=True))
    narrow = (
        partial(run.in_8_bits, of.partition("/")[0]) if not is_dropped else lambda *read, **_: read
    )  # no kernel of 8 bits stores scores
    q, k, v = narrow(q, k, v)
    scale = 1 / np.sqrt(model.head_dim) if model.scores_scaled else 1.0
    scores = np.einsum("bskrc,bzkc->bkrsz", q, k) * scale + biases
    odds = np.exp(scores - scores.max(-1, keepdims=True))
    shares = odds / odds.sum(-1, keepdims=True)
    at, _, prefix = of.partition("/")
    mixing, dropped = run.dropout(at, f"{prefix}scores_mask", shares) if is_dropped else (shares, lambda dy: dy)
    y, out = run.dense(f"{of}out", np.einsum("bkrsz,bzkc->bskrc", mixing, v), summed=3)

    def back(dy: Array) -> tuple[Array, Array, Array]:
        (d_mixed,) = narrow(out(dy), gradient=True)
        d_shares = dropped(np.einsum("bskrc,bzkc->bkrsz", d_mixed, v))
        d_scores = shares * (d_shares - (shares * d_shares).sum(-1, keepdims=True))
        d_k, d_v = np.einsum("bkrsz,bskrc->bzkc", d_scores * scale, q), np.einsum("bkrsz,bskrc->bzkc", mixing, d_mixed)
        return q_back(np.einsum("bkrsz,bzkc->bskrc", d_scores * scale, k)), k_back(d_k) + v_back(d_v), d_scores

    return y, back


def _feed_forward(run: Arithmetic, model: EncoderDecoderSpec, at: str, x: Array) -> Valued:
    """The MLP, with what is dropped of what enters its last matrix."""

    def dense(name: str, x: Array) -> Valued:
        x, dropped = run.dropout(at, "active_mask", x) if name == "down" and model.dropped_inside else (x, lambda dy: dy)
        y, back = run.dense(f"{at}/{name}", x)
        return y, chain(dropped, back)

    return up_and_down(model, dense, x)


def _last_norm(run: Arithmetic, model: EncoderDecoderSpec, at: str, x: Array) -> Valued:
    """The norm behind a stack, and dropout behind that."""
    x, normed = run.norm(f"{at}/norm", x, model.norm)
    x, dropped = run.dropout(at, "last_mask", x) if model.dropped_inside else (x, lambda dy: dy)
    return x, chain(normed, dropped)


def _head(run: Arithmetic, model: EncoderDecoderSpec, x: Array) -> Pullback:
    """From the last layer to the loss."""
    x, first = (x, lambda dy: dy) if model.norm_last else _last_norm(run, model, "head", x)
    logits, back = vocabulary(run, model, x)
    scale = 1 / (run.job.model.batch.global_batch * x.shape[1])
    return chain(first, back, run.cross_entropy(logits, run.draw("head", "labels", *x.shape[:2]), scale))


FORWARDS: Forwards = {**OTHERS, EncoderDecoderSpec: encoder_decoder}
