"""What a run reads: the section `input` of a scenario once it is read."""

from __future__ import annotations

from msgspec import Struct

TOKEN, SAMPLE = "token", "sample"  # what the figures of an input are of; a sample is a sequence of the batch
REPLICA, DEVICE = "replica", "device"  # who reads: one device of each replica, which hands on what it read, or all of them


class Input(Struct, frozen=True, kw_only=True):
    """What a sequence is made of on its way from storage to a device, and by how many hands."""

    name: str
    source: str
    per: str  # of what the sizes and rates are
    size_bytes: float  # of one, as workers have it
    device_size_bytes: float  # of one, as it goes to a device
    compression: float = 1.0  # size over what storage holds
    request_bytes: float | None = None  # of a read; None: those of a sequence
    requests_in_flight: int | None = None  # of a reader; None: one of each worker
    decode_per_s: float | None = None  # by a worker; None: nothing is to be decoded
    tokenize_per_s: float | None = None
    workers: int = 2  # cores of a reader
    cores: int | None = None  # of a node, for all its readers; None: as many as they want
    prefetch: int = 2  # batches of a step that may wait behind each stage; 0: nothing is made while a step runs
    shuffle_buffer: int = 0  # sequences that are held before the first is taken
    host_to_device_bytes_per_s: float | None = None  # None: as the node's host link
    readers: str = REPLICA
    jitter: float = 0.0  # coefficient of variation of the time that a stage takes for a batch

    def each(self, tokens: float) -> float:
        """How many of what the figures are of stand in a sequence of so many tokens."""
        return tokens if self.per == TOKEN else 1.0

    def stored_bytes(self, tokens: float) -> float:
        """Bytes of such a sequence in storage.

        >>> words = Input(name="words", source="made up", per="token", size_bytes=4.0, device_size_bytes=8.0, compression=2.0)
        >>> words.stored_bytes(1000)
        2000.0
        """
        return self.each(tokens) * self.size_bytes / self.compression
