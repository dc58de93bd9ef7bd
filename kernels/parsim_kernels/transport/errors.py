"""The errors between ranks.  Each names the rank."""

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
    """The end of another rank, of which a rank learns while it waits."""
