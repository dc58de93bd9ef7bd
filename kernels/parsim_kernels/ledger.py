"""What one rank did, as integers: FLOPs, bytes sent and calls by mesh axis, bytes alive now and at most.  Who counts is machine.py."""

from __future__ import annotations

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
    sent_bytes: dict[str, int] = field(default_factory=dict)  # by mesh axis; 0 stands where the rank took part and sent nothing
    calls: dict[tuple[str, str], int] = field(default_factory=dict)  # by (axis, operation)
    live_bytes: int = 0
    peak_bytes: int = 0

    def allocate(self, num_bytes: int) -> None:
        """Add a buffer [bytes] to what is alive, and raise the peak if it is one."""
        self.live_bytes += num_bytes
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes

    def release(self, num_bytes: int) -> None:
        """Take a buffer [bytes] from what is alive."""
        self.live_bytes -= num_bytes

    def call(self, axis: str, operation: str) -> None:
        """Count one call of a communication operation over `axis`."""
        self.calls[axis, operation] = self.calls.get((axis, operation), 0) + 1
        self.sent_bytes.setdefault(axis, 0)

    def send(self, axis: str, num_bytes: int) -> None:
        """Count one message [bytes] that left this rank over `axis`."""
        self.sent_bytes[axis] = self.sent_bytes.get(axis, 0) + num_bytes

    def reset_peak(self) -> None:
        """Start the peak again from what is alive."""
        self.peak_bytes = self.live_bytes
