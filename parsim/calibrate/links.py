"""Times collectives and messages between worker processes, and fits the law of a node to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from parsim import units
from parsim.calibrate.gate import Gate, pace_s
from parsim.calibrate.samples import LawFit, Samples, Seen, fit_laws, to_digits, worst
from parsim.cluster.link import CollectiveLaw
from parsim.cluster.scalars import Floats
from parsim.collectives import choose, reference, transfer_plan
from parsim.model.dims import FIXED_ITEMSIZE_BYTES, FLOAT32
from parsim_kernels import Channel, Machine
from parsim_kernels.fabric import TransferPlan
from parsim_kernels.part import communicate

_NS_PER_S: Final = 1e9
_OPERATIONS: Final = ("all_reduce", "all_gather", "reduce_scatter")
_SMALL: Final = tuple(int(units.parse(text, "bytes")) for text in ("1 KiB", "16 KiB", "64 KiB", "0.25 MiB", "1 MiB"))
_PAYLOADS: Final = (*_SMALL, *(int(units.parse(text, "bytes")) for text in ("4 MiB", "16 MiB")))
_REPEATS: Final = 6
_LARGE_EVERY: Final = 3  # turns: the large payloads take most of the time
_ITEMSIZE: Final = FIXED_ITEMSIZE_BYTES[FLOAT32]
MESSAGE: Final = "message"
OPERATION: Final = attrgetter("operation")
MOST_BYTES_PER_S: Final = units.parse("1 PB/s", "bytes/s")  # stands for a byte that costs nothing


class Exchange(Struct, frozen=True):
    """One kind of exchange: its operation, or a message, among `num_ranks`, and the bytes of the tensor."""

    operation: str
    num_ranks: int
    payload_bytes: int


Exchanges = dict[Exchange, list[Seen]]  # of one rank, in order


def sample_links(channel: Channel, seconds: float) -> Exchanges:
    """What this rank saw of every exchange, in turns, for about so many seconds; a target for `launch`.  All ranks do as rank 0 decides."""
    gate, machine, found = Gate(), Machine(channel.num_ranks), Exchanges()
    start, done, turn = time.perf_counter(), np.zeros(1), 0
    while not done[0]:
        for exchange, act in _exchanges(channel, machine, _PAYLOADS if turn % _LARGE_EVERY == 0 else _SMALL):
            for _ in range(_REPEATS if exchange.payload_bytes <= _SMALL[-1] else 1):  # at once: now all ranks have a core
                found.setdefault(exchange, []).append(_time(channel, gate, act))
        share = (time.perf_counter() - start) / seconds
        channel.report(min(share, 1.0))
        done[0], turn = share >= 1.0, turn + 1
        for dst in range(1, channel.num_ranks) if channel.rank == 0 else ():
            channel.send(dst, done)
        if channel.rank:
            done = channel.receive(0).array
    gate.close()
    return found


def _time(channel: Channel, gate: Gate, act: Callable[[], None]) -> Seen:
    """One exchange, which all ranks begin together; the pace is this core's before it."""
    pace = pace_s()
    channel.barrier()
    waited, start_ns = gate.wait_ns(), time.perf_counter_ns()
    act()
    wall_ns = time.perf_counter_ns() - start_ns
    return wall_ns / _NS_PER_S, (gate.wait_ns() - waited) / _NS_PER_S, pace


def _exchanges(channel: Channel, machine: Machine, payloads: Sequence[int]) -> Iterator[tuple[Exchange, Callable[[], None]]]:
    """Each exchange with what runs it on this rank; its buffers live while the loop is at it."""
    rank, ranks = channel.rank, channel.num_ranks
    for payload in payloads:
        elements = payload // _ITEMSIZE // ranks * ranks
        for operation in _OPERATIONS:
            own = elements // ranks if operation == "all_gather" else elements
            machine.hold(rank, "x", np.ones(own, np.float32), _ITEMSIZE)
            exchange = Exchange(operation, ranks, elements * _ITEMSIZE)
            algorithm = choose(operation, num_ranks=ranks, payload_bytes=exchange.payload_bytes)
            yield exchange, partial(_collect, channel, machine, operation, transfer_plan(algorithm, operation, ranks, "sum"))
            machine.free(rank, "x")
        yield Exchange(MESSAGE, ranks, elements * _ITEMSIZE), partial(_pass_on, channel, np.ones(elements, np.float32))


def _collect(channel: Channel, machine: Machine, operation: str, transfers: TransferPlan) -> None:
    target = None if operation == "all_reduce" else "y"
    communicate(machine, channel, operation, "ranks", tuple(range(channel.num_ranks)), ["x"], target, transfers, itemsize=_ITEMSIZE)
    if target:
        machine.free(channel.rank, target)


def _pass_on(channel: Channel, array: NDArray[np.float32]) -> None:
    """There and back between ranks 0 and 1; the others wait at the next barrier."""
    if channel.rank == 0:
        channel.send(1, array)
        channel.receive(1)
    elif channel.rank == 1:
        channel.send(0, channel.receive(0).array)


def join_ranks(by_rank: Sequence[Exchanges], found: dict[Exchange, Samples]) -> None:
    """Add to `found` the samples of all ranks as one; of a message there and back, each way is half."""
    for exchange in by_rank[0]:
        halves = 2 if exchange.operation == MESSAGE else 1
        ranks = by_rank[:2] if exchange.operation == MESSAGE else by_rank
        samples = found.setdefault(exchange, Samples())
        for seen in zip(*(one[exchange] for one in ranks), strict=True):
            wall_s, wait_s, pace = worst(seen)
            samples.add(wall_s / halves, wait_s / halves, pace)


def fit_links(samples: Mapping[Exchange, Samples]) -> tuple[LawFit[CollectiveLaw], ...]:
    """The law of each operation, and of messages, which have no ramp and no steps."""
    return fit_laws(samples, OPERATION, lambda exchanges: np.array([_features(each) for each in exchanges]), _law_of)


def _law_of(coefficients: Floats) -> CollectiveLaw:
    start, step, byte, root = (float(each) for each in coefficients)
    rate = to_digits(1.0 / byte if byte else float(MOST_BYTES_PER_S))
    return CollectiveLaw(to_digits(start), to_digits(step), rate, rate, to_digits(root))


def best_rate(samples: Mapping[Exchange, Samples]) -> float:
    """The most bytes a second that any exchange sent: no law may claim more than the link has."""
    return max(_features(exchange)[2] / min(each.seconds) for exchange, each in samples.items() if each.seconds)


def _features(exchange: Exchange) -> list[float]:
    """1, steps, bytes on the wire and their root, as `cluster.collective_s` is asked; of a message 1 and its bytes."""
    if exchange.operation == MESSAGE:
        return [1.0, 0.0, float(exchange.payload_bytes), 0.0]
    ring, elements = reference(exchange.operation), exchange.payload_bytes // _ITEMSIZE
    wire = float(ring.busiest_elements(exchange.operation, exchange.num_ranks, elements)) * _ITEMSIZE
    return [1.0, float(ring.num_steps(exchange.operation, exchange.num_ranks)), wire, wire**0.5]
