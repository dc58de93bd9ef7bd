"""What tokens see and are trained on, from the lengths of sequences and from windows, a second time: token by token."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from parsim.model.documents import PACKED
from parsim_kernels.signature import Array

if TYPE_CHECKING:
    from parsim.parallel.plan import Batch
    from parsim.verify.arithmetic import Arithmetic


def sight(run: Arithmetic, length: int, window: int, chunk: int, *, is_causal: bool) -> Array:
    """Whether a token, a row, sees another: none so many tokens off, of another chunk or document, and perhaps none behind it."""
    place = np.arange(length)
    ahead = np.subtract.outer(place, place)
    if not is_causal:
        return np.asarray(abs(ahead) < (window or length))
    near = ahead < (window or length) if not (window and chunk) else np.equal.outer(place // chunk, place // chunk)
    found, batch = np.asarray((ahead >= 0) & near), run.job.model.batch
    if batch.packing == PACKED and run.job.model.stack.attention == "flash":
        owner = _owners(batch)
        found = found & np.equal.outer(owner, owner)
    return found


def labels(run: Arithmetic, count: int, length: int) -> tuple[Array, Array, float]:
    """Labels of the present micro_batch, whether the loss is of each, and one over the tokens of a step that it is of."""
    batch, drawn = run.job.model.batch, run.draw("head", "labels", count, length)
    if not batch.packing:
        first = run.job.spec.image_tokens
        own = np.broadcast_to(np.arange(length) >= first, drawn.shape)
        return np.where(own, drawn, 0), own.astype(float), 1 / (batch.global_batch * (length - first))
    every = np.array([_is_trained(batch, row) for row in range(batch.global_batch)])
    own = every[[(run.micro_batch * count + row) % batch.global_batch for row in range(count)]]
    return np.where(own, drawn, 0), own.astype(float), 1 / float(every.sum())


def _is_trained(batch: Batch, row: int) -> Array:
    length = batch.sequence_length
    if batch.packing == PACKED:
        return np.asarray(_owners(batch) >= 0)
    ranked = sorted(batch.lengths)
    middle = Fraction(2 * row + 1, 2 * batch.global_batch)  # of the part of all sequences that this one stands for
    return np.arange(length) < ranked[int(middle * len(ranked))]


@functools.lru_cache(maxsize=8)  # every row of every micro_batch asks
def _owners(batch: Batch) -> Array:
    """The number of the document that each token of a row is of; -1: padding."""
    rows = list[list[int]]()
    for each in batch.lengths:
        size = min(each, batch.sequence_length)
        row = next((row for row in rows if len(row) + size <= batch.sequence_length), None)
        if row is None:
            rows.append(row := [])
        row += [max(row, default=-1) + 1] * size
    seen = [sum(place - row.index(of) + 1 for place, of in enumerate(row)) for row in rows]
    mean, tokens = Fraction(sum(seen), len(rows)), Fraction(sum(map(len, rows)), len(rows))
    best = min(range(len(rows)), key=lambda at: (abs(seen[at] - mean), abs(len(rows[at]) - tokens)))
    return np.array(rows[best] + [-1] * (batch.sequence_length - len(rows[best])))
