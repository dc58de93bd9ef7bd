"""Attention, unfused (the scores are arrays) and fused (flash).  Causal: a query s sees the keys z <= query_offset + s.

Shapes: q, o [B, S, K, R, C]; k, v [B, Z, K, C]; scores [B, K, R, S, Z]; lse [B, K, R, S].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim_kernels.pointwise import scale
from parsim_kernels.reduction import softmax, softmax_grad
from parsim_kernels.signature import Array, Attributes, Result, integer, number, same_shape


def causal_softmax(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """Softmax over the visible keys of scale x scores; masked elements are exactly 0.  5 n FLOPs, n the elements of the scores.

    Raises:
        ValueError: scale is missing, or query_offset is negative (a query would see no key).

    >>> causal_softmax((np.zeros((1, 1, 1, 2, 2)),), {"scale": 1.0})[0][0].tolist()
    [[[[[1.0, 0.0], [0.5, 0.5]]]]]
    """
    (masked,), _ = causal_scale(inputs, attributes)
    return softmax((masked,), {})


def causal_softmax_grad(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """d_scores of `causal_softmax` from (y, d_y): scale y (d_y - sum(y d_y)).  4 n FLOPs."""
    (d_scaled,), flops = softmax_grad(inputs, {})
    return (number(attributes, "scale") * d_scaled,), flops


def causal_scale(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """scale x scores, -inf where the key is masked; no softmax.  n FLOPs."""
    (scores,) = inputs
    visible = _visible(scores.shape[-2], scores.shape[-1], attributes)
    return (np.where(visible, number(attributes, "scale") * scores, -np.inf),), scores.size


def scaled_softmax(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """Softmax over all keys of scale x scores; its gradient is `causal_softmax_grad`.  5 n FLOPs.

    >>> scaled_softmax((np.zeros((1, 1, 1, 1, 2)),), {"scale": 1.0})[0][0].tolist()
    [[[[[0.5, 0.5]]]]]
    """
    (scaled,), _ = scale(inputs, attributes)
    return softmax((scaled,), {})


def flash_attention(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """(o, lse) of attention from (q, k, v); lse is the log of the sum of the exponentials, by query.

    Causal unless attributes["causal"] is 0, which lets every query see every key.

    FLOPs: 4 C a visible pair of query and key (two contractions), pairs counted from the mask.

    Raises:
        ValueError: the shapes do not fit, scale is missing, or query_offset is negative.

    Source: Dao 2023 (arXiv:2307.08691), algorithm 1; the FLOPs of section 4.1, with the pairs counted exactly.
    """
    q, k, v = inputs
    _check(q, k, v)
    scores, pairs = _masked_scores(q, k, attributes)
    maximum = scores.max(axis=-1)
    lse = maximum + np.log(np.exp(scores - maximum[..., np.newaxis]).sum(axis=-1))
    probabilities = np.exp(scores - lse[..., np.newaxis])
    o = _queries_out(_rows(probabilities) @ _keys(v), q.shape)
    return (o, lse), 4 * q.shape[-1] * pairs


def flash_attention_grad(inputs: Sequence[Array], attributes: Attributes) -> Result:
    """(d_q, d_k, d_v) from (q, k, v, o, lse, d_o); the probabilities are computed again from lse.

    FLOPs: 10 C a visible pair (five contractions, the repeated scores included).

    Source: Dao 2023 (arXiv:2307.08691), algorithm 2.
    """
    q, k, v, o, lse, d_o = inputs
    _check(q, k, v)
    same_shape(q, o, d_o)
    scores, pairs = _masked_scores(q, k, attributes)
    probabilities = np.exp(scores - lse[..., np.newaxis])
    d_out, keys, values = _rows(_queries(d_o)), _keys(k), _keys(v)
    d_v = _transposed(_rows(probabilities)) @ d_out
    d_probabilities = (d_out @ _transposed(values)).reshape(probabilities.shape)
    delta = _queries(o * d_o).sum(axis=-1, keepdims=True)  # = the sum of y d_y over the keys
    d_scores = _rows(number(attributes, "scale") * probabilities * (d_probabilities - delta))
    d_q = _queries_out(d_scores @ keys, q.shape)
    d_k = _transposed(d_scores) @ _rows(_queries(q))
    return (d_q, _keys_out(d_k), _keys_out(d_v)), 10 * q.shape[-1] * pairs


def _visible(num_queries: int, num_keys: int, attributes: Attributes) -> Array:
    offset = integer(attributes, "query_offset", 0)
    if offset < 0:
        raise ValueError(f"attribute 'query_offset' is {offset}: the first query would see no key")
    return np.asarray(np.arange(num_keys) <= offset + np.arange(num_queries)[:, np.newaxis])


def _masked_scores(q: Array, k: Array, attributes: Attributes) -> tuple[Array, int]:
    """Scaled scores with -inf where masked, and the visible pairs of all heads and sequences."""
    batch, num_queries, kv_heads, queries_per_kv_head, _ = q.shape
    everything = np.ones((num_queries, k.shape[1]), dtype=bool)
    visible = _visible(num_queries, k.shape[1], attributes) if integer(attributes, "causal", 1) else everything
    scores = _rows(_queries(q)) @ _transposed(_keys(k))
    whole = scores.reshape(batch, kv_heads, queries_per_kv_head, *visible.shape)
    masked = np.where(visible, number(attributes, "scale") * whole, -np.inf)
    return masked, int(np.count_nonzero(visible)) * batch * kv_heads * queries_per_kv_head


def _queries(q: Array) -> Array:
    return q.transpose(0, 2, 3, 1, 4)  # B S K R C -> B K R S C


def _queries_out(rows: Array, shape: tuple[int, ...]) -> Array:
    b, s, k, r, c = shape
    return np.ascontiguousarray(rows.reshape(b, k, r, s, c).transpose(0, 3, 1, 2, 4))


def _keys(k: Array) -> Array:
    return k.transpose(0, 2, 1, 3)  # B Z K C -> B K Z C


def _keys_out(k: Array) -> Array:
    return np.ascontiguousarray(k.transpose(0, 2, 1, 3))


def _rows(array: Array) -> Array:
    b, k, r, s, last = array.shape  # B K R S x -> B K (R S) x: the queries of one kv head are one matrix
    return array.reshape(b, k, r * s, last)


def _transposed(matrix: Array) -> Array:
    return matrix.swapaxes(-1, -2)


def _check(q: Array, k: Array, v: Array) -> None:
    same_shape(k, v)
    if q.ndim != 5 or k.ndim != 4 or (q.shape[0], q.shape[2], q.shape[4]) != (k.shape[0], k.shape[2], k.shape[3]):
        raise ValueError(f"q [B, S, K, R, C] and k [B, Z, K, C] do not fit: shapes {q.shape} and {k.shape}")
