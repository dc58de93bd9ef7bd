"""The ledger of one rank, all integers; machine.py does the counting.

FLOPs, bytes moved by kernel, bytes sent and calls by mesh axis, live and peak bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Ledger:
    """The counts of one rank.

    >>> ledger = Ledger()
    >>> ledger.allocate(8); ledger.allocate(4); ledger.release(8)
    >>> ledger.live_bytes, ledger.peak_bytes
    (4, 12)
    """

    flops: int = 0
    moved_bytes: dict[str, int] = field(default_factory=dict)  # by kernel: between memory and what computes
    sent_bytes: dict[str, int] = field(default_factory=dict)  # by mesh axis; 0 stands where the rank took part and sent nothing
    calls: dict[tuple[str, str], int] = field(default_factory=dict)  # by (axis, operation)
    live_bytes: int = 0
    peak_bytes: int = 0

    def allocate(self, num_bytes: int) -> None:
        """Add a buffer [bytes] to the live ones, and raise the peak where it is exceeded."""
        self.live_bytes += num_bytes
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes

    def release(self, num_bytes: int) -> None:
        """Subtract a buffer [bytes] from the live ones."""
        self.live_bytes -= num_bytes

    def run(self, kernel: str, flops: int, num_bytes: int) -> None:
        """Count one call of a kernel: its FLOPs, and the bytes that it read and wrote."""
        self.flops += flops
        self.moved_bytes[kernel] = self.moved_bytes.get(kernel, 0) + num_bytes

    def call(self, axis: str, operation: str) -> None:
        """Count one call of a communication operation over `axis`."""
        self.calls[axis, operation] = self.calls.get((axis, operation), 0) + 1
        self.sent_bytes.setdefault(axis, 0)

    def send(self, axis: str, num_bytes: int) -> None:
        """Count one message [bytes] that left this rank over `axis`."""
        self.sent_bytes[axis] = self.sent_bytes.get(axis, 0) + num_bytes

    def send_over(self, by_link: Mapping[str, int]) -> None:
        """Count what left this rank over each of some links [bytes]."""
        for link, num_bytes in by_link.items():
            self.send(link, num_bytes)

    def reset_peak(self) -> None:
        """Restart the peak from the live bytes."""
        self.peak_bytes = self.live_bytes
