"""Sequences of several lengths, packed into rows or padded to one: tables of whole numbers that all readers of a step share.

Packed, each row of a step holds the documents of one and the same row of the data, and perhaps padding behind them as one more, and
attention that takes lengths sees a token's own document alone; padded, a row holds one document.  Positions count through a row.
Source: pytorch/torchtune, torchtune/datasets/_packed.py (PackedDataset: padding is the last of seq_lens, its labels are ignored), and
torchtune/data/_collate.py (padded_collate_sft); Johnson 1973 (MIT thesis), for first fit.
"""

from __future__ import annotations

import functools
from itertools import accumulate, chain, pairwise
from typing import Final

import numpy as np
from msgspec.structs import replace

from parsim.model.op import Block, Op, OpAttributes

PACKED, PADDED = PACKINGS = ("packed", "padded")
LABELS: Final = "labels"  # of tokens; those of padding are IGNORED
IGNORED: Final = -1
_BY_DOCUMENT: OpAttributes = (("documents", "documents"),)


@functools.lru_cache(maxsize=64)
def packed_rows(lengths: tuple[int, ...], row: int) -> tuple[tuple[int, ...], ...]:
    """The documents of each row of so many tokens: one after another, each into the first row that has room; longer ones are cut.

    >>> packed_rows((5, 4, 3, 9, 2), 8)
    ((5, 3), (4, 2), (8,))
    """
    rooms, rows = np.full(len(lengths), row, dtype=np.int64), list[list[int]]()
    for length in (min(each, row) for each in lengths):
        at = int(np.argmax(rooms >= length))
        rows += [[]] if at == len(rows) else []
        rows[at].append(length)
        rooms[at] -= length
    return tuple(map(tuple, rows))


@functools.lru_cache(maxsize=64)
def typical_row(lengths: tuple[int, ...], row: int) -> tuple[int, ...]:
    """Of these rows the one whose pairs of query and key, of a document each, come nearest the mean of all; of several, that whose tokens
    do, and of those the first.

    >>> typical_row((5, 4, 3, 9, 2), 8)
    (5, 3)
    """
    rows = packed_rows(lengths, row)
    pairs, tokens = [sum(n * (n + 1) // 2 for n in each) for each in rows], [*map(sum, rows)]
    off = [[abs(len(rows) * each - sum(every)) for each in every] for every in (pairs, tokens)]
    return rows[min(range(len(rows)), key=lambda at: (off[0][at], off[1][at]))]


def with_rest(documents: tuple[int, ...], row: int) -> tuple[int, ...]:
    """With the padding behind them as the last.

    >>> with_rest((5, 2), 8)
    (5, 2, 1)
    """
    return (*documents, *filter(None, [row - sum(documents)]))


@functools.lru_cache(maxsize=64)
def padded_lengths(lengths: tuple[int, ...], row: int, count: int) -> tuple[int, ...]:
    """The tokens of the `count` sequences of a step, spread evenly over those of all, from short to long; longer than a row are cut.

    >>> padded_lengths((5, 4, 3, 9), 8, 2), padded_lengths((5, 3), 8, 4)
    ((4, 8), (3, 3, 5, 5))
    """
    ranked = sorted(lengths)
    return tuple(min(ranked[(2 * at + 1) * len(ranked) // (2 * count)], row) for at in range(count))


def spans(documents: tuple[int, ...]) -> list[tuple[int, int]]:
    """The first position of each, and the one behind its last.

    >>> spans((5, 3))
    [(0, 5), (5, 8)]
    """
    return [*pairwise(chain([0], accumulate(documents)))]


def with_lengths(block: Block, *, by_document: bool) -> Block:
    """The block with a loss that leaves out what is ignored, and perhaps with attention that sees a document at a time."""
    return replace(block, ops=tuple(_with_length(op, by_document=by_document) for op in block.ops))


def _with_length(op: Op, *, by_document: bool) -> Op:
    if op.kind in ("flash_attention", "sink_attention") and by_document:
        return replace(op, attributes=(*op.attributes, *_BY_DOCUMENT))
    if op.kind == "loss_sum":
        (row,), _ = op.terms
        dims = " ".join(row)
        return replace(op, inputs=(*op.inputs, LABELS), expr=f"{dims}, {dims} -> ")
    return op
