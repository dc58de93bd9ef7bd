"""The execution of a collective's transfers, chunk by chunk: `run` acts for all ranks at once, `run_one` for one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Literal, NamedTuple

import numpy as np

from parsim_kernels.pool import Into
from parsim_kernels.signature import Array, Out, fresh
from parsim_kernels.transfer import Operator, Transfer
from parsim_kernels.transport.channel import Channel, Incoming, Message, Outgoing

_TAG = -1  # of all messages of collectives
_REDUCING = ("sum", "max")
Chunks = list[list[Array | None]]  # by position in the group, then by chunk; None: not there yet


class Round(NamedTuple):
    """The messages of one process in a step."""

    sends: tuple[Transfer, ...]
    receives: tuple[Transfer, ...]
    reduced: frozenset[tuple[int, int]]  # (position, chunk) to which all that arrives is added
    settled: frozenset[tuple[int, int]]  # own ones that may arrive where they shall lie: not sent, and reduced or arriving once


class TransferPlan:
    """The transfers of a collective in the order of their steps, and the rounds of each position, which are found once.

    >>> plan = TransferPlan([Transfer(1, 1, 0, 0, "copy"), Transfer(0, 0, 1, 0, "sum")])
    >>> [transfer.step for transfer in plan], len(plan.rounds(0, 2)), plan.rounds(0, 2) is plan.rounds(0, 2)
    ([0, 1], 2, True)
    """

    __slots__ = ("_rounds", "_transfers", "senders")

    def __init__(self, transfers: Iterable[Transfer]) -> None:
        """Sort the transfers; those of a step stay in their order."""
        self._transfers = tuple(sorted(transfers, key=attrgetter("step")))
        self.senders = frozenset(transfer.src for transfer in self._transfers)
        self._rounds: dict[tuple[int, int, Operator], tuple[Round, ...]] = {}

    def __iter__(self) -> Iterator[Transfer]:
        """Iterate over all transfers."""
        return iter(self._transfers)

    def rounds(self, position: int, num_ranks: int, operator: Operator = "sum") -> tuple[Round, ...]:
        """The rounds of the process at a position, where "sum" stands for `operator`; the process of position 0 also acts for a switch."""
        key = position, num_ranks, operator
        if key not in self._rounds:
            mine = {position, num_ranks} if num_ranks in self.senders and position == 0 else {position}
            rounds = [_round(list(step), mine, position, operator) for _, step in groupby(self._transfers, key=attrgetter("step"))]
            self._rounds[key] = tuple(each for each in rounds if each.sends or each.receives)
        return self._rounds[key]


def _round(transfers: list[Transfer], mine: set[int], position: int, operator: Operator) -> Round:
    asked = [transfer._replace(operator=operator) if transfer.operator == "sum" else transfer for transfer in transfers]
    sends, receives = [t for t in asked if t.src in mine], [t for t in asked if t.dst in mine]
    arriving = [(t.dst, t.chunk) for t in receives]
    reduced = frozenset(arriving) - {(t.dst, t.chunk) for t in receives if t.operator not in _REDUCING}
    settled = {key for key in arriving if key[0] == position and (key in reduced or arriving.count(key) == 1)}
    return Round(tuple(sends), tuple(receives), reduced, frozenset(settled - {(t.src, t.chunk) for t in sends}))


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
            chunks[transfer.dst][transfer.chunk] = _combine(chunks, transfer, message, num_ranks)


def run_one(
    transfers: Iterable[Transfer],
    position: int,
    chunks: list[Array | None],
    channel: Channel,
    group: Sequence[int],
    *,
    operator: Literal["sum", "max"] = "sum",
    places: Sequence[Array | None] = (),
    out: Out = fresh,
    send: Callable[[int, int, Array], int | None] | None = None,
    arrive: Callable[[int, int, Message], None] | None = None,
) -> None:
    """One rank's part of `run`, with the same outcome bit for bit; `chunks` are its own, and each entry is replaced.

    Each rank of the group calls it with all transfers.  The part of a switch that adds is done by the process of position 0.

    Args:
        transfers: those of the whole group; a TransferPlan, where they run more than once.
        position: the caller's in the group.
        chunks: the caller's, by chunk.
        channel: the caller's.
        group: rank in the channel of each position.
        operator: what "sum" in the transfers stands for.
        places: where each chunk shall lie, contiguous and apart, perhaps where it lies already; None or no entry: anywhere.
            An entry of `chunks` that is not its place at the end could not be written there.
        out: memory for what arrives elsewhere.
        send: called once a message that leaves this rank, before it leaves; what it returns travels along as `Message.clock`.
        arrive: called with (src, dst, message) once a message that arrives here, in the order of the transfers.

    Raises:
        ValueError: as in `run`.
        TransportError: chunks that are added differ in shape or dtype.
    """
    num_ranks, rank_of = len(group), [*group, group[0]]
    nothing: list[Array | None] = [None] * len(chunks)
    plan = transfers if isinstance(transfers, TransferPlan) else TransferPlan(transfers)
    everyone: Chunks = [nothing] * num_ranks  # of the others nothing is known, nor asked
    everyone[position] = chunks
    if num_ranks in plan.senders:
        everyone.append([*nothing])
    for each in plan.rounds(position, num_ranks, operator):
        sends = []
        for transfer in each.sends:
            array = _chunk(everyone, transfer, transfer.src)
            clock = send(transfer.src, transfer.dst, array) if send is not None and transfer.src < num_ranks else None
            sends.append(Outgoing(rank_of[transfer.dst], array, _TAG, clock or 0))
        receives = [*_receives(each, everyone, rank_of, places, out)]
        for transfer, incoming, message in zip(each.receives, receives, channel.exchange(sends, receives), strict=True):
            is_applied = incoming.into is not None
            array = message.array if is_applied else _combine(everyone, transfer, message.array, num_ranks)
            everyone[transfer.dst][transfer.chunk] = array
            if arrive is not None:
                arrive(transfer.src, transfer.dst, message)


def _receives(own_round: Round, chunks: Chunks, rank_of: Sequence[int], places: Sequence[Array | None], out: Out) -> Iterator[Incoming]:
    """The receives of a round: a chunk to which all that arrives is added is reduced on arrival, any other message is received whole."""
    sums: dict[tuple[int, int], Array] = {}
    for transfer in own_round.receives:
        key, src = (transfer.dst, transfer.chunk), rank_of[transfer.src]
        place = places[transfer.chunk] if key in own_round.settled and transfer.chunk < len(places) else None
        own = _entry(chunks, transfer, transfer.dst)
        if own is None or key not in own_round.reduced:
            yield Incoming(src, _TAG, out=out if place is None else Into([place], out))
        elif key in sums:
            yield Incoming(src, _TAG, sums[key], transfer.operator)
        else:
            own = np.asarray(own, order="C")
            sums[key] = out(own.shape, own.dtype) if place is None else place
            yield Incoming(src, _TAG, sums[key], transfer.operator, own)


def _combine(chunks: Chunks, transfer: Transfer, message: Array, num_ranks: int) -> Array:
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
