"""A wire, and the fitted laws of the collectives that run on it; cluster.py says which wire a group gets."""

from __future__ import annotations

from msgspec import Struct


class Link(Struct, frozen=True):
    """What joins one device (or one NIC) to the others, one way."""

    name: str
    bandwidth_bytes_per_s: float  # one way, all lanes of the device together
    latency_s: float
    source: str = ""
    fitted_latency_s: float | None = None  # of the link on which the laws that now use this one were fitted; None: its own

    @property
    def added_latency_s(self) -> float:
        """What a message on this link takes beyond one on the link that the laws were fitted on; below 0 where it takes less."""
        return 0.0 if self.fitted_latency_s is None else self.latency_s - self.fitted_latency_s


class Edge(Struct, frozen=True):
    """One wire of a custom topology: a device is its number, a switch any name; both ways carry the bandwidth."""

    a: int | str
    b: int | str
    bandwidth_bytes_per_s: float


class Protocol(Struct, frozen=True):
    """Another way to send the same bytes: start + steps step + wire bytes / bandwidth; sooner done where few bytes are sent."""

    start_s: float
    step_s: float
    bandwidth_bytes_per_s: float


class CollectiveLaw(Struct, frozen=True):
    """Collectives inside a node: the quickest of start + steps step + wire bytes / bandwidth + ramp sqrt(wire bytes) and of `small`.

    The first is NCCL's Simple protocol; `small` are its low-latency ones, LL and LL128, which flag each word and so reach less bandwidth.
    Beside what it sends, a rank copies the chunk that it keeps: with n ranks that takes `own_chunk` / (n - 1) of the time of the wire.

    Source: forms and constants fitted to nccl-tests sweeps of n = 2, 4, 8 (aiconfigurator); the constants' rows are in the catalog.
    NCCL's protocols: arXiv:2507.04786; NVIDIA/nccl@5067397c src/graph/tuning.cc.
    """

    start_s: float
    step_s: float
    ring_bytes_per_s: float
    all_reduce_bytes_per_s: float  # all_reduce of more than 4 ranks: the switch may add
    ramp_s_per_sqrt_byte: float
    own_chunk: float = 0.0  # of a chunk's time on the wire
    small: tuple[Protocol, ...] = ()
    link_bytes_per_s: float | None = None  # of the link that it was fitted on; None: the node's


class FewChannels(Struct, frozen=True):
    """A message of up to `until` bytes gets this share of the link; a longer one gets more channels, and takes no longer for them."""

    efficiency: float
    until_bytes: float


class SmallMessageLaw(Struct, frozen=True):
    """All-reduce of small payloads across k nodes: start + hop log2 k + payload / bandwidth + ramp sqrt(payload).

    No byte is faster than the NICs' rate for large payloads.
    """

    start_s: float
    hop_s: float
    bandwidth_bytes_per_s: float
    ramp_s_per_sqrt_byte: float


class AllToAllLaw(Struct, frozen=True):
    """All-to-all across nodes: start + u / (efficiency NIC share) + ramp sqrt(u n); u = bytes of a rank that leave its node.

    Where peers are served in turn, the NIC waits as long for a peer in the node: `in_turn` of the bytes that stay count to u / NIC share.
    """

    start_s: float
    efficiency: float
    ramp_s_per_sqrt_byte: float
    in_turn: float = 0.0
