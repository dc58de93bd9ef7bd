"""Attention, unfused (the scores are arrays) and fused (flash).  Causal: a query sees the keys at its position and before it.

The positions of queries and keys are attributes, query_offset and key_offset (see `runs`), both from 0 on where left out.  Where there is
a `window`, a query sees of its keys the last so many, with `two_sided` the next as well; with `chunked` those of its own chunk, of which a
sequence is a row; with `documents`, the tokens of each that a sequence is made of, those of its own document alone.
`slopes` of all heads [K R] lower a score by a slope for each token between query and key.
Shapes: q [B, S, K, R, C]; k [B, Z, K, C]; v [B, Z, K, W]; o [B, S, K, R, W]; scores [B, K, R, S, Z]; lse [B, K, R, S]; W mostly is C.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from parsim_kernels.blocks import BLOCK_BYTES
from parsim_kernels.pointwise import scale
from parsim_kernels.reduction import softmax, softmax_slope
from parsim_kernels.scores import Factor, factor_of
from parsim_kernels.signature import Array, Attributes, Interval, KernelResult, Out, fresh, integer, number, places, real, runs, same_shape

_TILE = 64  # queries at a time: keys behind the last one that they see cost nothing


def causal_softmax(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """Softmax over the visible keys of scale x scores; masked elements are exactly 0.  5 n FLOPs, n the elements of the scores.

    Raises:
        ValueError: scale is missing, or query_offset is negative (a query would see no key).

    >>> causal_softmax((np.zeros((1, 1, 1, 2, 2)),), {"scale": 1.0})[0][0].tolist()
    [[[[[1.0, 0.0], [0.5, 0.5]]]]]
    """
    (scores,) = inputs
    pieces = _pieces(scores.shape[-2], scores.shape[-1], attributes)
    if not _is_whole(pieces, *scores.shape[-2:]):
        (masked,), _ = causal_scale(inputs, attributes, out)
        return softmax((masked,), {}, lambda shape, dtype: masked)
    y, factor = out(scores.shape, real(scores)), number(attributes, "scale")
    heads, results = (array.reshape(-1, *scores.shape[-2:]) for array in (scores, y))
    for queries, keys, ceiling in _tiles(pieces[0].mask, y.dtype):
        step = _heads_a_block(ceiling)
        for start in range(0, len(heads), step):
            whole = results[start : start + step, queries]
            visible = whole[..., keys]
            whole[..., : keys.start] = 0
            np.multiply(heads[start : start + step, queries, keys], factor, out=visible)
            np.minimum(visible, ceiling, out=visible)
            np.subtract(visible, np.maximum.reduce(visible, axis=-1, keepdims=True), out=visible)
            np.exp(visible, out=visible)
            whole[..., keys.stop :] = 0
            np.divide(visible, np.add.reduce(whole, axis=-1, keepdims=True), out=visible)  # of whole rows: the same bits as `softmax`
    return (y,), 5 * scores.size


def causal_softmax_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_scores of `causal_softmax` from (y, d_y): scale y (d_y - sum(y d_y)).  4 n FLOPs."""
    return (softmax_slope(inputs, number(attributes, "scale"), out),), 4 * inputs[0].size


