"""One rank's part of a collective over a channel; Machine.communicate and exchange_shards do all ranks' parts in one process.

Messages are received and reduced in their final place; everything else lies in memory of the machine's pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from parsim_kernels import bucket as buckets
from parsim_kernels.bucket import IN_PLACE, cut_along, flat, only, settle, write_back
from parsim_kernels.exchange import SlotExchange
from parsim_kernels.fabric import run_one
from parsim_kernels.signature import Array
from parsim_kernels.transfer import Transfer

if TYPE_CHECKING:
    from parsim_kernels.machine import Machine
    from parsim_kernels.transport import Channel


def communicate(
    machine: Machine,
    channel: Channel,
    operation: str,
    axis: str,
    group: Sequence[int],
    names: Sequence[str],
    target: str | None,
    transfers: Iterable[Transfer],
    *,
    dim: int = 0,
    split: int = 0,
    extents: Sequence[int] | None = None,
    operator: Literal["sum", "max"] = "sum",
    exchange: SlotExchange | None = None,
    itemsize: int,
) -> None:
    """Run the caller's part of a collective among `group`, with the outcome, bit for bit, and the counts of `Machine.communicate`.

    Arguments and errors as in `Machine.communicate`; `names` are the caller's buffers, `extents` those of the parts that it cuts, and
    ranks those of the channel.  Transfers that run more than once are best a TransferPlan.
    """
    buckets.check_cutting(operation, extents)
    participant = _Participant(machine, channel, operation, axis, group, transfers, operator, itemsize, exchange)
    bucket = [machine.get(channel.rank, name) for name in names]
    if operation in IN_PLACE:
        _combine(participant, bucket)
        return
    assert target is not None
    if exchange:
        parts = exchange.first_chunks(bucket[0], participant.position)
        participant.run(parts, ())
        result = exchange.join(parts, participant.position, machine.pool.take)
    elif operation == "reduce_scatter":
        result = _reduce_scatter(participant, bucket[0], dim, extents)
    else:
        chunks = buckets.cut_own(operation, bucket, dim, participant.position, len(group), split=split, extents=extents)
        result = _from_before(participant, chunks) if operation == "shift" else _join(participant, chunks, dim)
    machine.hold(channel.rank, target, result, itemsize)


def exchange_shards(
    machine: Machine,
    channel: Channel,
    operation: Literal["reduce_scatter", "all_gather"],
    axis: str,
    group: Sequence[int],
    shards: Sequence[str],
    flats: Sequence[str],
    transfers: Iterable[Transfer],
    *,
    itemsize: int,
    add: bool = False,
) -> None:
    """Run the caller's part of `Machine.exchange_shards`; `shards` and `flats` are its own buffers."""
    participant = _Participant(machine, channel, operation, axis, group, transfers, "sum", itemsize)
    own, whole = ([machine.get(channel.rank, name) for name in names] for names in (shards, flats))
    buckets.check_shards(own, whole, len(group))
    if operation == "all_gather":
        _fill(participant, own, whole)
    else:
        _scatter(participant, own, whole, add=add)


@dataclass(frozen=True, slots=True)
class _Participant:
    """One rank in a collective: the machine that holds its buffers, and the channel to the others."""

    machine: Machine
    channel: Channel
    operation: str
    axis: str
    group: Sequence[int]
    transfers: Iterable[Transfer]
    operator: Literal["sum", "max"]
    itemsize: int
    exchange: SlotExchange | None = None

    @property
    def position(self) -> int:
        return self.group.index(self.channel.rank)

    def run(self, chunks: list[Array | None], places: Sequence[Array | None]) -> None:
        """SlotExchange the rank's messages, and count those that it sends."""
        sent = Counter[str]()

        def count(src: int, dst: int, message: Array) -> None:
            sent[self.exchange.link(self.axis, src, dst) if self.exchange else self.axis] += message.size * self.itemsize

        out = self.machine.pool.take
        run_one(self.transfers, self.position, chunks, self.channel, self.group, operator=self.operator, places=places, out=out, send=count)
        ledger = self.machine.ledgers[self.channel.rank]
        ledger.call(self.axis, self.operation)
        ledger.send_over(sent)


