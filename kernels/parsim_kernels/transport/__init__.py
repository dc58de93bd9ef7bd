"""How ranks talk point to point.  Only lockstep is here: all ranks in one process, a message waits in a mailbox until it is taken."""

from __future__ import annotations

from collections import deque

from parsim_kernels.signature import Array


class Lockstep:
    """Mailboxes by receiving rank and name; messages of one name arrive in the order in which they were sent.

    >>> import numpy as np
    >>> transport = Lockstep()
    >>> transport.post(1, "x", np.array([7.0]))
    >>> transport.take(1, "x"), transport.take(1, "x")
    (array([7.]), None)
    """

    __slots__ = ("_boxes",)

    def __init__(self) -> None:
        """Empty mailboxes."""
        self._boxes: dict[tuple[int, str], deque[Array]] = {}

    def post(self, dst: int, name: str, array: Array) -> None:
        """Send a copy of the array, so the sender may write to its own at once."""
        self._boxes.setdefault((dst, name), deque()).append(array.copy())

    def take(self, dst: int, name: str) -> Array | None:
        """The oldest message of that name, or None where nothing has arrived."""
        box = self._boxes.get((dst, name))
        return box.popleft() if box else None

    def num_waiting(self) -> int:
        """Messages sent and not taken: 0 at the end of a correct run."""
        return sum(len(box) for box in self._boxes.values())
