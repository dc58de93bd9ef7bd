"""One rank's part of a collective over a channel: what Machine.communicate and exchange_shards do for all ranks of one process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from parsim_kernels.bucket import cut_own, cut_own_shards, join, write_back, write_gathered
from parsim_kernels.fabric import Transfer, run_one
from parsim_kernels.signature import Array

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
    operator: Literal["sum", "max"] = "sum",
    itemsize: int,
) -> None:
    """The caller's part of a collective among `group`, with the same outcome, bit for bit, and the same counts.

    Arguments and errors as in `Machine.communicate`; `names` are the caller's buffers, and ranks those of the channel.
    """
    rank, position = channel.rank, list(group).index(channel.rank)
    bucket = [machine.get(rank, name) for name in names]
    chunks = cut_own(operation, bucket, dim, position, len(group))
    asked = (t._replace(operator=operator) if t.operator == "sum" else t for t in transfers)
    _run(machine, channel, operation, axis, group, chunks, asked, itemsize)
    result = join([chunks[position]] if operation == "reduce_scatter" else chunks, dim if target is not None else 0)
    if target is None:
        write_back(bucket, result)
    else:
        machine.hold(rank, target, result, itemsize)


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
    """The caller's part of `Machine.exchange_shards`; `shards` and `flats` are its own buffers."""
    rank, position = channel.rank, list(group).index(channel.rank)
    own, whole = ([machine.get(rank, name) for name in names] for names in (shards, flats))
    chunks = cut_own_shards(operation, own, whole, position, len(group))
    _run(machine, channel, operation, axis, group, chunks, transfers, itemsize)
    if operation == "all_gather":
        write_gathered(whole, chunks)
        return
    result = join([chunks[position]], 0)
    write_back(own, result + np.concatenate(own) if add else result)


def _run(
    machine: Machine,
    channel: Channel,
    operation: str,
    axis: str,
    group: Sequence[int],
    chunks: list[Array | None],
    transfers: Iterable[Transfer],
    itemsize: int,
) -> None:
    """Execute the caller's messages, and count those that it sends."""
    ledger, sent = machine.ledgers[channel.rank], 0

    def count(src: int, dst: int, message: Array) -> None:
        nonlocal sent
        sent += message.size * itemsize

    run_one(transfers, list(group).index(channel.rank), chunks, channel, group, send=count)
    ledger.call(axis, operation)
    ledger.send(axis, sent)
