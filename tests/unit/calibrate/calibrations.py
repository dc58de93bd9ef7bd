"""Samples of a made-up machine whose laws are known, so that a fit has a right answer."""

from __future__ import annotations

from parsim.calibrate.calibration import Calibration, fit_machine
from parsim.calibrate.links import MESSAGE, Exchange
from parsim.calibrate.samples import ENOUGH, Samples
from parsim.calibrate.walk import TimedCall, Walk

CALL_S, FLOP_S, BYTE_S = 2e-5, 1e-11, 1e-10
PACE_S = 5e-5
BETWEEN_S, OVERHEAD_S = 5e-6, 3e-6
START_S, WIRE_BYTE_S = 4e-6, 2.5e-10
NAMES = ("add", "einsum", "adam")


def calls() -> list[TimedCall]:
    return [TimedCall(name, flops, moved) for name in NAMES for flops in (1e5, 1e7, 1e9) for moved in (1e4, 1e5, 2e6)]


def many(seconds: float, num_dropped: int = 0) -> Samples:
    return Samples([seconds] * ENOUGH, num_dropped, [PACE_S] * ENOUGH)


def walk(slowdown: float = 1.0) -> Walk:
    """A model whose calls follow one law; between two of them lies BETWEEN_S, besides what the timing itself takes."""
    samples = {call: many(slowdown * (CALL_S + FLOP_S * call.flops + BYTE_S * call.moved_bytes), 1) for call in calls()}
    between = {gap: many(BETWEEN_S + OVERHEAD_S) for gap in ("first", "calls", "keep", "last")}
    return Walk(samples, between, num_calls=1000, parameter_bytes=0, overhead_s=OVERHEAD_S)


def exchanges() -> dict[Exchange, Samples]:
    """Two ranks: a ring all_reduce sends the payload, and the other collectives half of it."""
    share = {"all_reduce": 1.0, "all_gather": 0.5, "reduce_scatter": 0.5, MESSAGE: 1.0}
    return {
        Exchange(operation, 2, payload): many(START_S + WIRE_BYTE_S * part * payload)
        for operation, part in share.items()
        for payload in (4096, 2**16, 2**20, 2**24)
    }


def calibration() -> Calibration:
    return fit_machine([walk()], [walk(slowdown=1.5)], exchanges())