def sink_softmax(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """Softmax over keys and a sink that mixes nothing, from (scores, sinks [K, R]).  5 n FLOPs.

    Source: OpenAI 2025 (arXiv:2508.10925), section 2.2; Xiao et al. 2023 (arXiv:2309.17453), section 3.3.

    >>> sink_softmax((np.zeros((1, 1, 1, 1, 3)), np.zeros((1, 1))), {})[0][0].tolist()
    [[[[[0.25, 0.25, 0.25]]]]]
    """
    scores, sinks = inputs
    y, sink = out(scores.shape, real(scores, sinks)), sinks[..., np.newaxis, np.newaxis]
    top = np.maximum(np.maximum.reduce(scores, axis=-1, keepdims=True), sink)
    np.exp(np.subtract(scores, top, out=y), out=y)
    np.divide(y, np.add.reduce(y, axis=-1, keepdims=True) + np.exp(sink - top), out=y)
    return (y,), 5 * scores.size


def sink_softmax_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_sinks of `sink_softmax` from (y, d_y): what each query's sink has of the weight, times minus sum(y d_y).  3 n FLOPs."""
    y, d_y = inputs
    own = (1 - np.add.reduce(y, axis=-1)) * np.add.reduce(y * d_y, axis=-1)
    return (np.negative(own.sum(axis=(0, 3)), out=out(y.shape[1:3], real(y, d_y))),), 3 * y.size


def causal_scale(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """scale x scores, -inf where the key is masked; no softmax.  n FLOPs."""
    (scores,) = inputs
    y, factor = out(scores.shape, real(scores)), number(attributes, "scale")
    np.multiply(scores, factor, out=y)
    seen = np.zeros(scores.shape[-2:], dtype=bool)
    for piece in _pieces(scores.shape[-2], scores.shape[-1], attributes):
        seen[piece.queries, piece.keys] = piece.mask.visible
    np.copyto(y, -np.inf, where=~seen)
    return (y,), scores.size


def scaled_softmax(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """Softmax over all keys of scale x scores; its gradient is `causal_softmax_grad`.  5 n FLOPs.

    >>> scaled_softmax((np.zeros((1, 1, 1, 1, 2)),), {"scale": 1.0})[0][0].tolist()
    [[[[[0.5, 0.5]]]]]
    """
    (y,), _ = scale(inputs, attributes, out)
    return softmax((y,), {}, lambda shape, dtype: y)


def flash_attention(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(o, lse) of attention from (q, k, v) and perhaps sinks [K, R]; lse is the log of the sum of the exponentials, by query, and -inf
    where it sees no key.  A sink is a key of that score, which mixes nothing.

    Causal unless attributes["causal"] is 0, which lets every query see every key; with attributes["cap"], scores are capped.

    FLOPs: 2 (C + W) a visible pair of query and key (two contractions), pairs counted from the mask.

    Raises:
        ValueError: the shapes do not fit, scale is missing, or a position is negative.

    Source: Dao 2023 (arXiv:2307.08691), algorithm 1; the FLOPs of section 4.1, with the pairs counted exactly.
    """
    q, k, v, *sinks = inputs
    _check(q, k, v)
    dtype, factor = real(q, k, v), factor_of(q, attributes)
    o, lse = out((*q.shape[:-1], v.shape[-1]), dtype), out((*q.shape[:1], *q.shape[2:4], q.shape[1]), dtype)
    pieces = _pieces(q.shape[1], k.shape[1], attributes)
    if _is_whole(pieces, q.shape[1], k.shape[1]):
        _attend(q, k, v, pieces[0].mask, factor, o, lse)
    else:
        o.fill(0)
        lse.fill(-np.inf)
        _attend_more(q, k, v, pieces, factor, o, lse)
    if sinks:
        total = np.logaddexp(lse, sinks[0][..., np.newaxis])
        np.multiply(o, _by_query(np.exp(lse - total)), out=o)
        lse[...] = total
    return (o, lse), 2 * (q.shape[-1] + v.shape[-1]) * _num_pairs(q, pieces)


def sinks_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_sinks of `flash_attention` from (o, d_o, lse, sinks): minus a sink's weight, times the sum of o d_o.  2 n FLOPs."""
    o, d_o, lse, sinks = inputs
    same_shape(o, d_o)
    own = np.exp(sinks[..., np.newaxis] - lse) * np.add.reduce(o * d_o, axis=-1).transpose(0, 2, 3, 1)
    return (np.negative(own.sum(axis=(0, 3)), out=out(sinks.shape, real(o, d_o))),), 2 * o.size


def flash_attention_more(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(o, lse) of attention to the keys so far and to those of (k, v), from (o, lse, q, k, v).  FLOPs as `flash_attention`."""
    before, its, q, k, v = inputs
    _check(q, k, v)
    same_shape(before[..., 0], q[..., 0])
    o, lse = out(before.shape, before.dtype), out(its.shape, its.dtype)
    o[...], lse[...] = before, its
    pieces = _pieces(q.shape[1], k.shape[1], attributes)
    _attend_more(q, k, v, pieces, factor_of(q, attributes), o, lse)
    return (o, lse), 2 * (q.shape[-1] + v.shape[-1]) * _num_pairs(q, pieces)


def _attend_more(q: Array, k: Array, v: Array, pieces: Iterable[_Piece], factor: Factor, o: Array, lse: Array) -> None:
    for piece in pieces:
        own = q[:, piece.queries]
        more, its = np.empty((*own.shape[:-1], v.shape[-1]), o.dtype), np.empty((*lse.shape[:3], own.shape[1]), o.dtype)
        _attend(own, k[:, piece.keys], v[:, piece.keys], piece.mask, factor, more, its)
        merge(o[:, piece.queries], lse[..., piece.queries], more, its)


def _attend(q: Array, k: Array, v: Array, mask: _Mask, factor: Factor, o: Array, lse: Array) -> None:
    for text, heads, queries, keys, ceiling in _head_tiles(q, mask, o.dtype):
        scores = _scores(_rows(q[text, queries, heads]), k[text, keys, heads], factor, ceiling)
        factor.lower(scores, heads, mask.distances(queries, keys))
        maximum = np.maximum.reduce(scores, axis=-1, keepdims=True)
        np.exp(np.subtract(scores, maximum, out=scores), out=scores)
        total = np.add.reduce(scores, axis=-1, keepdims=True)
        mixed = (scores @ _heads_first(v[text, keys, heads])) / total
        o[text, queries, heads] = _from_rows(mixed, o[text, queries, heads].shape)
        lse[text, heads, :, queries] = (maximum + np.log(total)).reshape(lse[text, heads, :, queries].shape)


def merge(o: Array, lse: Array, more: Array, its: Array) -> None:
    """Over (o, lse) of attention to some keys that to others as well, (more, its).

    Source: Liu et al. 2023 (arXiv:2310.01889), section 3; Milakov and Gimelshein 2018 (arXiv:1805.02867), algorithm 3.
    """
    total = np.logaddexp(lse, its)
    for values, own in ((o, lse), (more, its)):
        np.multiply(values, _by_query(np.exp(own - total)), out=values)
    np.add(o, more, out=o)
    lse[...] = total


def _by_query(lse: Array) -> Array:
    """B K R S as B S K R 1."""
    return lse.transpose(0, 3, 1, 2)[..., np.newaxis]


def flash_attention_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(d_q, d_k, d_v) from (q, k, v, o, lse, d_o); the probabilities are computed again from lse.

    FLOPs: 6 C + 4 W a visible pair (five contractions, the repeated scores included).

    Source: Dao 2023 (arXiv:2307.08691), algorithm 2.
    """
    q, k, v, o, lse, d_o = inputs
    _check(q, k, v)
    same_shape(o, d_o)
    dtype, factor = real(q, k, v, o, d_o), factor_of(q, attributes)
    d_q, d_k, d_v = (out(array.shape, dtype) for array in (q, k, v))
    pieces = _pieces(q.shape[1], k.shape[1], attributes)
    for gradient in (d_q, d_k, d_v):
        gradient.fill(0)
    for piece in pieces:
        of_queries = [array[:, piece.queries] for array in (q, o, d_o, d_q)]
        of_keys = [array[:, piece.keys] for array in (k, v, d_k, d_v)]
        _add_gradients(of_queries, of_keys, lse[..., piece.queries], piece.mask, factor)
    return (d_q, d_k, d_v), (6 * q.shape[-1] + 4 * v.shape[-1]) * _num_pairs(q, pieces)


def _add_gradients(of_queries: Sequence[Array], of_keys: Sequence[Array], lse: Array, mask: _Mask, factor: Factor) -> None:
    (q, o, d_o, d_q), (k, v, d_k, d_v) = of_queries, of_keys
    for text, heads, queries, keys, ceiling in _head_tiles(q, mask, d_q.dtype):
        rows, d_out = _rows(q[text, queries, heads]), _rows(d_o[text, queries, heads])
        probabilities = _scores(rows, k[text, keys, heads], factor, ceiling)
        slope = factor.slope(probabilities)
        factor.lower(probabilities, heads, mask.distances(queries, keys))
        np.subtract(probabilities, lse[text, heads, :, queries].reshape(*rows.shape[:2], 1), out=probabilities)
        np.exp(probabilities, out=probabilities)
        d_scores = d_out @ _heads_first(v[text, keys, heads]).swapaxes(-1, -2)
        delta = np.add.reduce(_rows(o[text, queries, heads]) * d_out, axis=-1, keepdims=True)  # = the sum of y d_y over the keys
        np.subtract(d_scores, delta, out=d_scores)
        d_values = _heads_first(d_v[text, keys, heads])
        np.add(d_values, probabilities.swapaxes(-1, -2) @ d_out, out=d_values)
        np.multiply(d_scores, np.multiply(probabilities, slope, out=probabilities), out=d_scores)
        d_q[text, queries, heads] += _from_rows(d_scores @ _heads_first(k[text, keys, heads]), q[text, queries, heads].shape)
        d_keys = _heads_first(d_k[text, keys, heads])
        np.add(d_keys, d_scores.swapaxes(-1, -2) @ rows, out=d_keys)


class _Mask(NamedTuple):
    """Query i sees the first `first + i` keys, or those that there are, but for all before the last `window` of so many."""

    num_queries: int
    num_keys: int
    first: int
    window: int = 0  # 0: none

    def num_visible(self, query: int) -> int:
        return min(self.first + query, self.num_keys)

    def num_hidden(self, query: int) -> int:
        return max(self.first + query - self.window, 0) if self.window else 0

    def distances(self, queries: slice, keys: slice) -> Array:
        """Tokens from each of some keys to each of some queries."""
        return np.arange(queries.start, queries.stop)[:, np.newaxis] + (self.first - 1) - np.arange(keys.start, keys.stop)

    @property
    def visible(self) -> Array:
        keys, end = np.arange(self.num_keys), np.arange(self.num_queries)[:, np.newaxis] + self.first
        return (keys < end) & (keys >= end - self.window) if self.window else np.asarray(keys < end)

    def num_pairs(self) -> int:
        ends = np.arange(self.num_queries) + self.first
        hidden = np.maximum(ends - self.window, 0) if self.window else 0
        return int((np.minimum(ends, self.num_keys) - hidden).sum())


class _Piece(NamedTuple):
    """Some neighbouring queries, and neighbouring keys of which each query sees one at least."""

    queries: slice
    keys: slice
    mask: _Mask


def _pieces(num_queries: int, num_keys: int, attributes: Attributes) -> list[_Piece]:
    """Each run of queries with each of keys of which it sees some."""
    queries, keys = _runs(num_queries, "query_offset", attributes), _runs(num_keys, "key_offset", attributes)
    if not integer(attributes, "causal", 1):
        return [_Piece(slice(0, num_queries), slice(0, num_keys), _Mask(num_queries, num_keys, num_keys))]
    window, chunked = integer(attributes, "window", 0), integer(attributes, "chunked", 0)
    ahead = window - 1 if integer(attributes, "two_sided", 0) else 0  # as a query of a later place sees them
    queries, window = tuple((start + ahead, stop + ahead) for start, stop in queries), window + ahead
    chunk, found, ends = window if chunked else 0, [], _ends(attributes)
    for own, (query, end) in _in_rooms(queries, chunk, ends):
        for its, (key, stop) in _in_rooms(keys, chunk, ends):
            if _room(query, chunk, ends) != _room(key, chunk, ends):
                continue
            lead = max(key - query, 0)  # queries before the first key
            end_of_sight = end if chunked or not window else min(end, stop - 1 + window)
            if query + lead < end_of_sight:
                mask = _Mask(end_of_sight - query - lead, stop - key, query + lead - key + 1, 0 if chunked else window)
                found.append(_Piece(slice(own.start + lead, own.stop - end + end_of_sight), its, mask))
    return found


def _ends(attributes: Attributes) -> tuple[int, ...]:
    """Where each document of a sequence ends."""
    documents = attributes.get("documents", ())
    if not isinstance(documents, tuple):
        raise ValueError(f"attribute 'documents' is {documents!r}: no tuple of their lengths")
    return tuple(accumulate(documents))


def _room(position: int, chunk: int, ends: Sequence[int]) -> tuple[int, int]:
    """The numbers of the chunk and of the document where a position lies."""
    return position // chunk if chunk else 0, bisect_right(ends, position)


def _in_rooms(positions: Iterable[Interval], chunk: int, ends: Sequence[int]) -> Iterator[tuple[slice, Interval]]:
    """As `places`, with runs cut where a chunk ends, 0: no chunks, or a document."""
    for own, (start, stop) in places(positions):
        cuts = {start, *(range(start - start % chunk + chunk, stop, chunk) if chunk else ()), *ends[bisect_right(ends, start) :], stop}
        for first, last in pairwise(sorted(cut for cut in cuts if cut <= stop)):
            yield slice(own.start + first - start, own.start + last - start), (first, last)


def _is_whole(pieces: Sequence[_Piece], num_queries: int, num_keys: int) -> bool:
    """Whether the first piece is all."""
    return bool(pieces) and pieces[0].mask[:2] == (num_queries, num_keys)


def _runs(length: int, name: str, attributes: Attributes) -> tuple[Interval, ...]:
    if isinstance(first := attributes.get(name, 0), int) and first < 0:
        raise ValueError(f"attribute {name!r} is {first}: the first query would see no key")
    return runs(attributes, name, length, 0)


def _num_pairs(q: Array, pieces: Iterable[_Piece]) -> int:
    """Visible pairs of query and key over all heads and sequences."""
    num_heads: int = q.shape[0] * q.shape[2] * q.shape[3]
    return sum(piece.mask.num_pairs() for piece in pieces) * num_heads


def _tiles(mask: _Mask, dtype: np.dtype[Any], copies: int = 1) -> Iterator[tuple[slice, slice, Array]]:
    """A few queries, the keys that one of them sees, and what their scores cannot exceed: -inf where masked."""
    for start in range(0, mask.num_queries, _TILE):
        stop = min(start + _TILE, mask.num_queries)
        hidden, end = mask.num_hidden(start), mask.num_visible(stop - 1)
        first = mask.first + start - hidden if mask.window else mask.num_visible(start)
        own = _Mask(stop - start, end - hidden, first, mask.window)
        yield slice(start, stop), slice(hidden, end), _mask_ceiling(own, dtype, copies)


@lru_cache(maxsize=16)  # 4 MiB of tiles of 512 keys in float64
def _mask_ceiling(mask: _Mask, dtype: np.dtype[Any], copies: int) -> Array:
    """-inf where a key is masked, else inf.  For `copies` heads in turn."""
    ceiling = np.tile(np.where(mask.visible, np.inf, -np.inf).astype(dtype), (copies, 1))
    ceiling.flags.writeable = False
    return ceiling


def _heads_a_block(ceiling: Array) -> int:
    return max(BLOCK_BYTES // (ceiling.size * ceiling.itemsize or 1), 1)


def _head_tiles(q: Array, mask: _Mask, dtype: np.dtype[Any]) -> Iterator[tuple[int, slice, slice, slice, Array]]:
    """Sequence, kv heads, queries, keys and the ceiling of a block of scores that fits the cache."""
    batch, _, kv_heads, queries_per_kv_head, _ = q.shape
    for queries, keys, ceiling in _tiles(mask, dtype, queries_per_kv_head):
        step = _heads_a_block(ceiling)
        for text in range(batch):
            for start in range(0, kv_heads, step):
                yield text, slice(start, min(start + step, kv_heads)), queries, keys, ceiling


def _scores(rows: Array, k: Array, factor: Factor, ceiling: Array) -> Array:
    """Scaled and perhaps capped scores, -inf where masked: [K, R S, Z]."""
    scores: Array = rows @ _heads_first(k).swapaxes(-1, -2)
    np.multiply(scores, factor.scale / (factor.cap or 1.0), out=scores)
    if factor.cap:
        np.multiply(np.tanh(scores, out=scores), factor.cap, out=scores)
    np.minimum(scores, ceiling, out=scores)
    return scores


def _rows(q: Array) -> Array:
    s, k, r, c = q.shape
    return q.transpose(1, 2, 0, 3).reshape(k, r * s, c)  # S K R C -> K (R S) C: the queries of one kv head are one matrix


def _from_rows(rows: Array, shape: tuple[int, ...]) -> Array:
    s, k, r, c = shape
    return rows.reshape(k, r, s, c).transpose(2, 0, 1, 3)


def _heads_first(k: Array) -> Array:
    return k.swapaxes(0, 1)  # Z K C -> K Z C


def _check(q: Array, k: Array, v: Array) -> None:
    same_shape(k[..., 0], v[..., 0])
    if q.ndim != 5 or k.ndim != 4 or (q.shape[0], q.shape[2], q.shape[4]) != (k.shape[0], k.shape[2], k.shape[3]):
        raise ValueError(f"q [B, S, K, R, C] and k [B, Z, K, C] do not fit: shapes {q.shape} and {k.shape}")
