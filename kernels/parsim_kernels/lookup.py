"""Kernels that index by token or position: embeddings, positions, rotations and the label's part of the loss.

A rank may hold only some rows of the vocabulary, those from `offset` on.  What lies elsewhere gives zeros: the shards sum to the whole.
Source: Shoeybi et al. 2019 (arXiv:1909.08053), section 3, for the split of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from parsim_kernels.blocks import BLOCK_BYTES, blocks
from parsim_kernels.signature import (
    Array,
    Attributes,
    Interval,
    KernelResult,
    Out,
    expression,
    fresh,
    integer,
    number,
    places,
    real,
    runs,
    terms,
)

_ROTARY_BASE = 10000.0  # longer contexts use a larger one; it changes no count


def lookup(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The rows of the table that the tokens name, from (tokens[B S], table[V D]): [B, S, D]; zeros for rows not held here.  0 FLOPs.

    Raises:
        ValueError: the tokens are no integers, or offset is missing.

    >>> lookup((np.array([[4, 0]]), np.array([[1.0], [2.0]])), {"offset": 3})[0][0].tolist()
    [[[2.0], [0.0]]]
    """
    tokens, table = inputs
    local, here = _local(tokens, attributes, len(table))
    y = out((*tokens.shape, *table.shape[1:]), real(table))
    if here.all():
        np.take(table, local, axis=0, out=y, mode="clip")  # "raise" would copy through a buffer
    else:
        y.fill(0)
        y[here] = table[local[here]]
    return (y,), 0


def lookup_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_table from (tokens, d_y, table_like), repeated tokens added up.  As many FLOPs as elements of d_y."""
    tokens, d_y, table_like = inputs
    if d_y.shape != (*tokens.shape, *table_like.shape[1:]):
        raise ValueError(f"d_y of shape {d_y.shape} fits no lookup of {tokens.shape} in {table_like.shape}")
    local, here = _local(tokens, attributes, len(table_like))
    d_table = out(table_like.shape, real(d_y))
    d_table.fill(0)
    width = math.prod(table_like.shape[1:])
    for part, rows in blocks(d_y[here].reshape(-1, width), local[here]):
        elements = rows[:, np.newaxis] * width + np.arange(width)  # numpy is several times faster at one dim
        np.add.at(d_table.reshape(-1), elements.reshape(-1), part.reshape(-1))
    return (d_table,), d_y.size


def position(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x[B T D] + the rows of table at the positions of attributes["offset"] (see `runs`).  As many FLOPs as elements of x.

    Raises:
        ValueError: the table does not reach so far.
    """
    x, table = inputs
    y = out(x.shape, real(x, table))
    for own, rows in _spans(x, table, attributes):
        np.add(x[:, own], table[rows], out=y[:, own])
    return (y,), x.size


