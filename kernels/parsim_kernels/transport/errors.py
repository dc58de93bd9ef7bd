"""What can go wrong between ranks.  Each error names the rank."""

from __future__ import annotations


class TransportError(Exception):
    """A message, a run or a machine on which the transport cannot work."""


class WorkerError(TransportError):
    """A rank ended before it had finished.

    >>> str(WorkerError(2, "was killed by SIGKILL"))
    'rank 2 was killed by SIGKILL'
    """

    def __init__(self, rank: int, how: str) -> None:
        """`how` continues the sentence that begins with the rank."""
        super().__init__(rank, how)
        self.rank = rank
        self.how = how

    def __str__(self) -> str:
        return f"rank {self.rank} {self.how}"


class PeerError(WorkerError):
    """The same, as the other ranks learn of it while they wait."""
