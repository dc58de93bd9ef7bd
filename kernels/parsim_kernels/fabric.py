"""Executes the transfers of a collective chunk by chunk: `run` for all ranks at once, `run_one` for one.  The algorithm says which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Literal, NamedTuple

import numpy as np

from parsim_kernels.signature import Array
from parsim_kernels.transport.channel import Channel, Incoming, Message, Outgoing

Operator = Literal["copy", "sum", "max"]
_TAG = -1  # of all messages of collectives
Chunks = list[list[Array | None]]  # by position in the group, then by chunk; None: not there yet


class Transfer(NamedTuple):
    """One message of a collective: `src` sends `chunk`; `dst` adds it in, or overwrites its own.

    Both are positions in the group; the position one past its last rank is a switch that adds.
    """

    step: int
    src: int
    dst: int
    chunk: int
    operator: Operator


def run(transfers: Iterable[Transfer], chunks: Chunks, send: Callable[[int, int, Array], None]) -> None:
    """Execute the transfers on `chunks`, which then holds the outcome, and call `send(src, dst, array)` once a message of a rank.

    All messages of a step leave before any arrives.  `sum` is the receiver's own + the arriving, in the order of the transfers; no array
    is written to, each entry of `chunks` is replaced.  A switch has no chunks of its own: what arrives first is kept as it is.

    Raises:
        ValueError: a transfer names a position or a chunk that is not there, or an empty one.

    >>> chunks = [[np.array([1.0])], [np.array([2.0])]]
    >>> run([Transfer(0, 0, 1, 0, "sum"), Transfer(0, 1, 0, 0, "sum")], chunks, lambda src, dst, array: None)
    >>> chunks
    [[array([3.])], [array([3.])]]
    """
    in_order, num_ranks = sorted(transfers, key=attrgetter("step")), len(chunks)
    if any(transfer.src == num_ranks for transfer in in_order):
        chunks = [*chunks, [None] * len(chunks[0])]
    for _, step in groupby(in_order, key=attrgetter("step")):
        messages = [(transfer, _chunk(chunks, transfer, transfer.src)) for transfer in step]
        for transfer, message in messages:
            if transfer.src < num_ranks:
                send(transfer.src, transfer.dst, message)
            chunks[transfer.dst][transfer.chunk] = _arrived(chunks, transfer, message, num_ranks)


def run_one(
    transfers: Iterable[Transfer],
    position: int,
    chunks: list[Array | None],
    channel: Channel,
    group: Sequence[int],
    *,
    send: Callable[[int, int, Array], int | None] | None = None,
    arrive: Callable[[int, int, Message], None] | None = None,
) -> None:
    """One rank's part of `run`, with the same outcome bit for bit; `chunks` are its own, and each entry is replaced.

    Each rank of the group calls it with all transfers.  The part of a switch that adds is done by the process of position 0.

    Args:
        transfers: those of the whole group.
        position: the caller's in the group.
        chunks: the caller's, by chunk.
        channel: the caller's.
        group: rank in the channel of each position.
        send: called once a message that leaves this rank, before it leaves; what it returns travels along as `Message.clock`.
        arrive: called with (src, dst, message) once a message that arrives here, in the order of the transfers.

    Raises:
        ValueError: as in `run`.
        TransportError: chunks that are added differ in shape or dtype.
    """
    in_order, num_ranks = sorted(transfers, key=attrgetter("step")), len(group)
    everyone: Chunks = [[None] * len(chunks) for _ in range(num_ranks)]
    everyone[position] = chunks
    mine = {position}
    if any(transfer.src == num_ranks for transfer in in_order):
        everyone.append([None] * len(chunks))
        mine |= {num_ranks} if position == 0 else set()
    rank_of = [*group, group[0]]
    for _, step in groupby(in_order, key=attrgetter("step")):
        here = [transfer for transfer in step if transfer.src in mine or transfer.dst in mine]
        sends = []
        for transfer in (transfer for transfer in here if transfer.src in mine):
            array = _chunk(everyone, transfer, transfer.src)
            clock = send(transfer.src, transfer.dst, array) if send is not None and transfer.src < num_ranks else None
            sends.append(Outgoing(rank_of[transfer.dst], array, _TAG, clock or 0))
        arriving = [transfer for transfer in here if transfer.dst in mine]
        receives = _receives(everyone, arriving, rank_of)
        for transfer, incoming, message in zip(arriving, receives, channel.exchange(sends, receives), strict=True):
            is_applied = incoming.into is not None
            array = message.array if is_applied else _arrived(everyone, transfer, message.array, num_ranks)
            everyone[transfer.dst][transfer.chunk] = array
            if arrive is not None:
                arrive(transfer.src, transfer.dst, message)


def _receives(chunks: Chunks, arriving: Sequence[Transfer], rank_of: Sequence[int]) -> list[Incoming]:
    """A chunk to which all that arrives in this step is added is reduced on arrival; any other message is received whole."""
    whole = {(t.dst, t.chunk) for t in arriving if t.operator not in ("sum", "max") or _entry(chunks, t, t.dst) is None}
    sums: dict[tuple[int, int], Array] = {}
    receives = []
    for transfer in arriving:
        key = transfer.dst, transfer.chunk
        if key in whole:
            receives.append(Incoming(rank_of[transfer.src], _TAG))
            continue
        own = sums.get(key)
        if own is None:
            own = np.asarray(_chunk(chunks, transfer, transfer.dst), order="C")
            sums[key] = np.empty(own.shape, own.dtype)
        receives.append(Incoming(rank_of[transfer.src], _TAG, sums[key], transfer.operator, own))
    return receives


def _arrived(chunks: Chunks, transfer: Transfer, message: Array, num_ranks: int) -> Array:
    there = _entry(chunks, transfer, transfer.dst)
    first_at_switch = there is None and transfer.dst == num_ranks and transfer.operator in ("sum", "max")
    if transfer.operator == "copy" or first_at_switch:
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
        raise ValueError(f"{transfer}: there is no position {position} with a chunk {transfer.chunk} among {len(chunks)}")
    return chunks[position][transfer.chunk]