def sinusoid(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x[B T D] + sines and cosines of the positions of attributes["offset"] (see `runs`).  As many FLOPs as elements of x.

    Elements 2 i and 2 i + 1 get the sine and the cosine of position x 10000^(-2 i / D).
    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5.

    >>> sinusoid((np.zeros((1, 1, 2)),), {"offset": 0})[0][0].tolist()
    [[[0.0, 1.0]]]
    """
    (x,) = inputs
    y = out(x.shape, real(x))
    for own, (start, stop) in places(runs(attributes, "offset", x.shape[1])):
        np.add(x[:, own], _waves(start, stop, x.shape[2]), out=y[:, own])
    return (y,), x.size


@lru_cache(maxsize=64)
def _waves(start: int, stop: int, width: int) -> Array:
    angles = np.arange(start, stop)[:, np.newaxis] * _ROTARY_BASE ** -(np.arange(width) // 2 * 2 / width)
    return np.where(np.arange(width) % 2, np.cos(angles), np.sin(angles))


def position_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_table of `position` from (d_y, table_like); rows not used are zero.  As many FLOPs as elements of d_y."""
    d_y, table_like = inputs
    d_table = out(table_like.shape, real(d_y))
    d_table.fill(0)
    for own, rows in _spans(d_y, table_like, attributes):
        np.add.reduce(d_y[:, own], axis=0, out=d_table[rows])
    return (d_table,), d_y.size


def first(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The first token of each text of x[B T D]: [B, D]; zeros where x, from attributes["offset"] on (see `runs`), lacks it.  0 FLOPs.

    >>> first((np.ones((1, 2, 1)),), {"offset": 2})[0][0].tolist()
    [[0.0]]
    """
    (x,) = inputs
    y, place = out((len(x), *x.shape[2:]), real(x)), _place_of_first(attributes, x.shape[1])
    y[...] = 0 if place is None else x[:, place]
    return (y,), 0


def first_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `first` from (d_y), attributes["length"] positions long: d_y at the first token, zeros elsewhere.  0 FLOPs."""
    (d_y,) = inputs
    length = integer(attributes, "length")
    d_x, place = out((len(d_y), length, *d_y.shape[1:]), real(d_y)), _place_of_first(attributes, length)
    d_x.fill(0)
    if place is not None:
        d_x[:, place] = d_y
    return (d_x,), 0


def _place_of_first(attributes: Attributes, length: int) -> int | None:
    return next((own.start for own, (start, _) in places(runs(attributes, "offset", length)) if start == 0), None)


def repeat(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """A row for each text, all alike, from (row [D], x [B ...]), of which the length alone is seen: [B, D].  0 FLOPs."""
    row, x = inputs
    y = out((len(x), *row.shape), real(row))
    y[...] = row
    return (y,), 0


def prepend(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """A first token before the others of each text, from (x [B n D], first [B D]): [B, n + 1, D].  0 FLOPs.

    >>> prepend((np.ones((1, 2, 1)), np.zeros((1, 1))), {})[0][0].ravel().tolist()
    [0.0, 1.0, 1.0]
    """
    x, row = inputs
    y = out((len(x), x.shape[1] + 1, *x.shape[2:]), real(x, row))
    y[:, 0], y[:, 1:] = row, x
    return (y,), 0


def prepend_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `prepend` from (d_y); that of the first token is `first`.  0 FLOPs."""
    (d_y,) = inputs
    d_x = out((len(d_y), d_y.shape[1] - 1, *d_y.shape[2:]), real(d_y))
    d_x[...] = d_y[:, 1:]
    return (d_x,), 0


def excerpt(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """The tokens of x[B n D] from attributes["start"] on, attributes["length"] of them.  0 FLOPs.

    Raises:
        ValueError: there are not so many.

    >>> excerpt((np.array([[4.0, 5.0, 6.0]]),), {"start": 1, "length": 2})[0][0].tolist()
    [[5.0, 6.0]]
    """
    (x,) = inputs
    start, length = integer(attributes, "start"), integer(attributes, "length")
    if not 0 <= start <= start + length <= x.shape[1]:
        raise ValueError(f"tokens {start} to {start + length} are not among {x.shape[1]}")
    y = out((len(x), length, *x.shape[2:]), real(x))
    y[...] = x[:, start : start + length]
    return (y,), 0


def excerpt_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `excerpt` from (d_y), attributes["whole"] tokens long: zeros elsewhere.  0 FLOPs."""
    (d_y,) = inputs
    start, whole = integer(attributes, "start"), integer(attributes, "whole")
    d_x = out((len(d_y), whole, *d_y.shape[2:]), real(d_y))
    d_x.fill(0)
    d_x[:, start : start + d_y.shape[1]] = d_y
    return (d_x,), 0


def take(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """Chunk attributes["chunk"] of the num_chunks equal ones of x[B S ...] along S.  0 FLOPs.

    Raises:
        ValueError: num_chunks does not divide S, or there is no such chunk.

    >>> take((np.array([[4, 5, 6, 7]]),), {"chunk": 1, "num_chunks": 2})[0][0].tolist()
    [[6, 7]]
    """
    (x,) = inputs
    chunk, num_chunks = integer(attributes, "chunk"), integer(attributes, "num_chunks")
    if x.shape[1] % num_chunks or not 0 <= chunk < num_chunks:
        raise ValueError(f"chunk {chunk} of {num_chunks} is none of a sequence of {x.shape[1]}")
    length = x.shape[1] // num_chunks
    y = out((len(x), length, *x.shape[2:]), x.dtype)
    y[...] = x[:, chunk * length : (chunk + 1) * length]
    return (y,), 0


def join(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """Chunks x[B X ...] one behind another along X.  0 FLOPs.

    >>> join((np.array([[4.0]]), np.array([[6.0]])), {})[0][0].tolist()
    [[4.0, 6.0]]
    """
    length = sum(x.shape[1] for x in inputs)
    y = out((len(inputs[0]), length, *inputs[0].shape[2:]), real(*inputs))
    np.concatenate(inputs, axis=1, out=y)
    return (y,), 0


def flatten(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x with two neighbouring dims merged into one, as in "B T D -> M D".  0 FLOPs.

    >>> flatten((np.zeros((2, 3, 1)),), {"expr": "B T D -> M D"})[0][0].shape
    (6, 1)
    """
    (x,) = inputs
    (before,), after = terms(expression(attributes), 1)
    at = next(i for i, dim in enumerate(before) if dim not in after)
    y = out((*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :]), real(x))
    y[...] = x.reshape(y.shape)
    return (y,), 0


def unflatten(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x with one dim cut into two, as in "M D -> B T D", the second of extent attributes["inner"].  0 FLOPs.

    >>> unflatten((np.zeros((6, 1)),), {"expr": "M D -> B T D", "inner": 3})[0][0].shape
    (2, 3, 1)
    """
    (x,) = inputs
    (before,), after = terms(expression(attributes), 1)
    at, inner = next(i for i, dim in enumerate(before) if dim not in after), integer(attributes, "inner")
    y = out((*x.shape[:at], x.shape[at] // inner, inner, *x.shape[at + 1 :]), real(x))
    y[...] = x.reshape(y.shape)
    return (y,), 0


def rotary(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x[B S ... C] with its pairs of elements (i, i + C / 2) turned by an angle that grows with the position.  3 n FLOPs.

    The positions are those of attributes["offset"] (see `runs`); the angle of a pair is position x 10000^(-2 i / C).
    With attributes["part"] only so many elements of each row, the last, are turned, as if they were all; n counts these.

    Raises:
        ValueError: C is odd, or the offset is missing or negative.

    Source: Su et al. 2021 (arXiv:2104.09864), section 3.2.2; pairs as in GPT-NeoX.  4 multiplications and 2 additions a pair.

    >>> rotary((np.ones((1, 1, 1, 2)),), {"offset": 0})[0][0].tolist()
    [[[[1.0, 1.0]]]]
    """
    return _rotate(inputs, attributes, 1, out)


def rotary_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """d_x of `rotary` from (d_y): turned back by the same angles.  3 n FLOPs."""
    return _rotate(inputs, attributes, -1, out)


def pick(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """x[B S V] at the label of each token, 0 where the label lies in another shard, from (x, labels).  0 FLOPs."""
    x, labels = _logits(inputs)
    local, here = _local(labels, attributes, x.shape[-1])
    picked = out(labels.shape, real(x))
    picked.fill(0)
    picked[here] = x[(*np.nonzero(here), local[here])]
    return (picked,), 0


def cross_entropy_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """(p - onehot(label)) x scale, the gradient of the logits, from (probabilities[B S V], labels[B S]), 0 in rows whose label is negative.
    2 n FLOPs.
    """
    probabilities, labels = _logits(inputs)
    local, here = _local(labels, attributes, probabilities.shape[-1])
    at, factor = (*np.nonzero(here), local[here]), number(attributes, "scale")
    of_labels = (probabilities[at] - 1) * factor
    d_x = np.multiply(probabilities, factor, out=out(probabilities.shape, real(probabilities)))
    d_x[at] = of_labels
    d_x[labels < 0] = 0
    return (d_x,), 2 * probabilities.size


def nll_loss_grad(inputs: Sequence[Array], attributes: Attributes, out: Out = fresh) -> KernelResult:
    """-onehot(label) x scale, the gradient of log-probabilities, and that of the logits, as `cross_entropy_grad`.  2 n FLOPs."""
    probabilities, labels = _logits(inputs)
    local, here = _local(labels, attributes, probabilities.shape[-1])
    factor, dtype = number(attributes, "scale"), real(probabilities)
    d_logs, d_x = out(probabilities.shape, dtype), out(probabilities.shape, dtype)
    d_logs.fill(0)
    d_logs[(*np.nonzero(here), local[here])] = -factor
    np.multiply(probabilities, factor, out=d_x)
    np.add(d_x, d_logs, out=d_x)
    d_x[labels < 0] = 0
    return (d_logs, d_x), 2 * probabilities.size


def _local(tokens: Array, attributes: Attributes, num_rows: int) -> tuple[Array, Array]:
    """Row numbers within this shard, and where they lie in it."""
    if tokens.dtype.kind not in "iu":
        raise ValueError(f"tokens and labels are integers, not {tokens.dtype}")
    local = tokens.astype(np.int64) - integer(attributes, "offset")
    here: Array = (local >= 0) & (local < num_rows)
    return local, here


def _spans(x: Array, table: Array, attributes: Attributes) -> Iterator[tuple[slice, slice]]:
    """Tokens of x, and the rows of their positions."""
    positions = runs(attributes, "offset", x.shape[1])
    if x.shape[2:] != table.shape[1:]:
        raise ValueError(f"rows of shape {table.shape[1:]} fit no positions of shape {x.shape[2:]}")
    for own, (start, stop) in places(positions):
        if stop > len(table):
            raise ValueError(f"positions {start} to {stop} leave a table of {len(table)} rows")
        yield own, slice(start, stop)


def _rotate(inputs: Sequence[Array], attributes: Attributes, sign: int, out: Out) -> KernelResult:
    (whole,) = inputs
    every = out(whole.shape, real(whole))
    part = integer(attributes, "part", whole.shape[-1])
    if part % 2 or not 0 < part <= whole.shape[-1]:
        raise ValueError(f"rotary turns pairs of elements from position 0 on, not {part} elements of {whole.shape[-1]}")
    every[..., :-part] = whole[..., :-part]
    x, y = whole[..., -part:], every[..., -part:]
    positions, half = runs(attributes, "offset", x.shape[1]), part // 2
    cosine, sine = (each.reshape(x.shape[1], *(1 for _ in x.shape[2:-1]), half) for each in _turn(positions, half, sign, y.dtype))
    for text, result in [(x, y)] if y.nbytes <= BLOCK_BYTES else zip(x, y, strict=True):
        first, second = text[..., :half], text[..., half:]
        turned, t = first * cosine, first * sine
        np.subtract(turned, second * sine, out=turned)
        np.add(second * cosine, t, out=result[..., half:])
        result[..., :half] = turned
    return (every,), 3 * x.size


@lru_cache(maxsize=16)
def _turn(positions: Sequence[Interval], half: int, sign: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Cosine and sine of the angle by which each pair [position, pair] is turned."""
    every = np.concatenate([np.arange(*run) for run in positions])
    angles = every[:, np.newaxis] * _ROTARY_BASE ** (-np.arange(half) / half)
    cosine, sine = np.cos(angles).astype(dtype), (sign * np.sin(angles)).astype(dtype)
    cosine.flags.writeable = sine.flags.writeable = False
    return cosine, sine


def _logits(inputs: Sequence[Array]) -> tuple[Array, Array]:
    x, labels = inputs
    if x.shape[:-1] != labels.shape:
        raise ValueError(f"one label a row is needed: shapes {x.shape} and {labels.shape}")
    return x, labels
