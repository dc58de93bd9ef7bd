"""Executes the transfers of a collective chunk by chunk, in lockstep.  Which transfers there are is the algorithm's business."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Literal, NamedTuple

import numpy as np

from parsim_kernels.signature import Array

Operator = Literal["copy", "sum", "max"]
Chunks = list[list[Array | None]]  # by position in the group, then by chunk; None: not there yet


class Transfer(NamedTuple):
    """One message of a collective: `src` sends `chunk`; `dst` adds it in, or overwrites its own.  Both are positions in the group."""

    step: int
    src: int
    dst: int
    chunk: int
    operator: Operator


def run(transfers: Iterable[Transfer], chunks: Chunks, send: Callable[[int, int, Array], None]) -> None:
    """Execute the transfers on `chunks`, which then holds the outcome, and call `send(src, dst, array)` once a message.

    All messages of a step leave before any arrives.  `sum` is the receiver's own + the arriving, in the order of the transfers; no array
    is written to, each entry of `chunks` is replaced.

    Raises:
        ValueError: a transfer names a position or a chunk that is not there, or an empty one.

    >>> chunks = [[np.array([1.0])], [np.array([2.0])]]
    >>> run([Transfer(0, 0, 1, 0, "sum"), Transfer(0, 1, 0, 0, "sum")], chunks, lambda src, dst, array: None)
    >>> chunks
    [[array([3.])], [array([3.])]]
    """
    for _, step in groupby(sorted(transfers, key=attrgetter("step")), key=attrgetter("step")):
        messages = [(transfer, _chunk(chunks, transfer, transfer.src)) for transfer in step]
        for transfer, message in messages:
            send(transfer.src, transfer.dst, message)
            chunks[transfer.dst][transfer.chunk] = _arrived(chunks, transfer, message)


def _arrived(chunks: Chunks, transfer: Transfer, message: Array) -> Array:
    if transfer.operator == "copy":
        _entry(chunks, transfer, transfer.dst)
        return message
    own = _chunk(chunks, transfer, transfer.dst)
    if own.shape != message.shape:
        raise ValueError(f"{transfer}: shape {message.shape} meets {own.shape}")
    if transfer.operator == "sum":
        return np.asarray(own + message)
    if transfer.operator == "max":
        return np.asarray(np.maximum(own, message))
    raise ValueError(f"{transfer}: the operator is none of copy, sum, max")


def _chunk(chunks: Chunks, transfer: Transfer, position: int) -> Array:
    array = _entry(chunks, transfer, position)
    if array is None:
        raise ValueError(f"{transfer}: chunk {transfer.chunk} has not yet arrived at position {position}")
    return array


def _entry(chunks: Sequence[Sequence[Array | None]], transfer: Transfer, position: int) -> Array | None:
    if not 0 <= position < len(chunks) or not 0 <= transfer.chunk < len(chunks[position]):
        raise ValueError(f"{transfer}: there is no position {position} with a chunk {transfer.chunk} in a group of {len(chunks)}")
    return chunks[position][transfer.chunk]