def _combine(participant: _Participant, bucket: list[Array]) -> None:
    """all_reduce, reduce and broadcast: in the buffer itself where there is but one."""
    alone = only(bucket)
    whole = flat(bucket, participant.machine.pool.take) if alone is None else alone
    places = buckets.pieces(whole, len(participant.group) if participant.operation == "all_reduce" else 1)
    chunks: list[Array | None] = [*places]
    participant.run(chunks, places)
    settle(chunks, places)
    if alone is None:
        write_back(bucket, whole)


def _join(participant: _Participant, chunks: list[Array | None], dim: int) -> Array:
    """all_gather and all_to_all: what all positions have for this one, along `dim`.

    Each chunk arrives in its part of the whole, where that is contiguous and the chunks are alike.
    """
    num_ranks, out = len(participant.group), participant.machine.pool.take
    kept = buckets.outcome(participant.operation, participant.position, num_ranks)
    own = chunks[kept][participant.position]
    assert own is not None
    dim %= own.ndim
    whole = out((*own.shape[:dim], num_ranks * own.shape[dim], *own.shape[dim + 1 :]), own.dtype)
    parts = cut_along(whole, dim, num_ranks)
    places: list[Array | None] = [None] * len(chunks)
    places[kept] = [part if part.flags.c_contiguous else None for part in parts]
    participant.run(chunks, places)
    arrived = chunks[kept]
    if any(chunk is None or chunk.shape != own.shape or chunk.dtype != own.dtype for chunk in arrived):
        return buckets.join(arrived, dim, out)
    settle(arrived, parts)
    return whole


def _from_before(participant: _Participant, chunks: list[Array | None]) -> Array:
    """shift: what the position before this one has."""
    participant.run(chunks, [None] * len(chunks))
    kept = buckets.outcome(participant.operation, participant.position, len(participant.group))
    return buckets.join(chunks[kept], 0, participant.machine.pool.take)


def _reduce_scatter(participant: _Participant, source: Array, dim: int, extents: Sequence[int] | None) -> Array:
    """The own part of the sum of the sources, which stay as they are."""
    position, out = participant.position, participant.machine.pool.take
    parts = cut_along(source, dim, len(participant.group), extents)
    places: list[Array | None] = [None] * len(parts)
    if not all(part.flags.c_contiguous for part in parts):
        parts = buckets.stage(parts, out)
        places = [*parts]
    own = places[position] = out(parts[position].shape, source.dtype)
    chunks: list[Array | None] = [*parts]
    participant.run(chunks, places)
    settle([chunks[position]], [own])
    return own


def _fill(participant: _Participant, own: list[Array], whole: list[Array]) -> None:
    """all_gather: flat buffers from the shards of all positions."""
    num_ranks, out = len(participant.group), participant.machine.pool.take
    shard, alone = only(own), only(whole)
    chunks: list[Array | None] = [None] * num_ranks
    chunks[participant.position] = flat(own, out) if shard is None else shard
    if alone is None:
        participant.run(chunks, ())
        buckets.write_gathered(whole, chunks)
        return
    places = [*alone.reshape(num_ranks, -1)]
    participant.run(chunks, places)
    settle(chunks, places)


def _scatter(participant: _Participant, own: list[Array], whole: list[Array], *, add: bool) -> None:
    """reduce_scatter: the own part of the sum of the flat buffers, which stay as they are, in the shards or added to them."""
    num_ranks, position, out = len(participant.group), participant.position, participant.machine.pool.take
    shard, alone = only(own), only(whole)
    places: list[Array | None] = [None] * num_ranks
    parts = buckets.cut_flats(whole, num_ranks, out) if alone is None else [*alone.reshape(num_ranks, -1)]
    if alone is None:
        places = [*parts]
    if shard is not None and shard.dtype == parts[position].dtype and not add:
        places[position] = shard
    chunks: list[Array | None] = [*parts]
    participant.run(chunks, places)
    (total,) = buckets.complete([chunks[position]])
    if total is not shard:
        write_back(own, total, add=add)
