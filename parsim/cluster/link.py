"""A wire, and the fitted laws of the collectives that run on it; cluster.py says which wire a group gets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """What joins one device (or one NIC) to the others, one way."""

    name: str
    bandwidth_bytes_per_s: float  # one way, all lanes of the device together
    latency_s: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """One wire of a custom topology: a device is its number, a switch any name; both ways carry the bandwidth."""

    a: int | str
    b: int | str
    bandwidth_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class CollectiveLaw:
    """Collectives inside a node: start + steps step + wire bytes / bandwidth + ramp sqrt(wire bytes).

    The square root stands for the climb from latency-bound protocols and few chunks to full bandwidth.

    Source: form and constants fitted to nccl-tests sweeps of n = 2, 4, 8 (aiconfigurator); the constants' rows are in the catalog.
    """

    start_s: float
    step_s: float
    ring_bytes_per_s: float
    all_reduce_bytes_per_s: float  # all_reduce of more than 4 ranks: the switch may add
    ramp_s_per_sqrt_byte: float


@dataclass(frozen=True, slots=True)
class SmallMessageLaw:
    """All-reduce of small payloads across k nodes: start + hop log2 k + payload / bandwidth + ramp sqrt(payload)."""

    start_s: float
    hop_s: float
    bandwidth_bytes_per_s: float
    ramp_s_per_sqrt_byte: float


@dataclass(frozen=True, slots=True)
class AllToAllLaw:
    """All-to-all across nodes: start + u / (efficiency NIC share) + ramp sqrt(u n); u = bytes of a rank that leave its node."""

    start_s: float
    efficiency: float
    ramp_s_per_sqrt_byte: float
