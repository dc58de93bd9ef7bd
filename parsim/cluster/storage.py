"""Where data are read from and checkpoints written to: what a cluster's nodes get of it, and what it holds."""

from __future__ import annotations

from math import inf

from msgspec import Struct


class Storage(Struct, frozen=True, kw_only=True):
    """A file system, an object store or the drives of nodes; a rate that nobody states does not bind."""

    name: str
    source: str
    read_bytes_per_s: float | None = None  # of all nodes together
    write_bytes_per_s: float | None = None
    node_read_bytes_per_s: float | None = None
    node_write_bytes_per_s: float | None = None
    request_bytes_per_s: float | None = None  # of one request, once its bytes flow
    latency_s: float = 0.0  # until the first byte of a request
    requests_per_s: float | None = None  # that are answered, of all nodes together
    capacity_bytes: int | None = None
    terabyte_month_usd: float | None = None  # to keep 1e12 bytes for a month
    local: bool = False  # each node has one of its own, of which all figures are

    def read_rate(self, num_nodes: int) -> float:
        """Bytes per second that so many nodes read together, whatever the size of their requests; infinite where nothing binds.

        >>> shared = Storage(name="shared", source="made up", read_bytes_per_s=100e9, node_read_bytes_per_s=10e9)
        >>> shared.read_rate(4), shared.read_rate(40)
        (40000000000.0, 100000000000.0)
        """
        return min(_or_inf(self.read_bytes_per_s) * self._times(num_nodes), _or_inf(self.node_read_bytes_per_s) * num_nodes)

    def write_rate(self, num_nodes: int) -> float:
        """Bytes per second that so many nodes write together; infinite where nothing binds.

        >>> drives = Storage(name="drives", source="made up", write_bytes_per_s=5e9, local=True)
        >>> drives.write_rate(4)
        20000000000.0
        """
        return min(_or_inf(self.write_bytes_per_s) * self._times(num_nodes), _or_inf(self.node_write_bytes_per_s) * num_nodes)

    def request_rate(self, num_nodes: int) -> float:
        """Requests per second that are answered to so many nodes together; infinite where nothing binds."""
        return _or_inf(self.requests_per_s) * self._times(num_nodes)

    def request_s(self, request_bytes: float) -> float:
        """Seconds of one request of so many bytes that waits for no other."""
        return self.latency_s + request_bytes / _or_inf(self.request_bytes_per_s)

    def room_bytes(self, num_nodes: int) -> int | None:
        """What it holds for so many nodes; None where nobody states it."""
        return None if self.capacity_bytes is None else self.capacity_bytes * self._times(num_nodes)

    def _times(self, num_nodes: int) -> int:
        return num_nodes if self.local else 1


def _or_inf(rate: float | None) -> float:
    return inf if rate is None else rate
