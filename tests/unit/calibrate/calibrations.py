"""Samples of a made-up machine whose laws are known, so that a fit has a right answer."""

from __future__ import annotations

from parsim.calibrate.calibration import Calibration, fitted
from parsim.calibrate.links import MESSAGE, Transferred
from parsim.calibrate.samples import ENOUGH, Samples, Shape
from parsim.calibrate.walk import Walk

CALL_S, FLOP_S, BYTE_S = 2e-5, 1e-11, 1e-10
PACE_S = 5e-5
BETWEEN_S, OVERHEAD_S = 5e-6, 3e-6
START_S, WIRE_BYTE_S = 4e-6, 2.5e-10
NAMES = ("add", "einsum", "adam")


def shapes() -> list[Shape]:
    return [Shape(flops, moved) for flops in (1e5, 1e7, 1e9) for moved in (1e4, 1e5, 2e6)]


def many(seconds: float, num_dropped: int = 0) -> Samples:
    return Samples([seconds] * ENOUGH, num_dropped, [PACE_S] * ENOUGH)


def walk(slowdown: float = 1.0) -> Walk:
    """A model whose calls follow one law; between two of them lies BETWEEN_S, besides what the timing itself takes."""
    samples = {shape: many(slowdown * (CALL_S + FLOP_S * shape.flops + BYTE_S * shape.moved_bytes), 1) for shape in shapes()}
    between = {gap: many(BETWEEN_S + OVERHEAD_S) for gap in ("first", "calls", "keep", "last")}
    return Walk({name: samples for name in NAMES}, between, num_calls=1000, parameter_bytes=0, overhead_s=OVERHEAD_S)


def exchanges() -> dict[Transferred, Samples]:
    """Two ranks: a ring all_reduce sends the payload, and the other collectives half of it."""
    share = {"all_reduce": 1.0, "all_gather": 0.5, "reduce_scatter": 0.5, MESSAGE: 1.0}
    return {
        Transferred(operation, 2, payload): many(START_S + WIRE_BYTE_S * part * payload)
        for operation, part in share.items()
        for payload in (4096, 2**16, 2**20, 2**24)
    }


def calibration() -> Calibration:
    return fitted([walk()], [walk(slowdown=1.5)], exchanges())
