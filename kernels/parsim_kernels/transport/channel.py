"""The channel that every transport offers a rank to the others.  The transports decide how the bytes travel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy.typing as npt

from parsim_kernels.signature import Array, Out, fresh
from parsim_kernels.transfer import Operator


class Message(NamedTuple):
    """A message that has arrived: the array, and the integer that the sender added (a virtual clock, for example)."""

    array: Array
    clock: int


class Outgoing(NamedTuple):
    """A message to send.  Bytes arrive as an array of uint8."""

    dst: int
    array: Array | bytes
    tag: int = 0
    clock: int = 0


class Incoming(NamedTuple):
    """A message to take, the oldest of its source and tag.

    With `into` (contiguous, of the message's shape and dtype) it is written there, block by block as it arrives; `sum` and `max` leave
    there `own` (where None: `into`) combined with the message.  Messages for the same `into` are applied in the order of the list.
    Without it the message lies in memory of `out`, unless it came before it was asked for.
    """

    src: int
    tag: int = 0
    into: Array | None = None
    operator: Operator = "copy"
    own: Array | None = None
    out: Out = fresh


class Channel(Protocol):
    """One rank's end.  Messages of one source, destination and tag arrive in the order in which they were sent.

    Every call raises PeerError as soon as another rank has died, raised or was aborted.
    """

    @property
    def rank(self) -> int:
        """Its own number."""
        ...

    @property
    def num_ranks(self) -> int:
        """Ranks in the run."""
        ...

    def send(self, dst: int, array: Array | bytes, tag: int = 0, clock: int = 0) -> None:
        """Send and do not wait: what finds no room is copied, and leaves during later calls."""
        ...

    def receive(self, src: int, tag: int = 0) -> Message:
        """Wait for the oldest message of that source and tag."""
        ...

    def first(self, sources: Sequence[int], tag: int = 0) -> int:
        """Wait for a message with that tag, the next of any of some ranks; which of them: the first in the order given."""
        ...

    def exchange(self, sends: Sequence[Outgoing], receives: Sequence[Incoming]) -> list[Message]:
        """Send and receive at the same time, whatever the sizes: it waits for what it receives, never for who takes what it sends.

        The arrays may be written to when it returns.

        Returns:
            What arrived, in the order of `receives`.
        """
        ...

    def barrier(self) -> None:
        """Wait until every rank has called it as often."""
        ...

    def symmetric(self, shape: int | Sequence[int], dtype: npt.DTypeLike) -> tuple[Array, ...]:
        """Arrays of zeros, one of each rank, that all ranks may read and write; all ranks ask for the same, in the same order.

        Their memory is given back when the run ends.

        Raises:
            TransportError: the transport cannot share memory, or there is none left.
        """
        ...

    def report(self, value: Any) -> None:
        """Hand an object to the `progress` of `launch` while the run goes on.  Only rank 0 is heard."""
        ...

    def abort(self, reason: str) -> NoReturn:
        """End the run on every rank.

        Raises:
            TransportError: always.
        """
        ...
