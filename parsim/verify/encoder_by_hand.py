"""An encoder-decoder model by hand: Vaswani et al. 2017 (arXiv:1706.03762), section 3."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from parsim.model.families.encoder_decoder import EncoderDecoderSpec
from parsim.model.transformer import TransformerSpec
from parsim.verify.arithmetic import Arithmetic, Pullback, Valued, chain
from parsim.verify.by_hand import FORWARDS as OTHERS
from parsim.verify.by_hand import Forwards, attention, feed_forward, head, residual, transformer_layer
from parsim_kernels.signature import Array


def encoder_decoder(run: Arithmetic) -> Pullback:
    """The loss of one micro_batch."""
    model, batch = run.job.spec, run.job.model.batch
    assert isinstance(model, EncoderDecoderSpec)
    count, lengths = int(run.job.sizes.dims["B"][0]), (batch.source, batch.sequence_length)
    memory, back = _embedding(run, model, "embedding", run.draw("embedding", "source_tokens", count, lengths[0]))
    encoder, decoder = [back], list[Pullback]()
    for i in range(model.encoder_layers):
        memory, back = transformer_layer(run, replace(model, causal=False), f"layer{i}", memory)
        encoder.append(back)
    if not model.norm_last:
        memory, back = run.norm("decoder_embedding/encoder_norm", memory, model.norm)
        encoder.append(back)
    d_memory = np.zeros_like(memory)

    def cross(run: Arithmetic, model: TransformerSpec, at: str, x: Array) -> Valued:
        return _cross(run, model, at, x, memory, d_memory)

    x, back = _embedding(run, model, "decoder_embedding", run.draw("decoder_embedding", "tokens", count, lengths[1]))
    decoder.append(back)
    for at in (f"layer{i}" for i in range(model.encoder_layers, model.num_layers)):
        x, own = residual(run, model, at, "norm1", attention, x)
        x, through_cross = residual(run, model, at, "cross_norm1", cross, x)
        x, mlp = residual(run, model, at, "norm2", feed_forward, x)
        decoder += [own, through_cross, mlp]
    decoder.append(head(run, model, x))

    def through(dy: Array) -> Array:
        chain(*decoder)(dy)
        return chain(*encoder)(d_memory)

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
    more, places = run.lookup(f"{at}/position.weight", np.broadcast_to(np.arange(length), tokens.shape))
    y, dropped = run.dropout(at, "embedding_mask", x + more)
    return y, lambda dy: words(places(dropped(dy)))


def _cross(run: Arithmetic, model: TransformerSpec, at: str, x: Array, memory: Array, d_memory: Array) -> Valued:
    """Attention of x to all of the memory, whose gradient is added to."""
    (q, q_back), (k, k_back), (v, v_back) = (
        run.dense(f"{at}/cross_{name}", each) for name, each in zip("qkv", (x, memory, memory), strict=True)
    )
    scores = np.einsum("bskrc,bzkc->bkrsz", q, k) / np.sqrt(model.head_dim)
    odds = np.exp(scores - scores.max(-1, keepdims=True))
    shares = odds / odds.sum(-1, keepdims=True)
    is_flash = run.job.model.stack.attention == "flash"  # without dropout of scores
    mixing, dropped = (shares, lambda dy: dy) if is_flash else run.dropout(at, "cross_scores_mask", shares)
    y, out = run.dense(f"{at}/cross_out", np.einsum("bkrsz,bzkc->bskrc", mixing, v), summed=3)

    def back(dy: Array) -> Array:
        d_mixed = out(dy)
        d_shares = dropped(np.einsum("bskrc,bzkc->bkrsz", d_mixed, v))
        d_scores = shares * (d_shares - (shares * d_shares).sum(-1, keepdims=True)) / np.sqrt(model.head_dim)
        d_memory[...] += k_back(np.einsum("bkrsz,bskrc->bzkc", d_scores, q)) + v_back(np.einsum("bkrsz,bskrc->bzkc", mixing, d_mixed))
        return q_back(np.einsum("bkrsz,bzkc->bskrc", d_scores, k))

    return y, back


FORWARDS: Forwards = {**OTHERS, EncoderDecoderSpec: encoder_decoder}
